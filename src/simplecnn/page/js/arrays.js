// Decoding of arrays, and formatting of numbers.

/** Decodes base64. */
export function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Decodes base64 to numbers; `dtype` is "float32" or "float16", little endian. */
export function floats(text, dtype) {
  const buffer = bytes(text).buffer;
  if (dtype === "float32") return new Float32Array(buffer);
  return Float32Array.from(new Uint16Array(buffer), half);
}

/** The value of a float16, given as its bits: one of sign, five of exponent, ten of fraction. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Formats a number with `places` significant digits and a true minus sign. */
export function digits(value, places = 3) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5)
    ? value.toExponential(places - 1).replace(/\.?0+e/, "e")
    : String(Number(value.toPrecision(places)));
  return text.replaceAll("-", "−").replace("+", "");
}

export function percent(share, places = 1) {
  if (!Number.isFinite(share)) return "—"; // null if it was not finite in Python
  if (share >= 100) return `${digits(100 * share)}\u00a0%`;
  const rounded = Number((100 * share).toFixed(places));
  // With decimals, 100 % means certainty.
  if (places && share < 1 && rounded === 100) return `>\u00a0${(100 - 10 ** -places).toFixed(places)}\u00a0%`;
  return `${rounded.toFixed(places)}\u00a0%`;
}

/** The index closest to `index` in a list of `size` items. */
export function clampIndex(index, size) {
  return Math.max(0, Math.min(size - 1, index));
}

/** The index of the largest value. */
export function largest(values) {
  let index = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[index]) index = i;
  return index;
}
