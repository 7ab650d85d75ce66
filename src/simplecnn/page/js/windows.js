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

/**
 * The windows of cell (row, column) of tensor `index` in all tensors up to it; tensor 0 is the image.
 * A window is {rows: [first, last], columns: [first, last]}, clipped at the borders.
 */
export function receptiveField(network, shapes, index, row, column) {
  const windows = [{ rows: [row, row], columns: [column, column] }];
  for (let i = index; i > 0; i--) {
    const layer = network[i - 1], [, height, width] = shapes[i - 1], [output] = windows;
    const inputRange = (axis, [first, last], size) => [
      Math.max(0, windowOf(layer, axis, first, size)[0]), Math.min(size - 1, windowOf(layer, axis, last, size)[1])];
    windows.unshift({ rows: inputRange(0, output.rows, height), columns: inputRange(1, output.columns, width) });
  }
  return windows;
}
