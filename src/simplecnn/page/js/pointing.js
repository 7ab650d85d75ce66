// The explanation of one cell of a map: its value, its receptive field, and how it is computed.
import { digits } from "./arrays.js";
import { css } from "./colors.js";
import { element, table } from "./dom.js";
import { isEmpty, receptiveField, windowOf } from "./windows.js";

const MAX_TERMS = 6; // strongest inputs in the table

/** Names a cell: "channel 3, row 2, column 5", or "unit 3" if the layer is dense. */
function cellName([, rows, columns], channel, row, column) {
  return rows * columns === 1 ? `unit ${channel}` : `channel ${channel}, row ${row}, column ${column}`;
}

/** All products that are summed for a cell of a convolution or linear layer. */
function termsOf(network, tensors, index, channel, row, column) {
  const layer = network[index - 1], input = tensors[index - 1], { weight } = layer.weights;
  if (layer.kind === "linear") {
    // After a flatten, inputs are cells of the maps before it.
    const maps = network[index - 2]?.kind === "flatten" ? tensors[index - 2] : input;
    const [, rows, columns] = maps.shape;
    return Array.from(input.values, (value, i) => ({
      channel: Math.floor(i / (rows * columns)), row: Math.floor((i % (rows * columns)) / columns), column: i % columns,
      value, weight: weight.values[channel * input.values.length + i], shape: maps.shape }));
  }
  const [, perGroup, kernelRows, kernelColumns] = weight.shape;
  const [, rows, columns] = input.shape;
  const firstChannel = Math.floor((channel * layer.groups) / layer.shape[0]) * perGroup;
  const top = windowOf(layer, 0, row, rows)[0], left = windowOf(layer, 1, column, columns)[0];
  const terms = [];
  for (let c = 0; c < perGroup; c++) {
    for (let ky = 0; ky < kernelRows; ky++) {
      for (let kx = 0; kx < kernelColumns; kx++) {
        const y = top + ky * layer.dilation[0], x = left + kx * layer.dilation[1];
        const inside = y >= 0 && y < rows && x >= 0 && x < columns;
        terms.push({ channel: firstChannel + c, row: y, column: x, inside, shape: input.shape,
          value: inside ? input.values[((firstChannel + c) * rows + y) * columns + x] : 0,
          weight: weight.values[((channel * perGroup + c) * kernelRows + ky) * kernelColumns + kx] });
      }
    }
  }
  return terms;
}

/** The explanation of a cell as elements; `names` are of the tensors, `name` is a class or null. */
export function explanation(network, tensors, names, index, channel, row, column, name) {
  const tensor = tensors[index], [, rows, columns] = tensor.shape;
  const value = tensor.values[(channel * rows + row) * columns + column];
  const shapes = tensors.map(({ shape }) => shape);
  const [field] = receptiveField(network, shapes, index, row, column);
  const [, height, width] = shapes[0];
  const span = ([first, last]) => (first === last ? `${first}` : `${first} to ${last}`);
  const size = (range) => range[1] - range[0] + 1;
  const isWhole = size(field.rows) === height && size(field.columns) === width;
  const sentence = index === 0 ? "" : isEmpty(field) ? " Its receptive field is only padding." : isWhole ? " Its receptive field is the whole image."
    : ` Inside the image, its receptive field is rows ${span(field.rows)} and columns ${span(field.columns)} (${size(field.rows)} x ${size(field.columns)} pixels).`;
  return [
    element("p", { class: "cell" }, element("b", {}, names[index]), `, ${cellName(tensor.shape, channel, row, column)}${name === null ? "" : ` (class ${name})`}: `,
      element("b", {}, digits(value)), `.${sentence}`),
    ...(index === 0 ? [] : origin(network, tensors, names, index, channel, row, column, value)),
  ];
}

function origin(network, tensors, names, index, channel, row, column, value) {
  const layer = network[index - 1], input = tensors[index - 1], [, rows, columns] = input.shape;
  if (layer.kind === "convolution" || layer.kind === "linear") {
    const terms = termsOf(network, tensors, index, channel, row, column);
    const bias = layer.weights.bias?.values[channel] ?? 0;
    const [, perGroup, kernelRows, kernelColumns] = layer.weights.weight.shape;
    const sum = element("p", {}, `The sum of all ${terms.length} products is ${digits(value - bias)}; with the bias ${digits(bias)} it is ${digits(value)}.`);
    if (layer.kind === "convolution" && perGroup <= 3 && kernelRows * kernelColumns <= 49 && input.shape[0] <= 3)
      return [products(terms, perGroup, kernelRows, kernelColumns), sum];
    return [strongest(terms, names[index - (network[index - 2]?.kind === "flatten" && layer.kind === "linear" ? 2 : 1)]), sum];
  }
  const inputAt = (y, x) => input.values[(channel * rows + y) * columns + x];
  if (layer.kind.endsWith("pool") && layer.kind !== "blur_pool") {
    const [top, bottom] = windowOf(layer, 0, row, rows), [left, right] = windowOf(layer, 1, column, columns);
    const grid = [];
    for (let y = top; y <= bottom && grid.length < 8; y++) {
      const line = [];
      for (let x = left; x <= right && line.length < 8; x++) line.push(inputAt(y, x));
      grid.push(line);
    }
    const operation = layer.kind.endsWith("max_pool") ? "The maximum" : "The mean";
    return [numbers(grid, "the window"), element("p", {}, `${operation} of rows ${top} to ${bottom} and columns ${left} to ${right} of this map.`)];
  }
  const sentence = {
    blur_pool: () => "The 2 x 2 maxima at nine neighboring pixels, averaged with weights 1-2-1 in both directions.",
    crop: () => "A pixel of the enlarged crop, interpolated from 4 x 4 pixels of the image.",
    scale: () => `${digits(inputAt(row, column))} times the factor plus the shift of this channel (batch norm or normalization).`,
  }[layer.kind] ?? (() => `${layer.kind.replace("_", " ")} of ${digits(inputAt(row, column))}.`);
  return [element("p", {}, sentence())];
}

/** Patch, kernel and products of a cell of the first layer, a row per channel. */
function products(terms, channels, kernelRows, kernelColumns) {
  const parts = [["patch", (t) => (t.inside ? t.value : null)], ["× kernel", (t) => t.weight], ["= products", (t) => t.value * t.weight]];
  return element("div", { class: "products" }, ...Array.from({ length: channels }, (_, c) => parts.map(([name, of], part) => {
    const rows = Array.from({ length: kernelRows }, (_, y) => Array.from({ length: kernelColumns }, (_, x) =>
      of(terms[(c * kernelRows + y) * kernelColumns + x])));
    const caption = part === 0 && channels > 1 ? `${name}, ${["red", "green", "blue"][c]}` : name;
    return numbers(rows, caption);
  })).flat());
}

/** A small table of numbers, colored by value; null is padding. */
function numbers(rows, caption) {
  const limit = Math.max(...rows.flat().map(Math.abs)) || 1;
  return element("table", { class: "numbers" }, element("caption", {}, caption), element("tbody", {}, ...rows.map((row) =>
    element("tr", {}, ...row.map((value) => {
      if (value === null) return element("td", { class: "padding" }, "pad");
      const cell = element("td", { class: Math.abs(value) > 0.55 * limit ? "strong" : null },
        digits(Math.abs(value) < 0.1 ? Number(value.toFixed(3)) : value, 2));
      cell.style.backgroundColor = css(value, { palette: "signed", limit });
      return cell;
    })))));
}

function strongest(terms, name) {
  const sorted = [...terms].sort((a, b) => Math.abs(b.value * b.weight) - Math.abs(a.value * a.weight));
  const place = ({ shape: [, rows, columns], channel, row, column }) =>
    (rows * columns === 1 ? `unit ${channel}` : `channel ${channel} at (${row}, ${column})`);
  return table([["strongest inputs", "value", "× weight", "= product"], ...sorted.slice(0, MAX_TERMS).map((t) =>
    [`${name} ${place(t)}`, digits(t.value), digits(t.weight), digits(t.value * t.weight)])],
  { class: "terms", "aria-label": "strongest inputs" });
}
