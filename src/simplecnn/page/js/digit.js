// Preprocessing of drawings and files, the same as that of `predict` in Python.
// An image is {height, width, values}, with values from 0 (black) to 1 (white).

/**
 * Converts a drawing to 28 x 28, white on black, the ink fitted into a square of `box` pixels.
 * Returns the intermediate images {crop, scaled, digit}; null if all pixels have the same color.
 */
export function likeMnist(gray, box) {
  const ink = onBlack(gray);
  if (ink === null) return null;
  if (ink.height === 28 && ink.width === 28) return { crop: ink, scaled: ink, digit: ink };
  const background = median(borderOf(ink));
  const spread = Math.max(maximum(ink.values) - background, 1e-6);
  const values = ink.values.map((v) => Math.min(1, Math.max(0, (v - background) / spread)));
  const resized = resize({ ...ink, values }, 28, 28);
  if (isCentered(resized, box)) return { crop: ink, scaled: resized, digit: resized };
  const crop = cropToInk({ ...ink, values }, 0.2);
  const scale = box / Math.max(crop.height, crop.width);
  const scaled = resize(crop, Math.max(1, roundHalfEven(crop.height * scale)), Math.max(1, roundHalfEven(crop.width * scale)));
  const peak = maximum(scaled.values);
  scaled.values = scaled.values.map((v) => v / peak);
  // Move the center of mass to the middle, as far as there is room.
  const [row, column] = centerOf(scaled);
  const start = (center, size) => Math.min(28 - size, Math.max(0, roundHalfEven(14 - center)));
  const digit = padOnto(28, 28, scaled, start(row, scaled.height), start(column, scaled.width));
  return { crop, scaled, digit };
}

/** Converts a channel of a file to the size of the run's images by data.fit; resizes if it is null. */
export function toSize(image, height, width, fit) {
  if (image.height === height && image.width === width) return image;
  if (!fit) return resize(image, height, width);
  if (fit === "stretch") return resize(image, height, width, { isBox: false });
  if (fit === "crop") return resize(image, height, width, { isBox: false, middle: Math.min(image.height, image.width) });
  const longest = Math.max(image.height, image.width);
  const [rows, columns] = [image.height, image.width].map((side) => Math.max(1, roundHalfEven((height * side) / longest)));
  const resized = resize(image, rows, columns, { isBox: false });
  return padOnto(height, width, resized, (height - rows) >> 1, (width - columns) >> 1);
}

/** Places an image on a black one. */
function padOnto(height, width, image, top, left) {
  const values = new Float32Array(height * width);
  for (let y = 0; y < image.height; y++)
    values.set(image.values.subarray(y * image.width, (y + 1) * image.width), (top + y) * width + left);
  return { height, width, values };
}

/** Whether a 28 x 28 digit already fills its box and is centered. */
function isCentered(digit, box) {
  const { height, width } = cropToInk(digit, 0.2 * maximum(digit.values));
  return Math.abs(Math.max(height, width) - box) <= 1 && centerOf(digit).every((c) => Math.abs(c - 14) <= 1);
}

/** Row and column of the center of mass. */
function centerOf({ width, values }) {
  let mass = 0, rows = 0, columns = 0;
  values.forEach((v, i) => {
    mass += v;
    rows += v * Math.floor(i / width);
    columns += v * (i % width);
  });
  return [rows / mass, columns / mass];
}

/** Inverts an image whose border is light; null if all pixels have the same color. */
function onBlack({ height, width, values }) {
  let low = Infinity, high = -Infinity;
  for (const v of values) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (high - low < 0.02) return null;
  const isLight = median(borderOf({ height, width, values })) > (low + high) / 2;
  return { height, width, values: isLight ? values.map((v) => 1 - v) : values };
}

/** The values of the outermost rows and columns, the corners twice. */
function borderOf({ height, width, values }) {
  const border = [];
  for (let x = 0; x < width; x++) border.push(values[x], values[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) border.push(values[y * width], values[y * width + width - 1]);
  return Float32Array.from(border);
}

/** Crops an image to the bounding box of all values above a limit. */
function cropToInk({ height, width, values }, limit) {
  let top = height, bottom = -1, left = width, right = -1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (values[y * width + x] <= limit) continue;
      top = Math.min(top, y);
      bottom = y;
      left = Math.min(left, x);
      right = Math.max(right, x);
    }
  }
  const crop = { height: bottom - top + 1, width: right - left + 1 };
  crop.values = new Float32Array(crop.height * crop.width);
  for (let y = 0; y < crop.height; y++)
    crop.values.set(values.subarray((top + y) * width + left, (top + y) * width + right + 1), y * crop.width);
  return crop;
}

/**
 * Resizes an image, first horizontally, then vertically, as Pillow does: by box means, by default if
 * it shrinks, else linearly. `middle`: use only this many pixels in the middle.
 */
function resize(image, height, width, { isBox = height * width < image.height * image.width, middle } = {}) {
  const columns = weightsOf(image.width, width, isBox, middle), rows = weightsOf(image.height, height, isBox, middle);
  const narrowed = new Float32Array(image.height * width);
  for (let y = 0; y < image.height; y++) {
    columns.forEach(({ first, weights }, x) => {
      let sum = 0;
      weights.forEach((w, i) => (sum += w * image.values[y * image.width + first + i]));
      narrowed[y * width + x] = sum;
    });
  }
  const values = new Float32Array(height * width);
  rows.forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      weights.forEach((w, i) => (sum += w * narrowed[(first + i) * width + x]));
      values[y * width + x] = sum;
    }
  });
  return { height, width, values };
}

/** For each output position of one axis: the first input position that is read, and the weights. */
function weightsOf(size, outputSize, isBox, middle = size) {
  const scale = middle / outputSize, spread = Math.max(1, scale), support = (isBox ? 0.5 : 1) * spread;
  return Array.from({ length: outputSize }, (_, position) => {
    const center = (size - middle) / 2 + (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(size, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) {
      const distance = (i - center + 0.5) / spread;
      weights.push(isBox ? Number(distance > -0.5 && distance <= 0.5) : Math.max(0, 1 - Math.abs(distance)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => w / sum) };
  });
}

/** Rounds like Python: halves to the nearest even integer. */
function roundHalfEven(value) {
  return Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** Like Math.max(...values), but for any number of values. */
function maximum(values) {
  let result = -Infinity;
  for (const value of values) if (value > result) result = value;
  return result;
}

function median(values) {
  values.sort();
  const half = values.length >> 1;
  return values.length % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}
