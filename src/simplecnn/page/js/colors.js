// Values as colors. Red is positive, blue is negative, zero is white; viridis is from zero up.
import { bytes } from "./arrays.js";

const tables = {};

/** Takes the palettes of the page: 256 colors each, three bytes a color. */
export function setPalettes(encoded) {
  for (const [name, text] of Object.entries(encoded)) {
    const source = bytes(text);
    // As canvas pixels: red is the lowest byte, the highest is opaque.
    tables[name] = Uint32Array.from({ length: 256 }, (_, i) =>
      (255 << 24) | (source[3 * i + 2] << 16) | (source[3 * i + 1] << 8) | source[3 * i]);
  }
}

/** A scale of values: {palette, limit}; signed where a value is below zero. */
export function scaleOf(values) {
  let low = 0, high = 0;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low < 0
    ? { palette: "signed", limit: Math.max(high, -low) || 1 }
    : { palette: "positive", limit: high || 1 };
}

/** The canvas pixel of a value on a scale. */
export function pixel(value, { palette, limit }) {
  const share = palette === "signed" ? 0.5 + value / (2 * limit) : value / limit;
  return tables[palette][Math.max(0, Math.min(255, Math.round(255 * share)))];
}

/** The same for CSS. */
export function css(value, scale) {
  const p = pixel(value, scale);
  return `rgb(${p & 255}, ${(p >> 8) & 255}, ${(p >> 16) & 255})`;
}

/**
 * Paints tiles of `height` x `width` values on pixels `across` wide, each value `zoom` a side.
 * `tiles` are {values, offset, left, top}: where a tile's values begin, and where it is painted.
 */
export function paintTiles(pixels, across, tiles, height, width, zoom, scale) {
  const table = tables[scale.palette], isSigned = scale.palette === "signed";
  const factor = 255 / (isSigned ? 2 * scale.limit : scale.limit), zero = isSigned ? 128 : 0.5;
  for (const { values, offset, left, top } of tiles) {
    for (let row = 0; row < height; row++) {
      const start = (top + row * zoom) * across + left;
      let to = start;
      for (let column = 0; column < width; column++) {
        const color = table[Math.max(0, Math.min(255, zero + factor * values[offset + row * width + column])) | 0];
        for (const end = to + zoom; to < end; to++) pixels[to] = color;
      }
      for (let line = 1; line < zoom; line++)
        pixels.copyWithin(start + line * across, start, start + width * zoom);
    }
  }
}

/**
 * Paints an image on a canvas of its size. `images` says what its values are: {shape: [C, H, W],
 * low, high, isInk}; ink is dark on light paper, whatever else is shown as it is.
 */
export function paintImage(canvas, values, { shape: [channels, height, width], low, high, isInk }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const size = height * width;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      const share = (values[channels === 3 ? c * size + i : i] - low) / (high - low);
      image.data[4 * i + c] = 255 * (isInk ? 1 - share : share);
    }
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
