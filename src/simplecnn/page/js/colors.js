// Colors of values. "signed": red is positive, blue is negative, zero is white; "positive": viridis.
import { bytes } from "./arrays.js";

const tables = {};

/** Sets the palettes of the page, each of 256 colors of three bytes, in base64. */
export function setPalettes(encoded) {
  for (const [name, text] of Object.entries(encoded)) {
    const source = bytes(text);
    // Canvas pixels: red is the lowest byte, opacity the highest.
    tables[name] = Uint32Array.from({ length: 256 }, (_, i) =>
      (255 << 24) | (source[3 * i + 2] << 16) | (source[3 * i + 1] << 8) | source[3 * i]);
  }
}

/** The scale of values, {palette, limit}; signed if any value is negative. */
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

/** The color of a value on a scale, as a canvas pixel. */
export function pixel(value, { palette, limit }) {
  const share = palette === "signed" ? 0.5 + value / (2 * limit) : value / limit;
  return tables[palette][Math.max(0, Math.min(255, Math.round(255 * share)))];
}

/** The color of a value on a scale, for CSS. */
export function css(value, scale) {
  const p = pixel(value, scale);
  return `rgb(${p & 255}, ${(p >> 8) & 255}, ${(p >> 16) & 255})`;
}

/**
 * Paints tiles of `height` x `width` values on `pixels`, rows of `stride` pixels; each value is a
 * square of `zoom` pixels. A tile is {values, offset of its first value, left, top}.
 */
export function paintTiles(pixels, stride, tiles, height, width, zoom, scale) {
  const table = tables[scale.palette], isSigned = scale.palette === "signed";
  const factor = 255 / (isSigned ? 2 * scale.limit : scale.limit), zero = isSigned ? 128 : 0.5;
  for (const { values, offset, left, top } of tiles) {
    for (let row = 0; row < height; row++) {
      const start = (top + row * zoom) * stride + left;
      let to = start;
      for (let column = 0; column < width; column++) {
        const color = table[Math.max(0, Math.min(255, zero + factor * values[offset + row * width + column])) | 0];
        for (const end = to + zoom; to < end; to++) pixels[to] = color;
      }
      for (let line = 1; line < zoom; line++)
        pixels.copyWithin(start + line * stride, start, start + width * zoom);
    }
  }
}

/**
 * Paints an image on a canvas, which is resized to it. The last argument describes its values:
 * {shape: [C, H, W], low, high, isInk}; ink is drawn dark on white paper.
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
