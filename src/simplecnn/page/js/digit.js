// What is done to a drawing or a file before the network sees it, as `predict` does it in Python.
// An image is {height, width, values}, its values 0 (black) to 1.

/**
 * Steps from an image to 28 x 28, white on black, the ink fitted into a square of `box` pixels.
 * Gives {crop, scaled, digit}, or null where all of it has one color.
 */
export function likeMnist(gray, box) {
  const ink = onBlack(gray);
  if (ink === null) return null;
  if (ink.height === 28 && ink.width === 28) return { crop: ink, scaled: ink, digit: ink };
  const paper = median(borderOf(ink));
  const spread = Math.max(maximum(ink.values) - paper, 1e-6);
  const values = ink.values.map((v) => Math.min(1, Math.max(0, (v - paper) / spread)));
  const whole = resize({ ...ink, values }, 28, 28);
  if (isLaidOut(whole, box)) return { crop: ink, scaled: whole, digit: whole };
  const crop = cutOut({ ...ink, values }, 0.2);
  const scale = box / Math.max(crop.height, crop.width);
  const scaled = resize(crop, Math.max(1, even(crop.height * scale)), Math.max(1, even(crop.width * scale)));
  const peak = maximum(scaled.values);
  scaled.values = scaled.values.map((v) => v / peak);
  // The center of mass goes to the middle, as far as there is room.
  const [down, along] = centerOf(scaled);
  const place = (center, size) => Math.min(28 - size, Math.max(0, even(14 - center)));
  const digit = onto(28, 28, scaled, place(down, scaled.height), place(along, scaled.width));
  return { crop, scaled, digit };
}

/** A channel of an image file as large as the run's images; `fit` as in data.fit, null: resized. */
export function toSize(image, height, width, fit) {
  if (image.height === height && image.width === width) return image;
  if (!fit) return resize(image, height, width);
  if (fit === "stretch") return resize(image, height, width, { isBox: false });
  if (fit === "crop") return resize(image, height, width, { isBox: false, middle: Math.min(image.height, image.width) });
  const longest = Math.max(image.height, image.width);
  const [down, along] = [image.height, image.width].map((side) => Math.max(1, even((height * side) / longest)));
  const whole = resize(image, down, along, { isBox: false });
  return onto(height, width, whole, (height - down) >> 1, (width - along) >> 1);
}

/** An image laid on black. */
function onto(height, width, image, top, left) {
  const values = new Float32Array(height * width);
  for (let y = 0; y < image.height; y++)
    values.set(image.values.subarray(y * image.width, (y + 1) * image.width), (top + y) * width + left);
  return { height, width, values };
}

/** Whether a digit of 28 x 28 fills its box and lies in the middle already. */
function isLaidOut(digit, box) {
  const { height, width } = cutOut(digit, 0.2 * maximum(digit.values));
  return Math.abs(Math.max(height, width) - box) <= 1 && centerOf(digit).every((c) => Math.abs(c - 14) <= 1);
}

/** Row and column of the center of mass. */
function centerOf({ width, values }) {
  let mass = 0, down = 0, along = 0;
  values.forEach((v, i) => {
    mass += v;
    down += v * Math.floor(i / width);
    along += v * (i % width);
  });
  return [down / mass, along / mass];
}

/** Black and white swapped where the border is the lighter part; null where there is one color. */
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

/** The values of the outermost rows and columns; those of the corners twice. */
function borderOf({ height, width, values }) {
  const border = [];
  for (let x = 0; x < width; x++) border.push(values[x], values[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) border.push(values[y * width], values[y * width + width - 1]);
  return Float32Array.from(border);
}

/** The smallest part of an image that holds everything above a limit. */
function cutOut({ height, width, values }, limit) {
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
 * Another size: along the rows, then down. By means of boxes, where it shrinks if nothing is said,
 * else linear. `middle`: only so many pixels in the middle become the new image.
 */
function resize(image, height, width, { isBox = height * width < image.height * image.width, middle } = {}) {
  const along = weightsOf(image.width, width, isBox, middle), down = weightsOf(image.height, height, isBox, middle);
  const between = new Float32Array(image.height * width);
  for (let y = 0; y < image.height; y++) {
    along.forEach(({ first, weights }, x) => {
      let sum = 0;
      weights.forEach((w, i) => (sum += w * image.values[y * image.width + first + i]));
      between[y * width + x] = sum;
    });
  }
  const values = new Float32Array(height * width);
  down.forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      weights.forEach((w, i) => (sum += w * between[(first + i) * width + x]));
      values[y * width + x] = sum;
    }
  });
  return { height, width, values };
}

/** For each place along the new side: the first place of the old one that counts, and the weights. */
function weightsOf(before, after, isBox, middle = before) {
  const scale = middle / after, spread = Math.max(1, scale), support = (isBox ? 0.5 : 1) * spread;
  return Array.from({ length: after }, (_, place) => {
    const center = (before - middle) / 2 + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(before, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) {
      const distance = (i - center + 0.5) / spread;
      weights.push(isBox ? Number(distance > -0.5 && distance <= 0.5) : Math.max(0, 1 - Math.abs(distance)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => w / sum) };
  });
}

/** The nearest whole number; of two as near the even one, as Python rounds. */
function even(value) {
  const whole = Math.round(value);
  return Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : whole;
}

function maximum(values) {
  let most = -Infinity;
  for (const value of values) if (value > most) most = value;
  return most;
}

function median(values) {
  values.sort();
  const half = values.length >> 1;
  return values.length % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}
