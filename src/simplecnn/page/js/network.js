// The forward pass in plain loops. A tensor is {shape: [channels, rows, columns], values}.
import { clampIndex, floats } from "./arrays.js";

const OPERATIONS = {
  convolution, linear, scale, crop, flatten: (input, layer) => ({ shape: layer.shape, values: input.values }),
  max_pool: pool, average_pool: pool, adaptive_max_pool: pool, adaptive_average_pool: pool,
  blur_pool: blurPool,
};

const ACTIVATIONS = {
  relu: () => (x) => (x > 0 ? x : 0),
  clamp: ({ low, high }) => (x) => Math.min(high, Math.max(low, x)),
  leaky_relu: ({ slope }) => (x) => (x > 0 ? x : slope * x),
  elu: ({ alpha }) => (x) => (x > 0 ? x : alpha * Math.expm1(x)),
  gelu: () => (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: () => (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: () => (x) => x / (1 + Math.exp(-x)),
  sigmoid: () => (x) => 1 / (1 + Math.exp(-x)),
  tanh: () => Math.tanh,
  softplus: ({ beta, threshold }) => (x) => (x * beta > threshold ? x : Math.log1p(Math.exp(beta * x)) / beta),
};

/** Decodes the layers in the page's data; their weights become Float32Arrays. */
export function readNetwork({ layers }) {
  return layers.map((layer) => {
    const decoded = {};
    for (const [name, { shape, weights, dtype }] of Object.entries(layer.weights))
      decoded[name] = { shape, values: floats(weights, dtype) };
    return { ...layer, weights: decoded };
  });
}

/** All tensors of a forward pass: the image, then the outputs of all layers; the last are the logits. */
export function runNetwork(network, image) {
  const tensors = [image];
  for (const layer of network) tensors.push(compute(layer, tensors[tensors.length - 1]));
  return tensors;
}

export function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - highest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function compute(layer, input) {
  if (layer.kind in ACTIVATIONS) {
    return { shape: layer.shape, values: input.values.map(ACTIVATIONS[layer.kind](layer)) };
  }
  return OPERATIONS[layer.kind](input, layer);
}

/** Each output map is a sum, over input maps and kernel positions, of weight x shifted map. */
function convolution(input, layer) {
  const [, rows, columns] = input.shape, { values } = input;
  const [outChannels, outRows, outColumns] = layer.shape;
  const { weight, bias } = layer.weights;
  const [, perGroup, kernelRows, kernelColumns] = weight.shape;
  const [strideY, strideX] = layer.stride, [padY, padX] = layer.padding, [stepY, stepX] = layer.dilation;
  const output = new Float32Array(outChannels * outRows * outColumns);
  for (let o = 0; o < outChannels; o++) {
    const target = o * outRows * outColumns;
    if (bias) output.fill(bias.values[o], target, target + outRows * outColumns);
    const firstChannel = Math.floor((o * layer.groups) / outChannels) * perGroup;
    for (let c = 0; c < perGroup; c++) {
      const source = (firstChannel + c) * rows * columns;
      for (let ky = 0; ky < kernelRows; ky++) {
        for (let kx = 0; kx < kernelColumns; kx++) {
          const w = weight.values[((o * perGroup + c) * kernelRows + ky) * kernelColumns + kx];
          const shiftY = ky * stepY - padY, shiftX = kx * stepX - padX;
          // Only outputs whose input is inside the map: the padding is zero.
          const firstX = Math.max(0, Math.ceil(-shiftX / strideX));
          const lastX = Math.min(outColumns - 1, Math.floor((columns - 1 - shiftX) / strideX));
          for (let y = 0; y < outRows; y++) {
            const row = y * strideY + shiftY;
            if (row < 0 || row >= rows) continue;
            const from = source + row * columns + shiftX, to = target + y * outColumns;
            for (let x = firstX; x <= lastX; x++) output[to + x] += w * values[from + x * strideX];
          }
        }
      }
    }
  }
  return { shape: layer.shape, values: output };
}

/** Each output is the weighted sum of all inputs. */
function linear(input, layer) {
  const { weight, bias } = layer.weights;
  const [outputs, inputs] = weight.shape;
  const values = new Float32Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let sum = bias ? bias.values[o] : 0;
    for (let i = 0; i < inputs; i++) sum += weight.values[o * inputs + i] * input.values[i];
    values[o] = sum;
  }
  return { shape: layer.shape, values };
}

/** Scales and shifts each channel: batch norm in eval mode, or a normalization. */
function scale(input, layer) {
  const size = input.values.length / layer.shape[0];
  const { factor, shift } = layer.weights;
  const last = factor.values.length - 1; // one factor for all channels, or one per channel
  const values = input.values.map((x, i) => {
    const channel = Math.min(last, Math.floor(i / size));
    return x * factor.values[channel] + shift.values[channel];
  });
  return { shape: layer.shape, values };
}

/** First and last row (axis 0) or column (axis 1) that a pool reads, without padding. */
export function poolRange(layer, axis, index, size) {
  if (layer.kind.startsWith("adaptive")) {
    const outputs = layer.shape[1 + axis];
    return [Math.floor((index * size) / outputs), Math.ceil(((index + 1) * size) / outputs) - 1];
  }
  const first = index * layer.stride[axis] - layer.padding[axis];
  return [Math.max(0, first), Math.min(size, first + layer.size[axis]) - 1];
}

/** Max or average pooling. */
function pool(input, layer) {
  const [, rows, columns] = input.shape;
  const takesMaximum = layer.kind.endsWith("max_pool");
  return tensorOf(layer.shape, (channel, y, x) => {
    const [top, bottom] = poolRange(layer, 0, y, rows), [left, right] = poolRange(layer, 1, x, columns);
    let result = takesMaximum ? -Infinity : 0;
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const value = input.values[(channel * rows + row) * columns + column];
        result = takesMaximum ? Math.max(result, value) : result + value;
      }
    }
    return takesMaximum ? result : result / divisor(layer, y, x, rows, columns);
  });
}

/** A tensor from a function of channel, row and column. */
function tensorOf(shape, valueAt) {
  const [channels, rows, columns] = shape;
  const values = new Float32Array(channels * rows * columns);
  let at = 0;
  for (let channel = 0; channel < channels; channel++)
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) values[at++] = valueAt(channel, row, column);
  return { shape, values };
}

/** The divisor of an average pool: torch counts the padding, but nothing beyond it. */
function divisor(layer, y, x, rows, columns) {
  const sides = [[y, rows], [x, columns]].map(([index, size], axis) => {
    const [first, last] = poolRange(layer, axis, index, size);
    if (layer.kind.startsWith("adaptive") || !layer.counts_padding) return last - first + 1;
    const start = index * layer.stride[axis] - layer.padding[axis];
    return Math.min(start + layer.size[axis], size + layer.padding[axis]) - start;
  });
  return sides[0] * sides[1];
}

/** BlurPool: 2 x 2 maxima with stride 1, then a 3 x 3 blur with stride. */
function blurPool(input, layer) {
  const [, rows, columns] = input.shape;
  const blur = [0.25, 0.5, 0.25];
  return tensorOf(layer.shape, (channel, y, x) => {
    const pixel = (row, column) => input.values[(channel * rows + row) * columns + column];
    let sum = 0;
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) {
        // The border is replicated.
        const row = clampIndex(y * layer.stride + i - 1, rows - 1), column = clampIndex(x * layer.stride + j - 1, columns - 1);
        const maximum = Math.max(pixel(row, column), pixel(row, column + 1),
          pixel(row + 1, column), pixel(row + 1, column + 1));
        sum += blur[i] * blur[j] * maximum;
      }
    }
    return sum;
  });
}

/** The four input positions, and their weights, of output `index` of a cubic interpolation. */
export function cubicTaps(layer, index, size) {
  const length = layer.last - layer.first;
  const position = ((index + 0.5) * length) / size - 0.5;
  const floor = Math.floor(position), t = position - floor, a = -0.75;
  const near = (d) => ((a + 2) * d - (a + 3)) * d * d + 1;
  const far = (d) => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  const weights = [far(t + 1), near(t), near(1 - t), far(2 - t)];
  return weights.map((weight, i) =>
    [layer.first + clampIndex(floor + i - 1, length), weight]);
}

/** Enlarges a crop to the size of the image; values that overshoot 0 to 1 are clamped. */
function crop(input, layer) {
  const [, rows, columns] = input.shape;
  const rowTaps = Array.from({ length: rows }, (_, y) => cubicTaps(layer, y, rows));
  const columnTaps = Array.from({ length: columns }, (_, x) => cubicTaps(layer, x, columns));
  return tensorOf(layer.shape, (channel, y, x) => {
    let sum = 0;
    for (const [row, rowWeight] of rowTaps[y])
      for (const [column, columnWeight] of columnTaps[x])
        sum += rowWeight * columnWeight * input.values[(channel * rows + row) * columns + column];
    return Math.max(0, Math.min(1, sum));
  });
}

/** The error function, with an error of at most 1.5e-7. Abramowitz and Stegun 7.1.26. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}
