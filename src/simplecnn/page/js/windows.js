// Receptive fields: the part of each earlier tensor on which a cell depends.
import { cubicTaps, poolRange } from "./network.js";

/** First and last row (axis 0) or column (axis 1) of its input that row `index` of a layer reads. */
export function windowOf(layer, axis, index, size) {
  switch (layer.kind) {
    case "convolution": {
      const first = index * layer.stride[axis] - layer.padding[axis];
      return [first, first + layer.dilation[axis] * (layer.weights.weight.shape[2 + axis] - 1)];
    }
    case "blur_pool":
      return [Math.max(0, index * layer.stride - 1), Math.min(size - 2, index * layer.stride + 1) + 1];
    case "crop": {
      const taps = cubicTaps(layer, index, size).filter(([, weight]) => weight !== 0);
      return [taps[0][0], taps[taps.length - 1][0]];
    }
    case "linear":
    case "flatten":
      return [0, size - 1];
    default:
      return layer.kind.endsWith("pool") ? poolRange(layer, axis, index, size) : [index, index];
  }
}

/** The rows or columns of its input, without padding, that the rows or columns `outputs` of a layer read. */
function inputsOf(layer, axis, outputs, size) {
  const step = layer.kind === "convolution" ? layer.dilation[axis] : 1;
  const inputs = new Set();
  for (const output of outputs) {
    const [first, last] = windowOf(layer, axis, output, size);
    for (let i = first; i <= last; i += step) if (i >= 0 && i < size) inputs.add(i);
  }
  return [...inputs];
}

/**
 * The windows of cell (row, column) of tensor `index` in all tensors up to it; tensor 0 is the image.
 * A window is {rows: [first, last], columns: [first, last]}, without padding; [0, -1] if all is padding.
 */
export function receptiveField(network, shapes, index, row, column) {
  const ends = (used) => (used.length ? [Math.min(...used), Math.max(...used)] : [0, -1]);
  const windows = [{ rows: [row, row], columns: [column, column] }];
  let used = [[row], [column]];
  for (let i = index; i > 0; i--) {
    const [, ...sizes] = shapes[i - 1];
    used = used.map((outputs, axis) => inputsOf(network[i - 1], axis, outputs, sizes[axis]));
    windows.unshift({ rows: ends(used[0]), columns: ends(used[1]) });
  }
  return windows;
}

/** Whether a window has no cells: only padding was read. */
export function isEmpty({ rows, columns }) {
  return rows[1] < rows[0] || columns[1] < columns[0];
}
