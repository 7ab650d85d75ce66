// A pad to draw on with mouse, finger or keys, and what becomes of the drawing step by step.
import { paintImage } from "./colors.js";
import { likeMnist } from "./digit.js";
import { element, once } from "./dom.js";

export const PAD = 280; // pixels of the pad, ten to a pixel of MNIST
const PEN = 22; // pixels wide

/** The pad; `receive(digit)` gets 28 x 28 values, white on black, while one draws. */
export function drawingPad(receive) {
  const pad = element("canvas", { width: PAD, height: PAD, class: "pad", tabindex: 0, role: "application",
    "aria-label": "Pad: draw a digit with the mouse or a finger. With keys: arrows move the pen, the space bar puts it down or lifts it." });
  const context = pad.getContext("2d", { willReadFrequently: true });
  const pen = { x: PAD / 2, y: PAD / 2, isDown: false };
  const steps = ["cut out", "20 pixels high or wide", "center of mass in the middle"].map((text) => {
    const canvas = element("canvas", { width: 28, height: 28, role: "img", "aria-label": text });
    return { canvas, figure: element("figure", {}, canvas, element("figcaption", {}, text)) };
  });
  const words = element("p", { class: "note", role: "status" });

  const read = once(() => {
    const pixels = context.getImageData(0, 0, PAD, PAD).data;
    const values = new Float32Array(PAD * PAD);
    for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i] / 255;
    const made = likeMnist({ height: PAD, width: PAD, values });
    if (made === null) return;
    [made.crop, made.scaled, made.digit].forEach((image, i) =>
      paintImage(steps[i].canvas, image.values, [1, image.height, image.width], 0, 1));
    receive(made.digit.values, "your drawing");
  });

  function clear() {
    context.fillStyle = "white";
    context.fillRect(0, 0, PAD, PAD);
    steps.forEach(({ canvas }) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height));
  }

  function stroke(x, y) {
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "black";
    context.beginPath();
    context.moveTo(pen.x, pen.y);
    context.lineTo(x, y);
    context.stroke();
    Object.assign(pen, { x, y });
    read();
  }

  function place(event) {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * PAD, ((event.clientY - box.top) / box.height) * PAD];
  }

  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    [pen.x, pen.y] = place(event);
    pen.isDown = true;
    stroke(pen.x, pen.y);
  });
  pad.addEventListener("pointermove", (event) => pen.isDown && event.buttons && stroke(...place(event)));
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (pen.isDown = false));
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] }[event.key];
    if (event.key === " ") pen.isDown = !pen.isDown;
    else if (!step) return;
    event.preventDefault();
    const limit = (v) => Math.max(PEN, Math.min(PAD - PEN, v));
    const [x, y] = step ? [limit(pen.x + step[0]), limit(pen.y + step[1])] : [pen.x, pen.y];
    if (pen.isDown) stroke(x, y);
    else Object.assign(pen, { x, y });
    words.textContent = `The pen is ${pen.isDown ? "down" : "up"}, at ${Math.round(x / 10)} across and ${Math.round(y / 10)} down of 28.`;
  });
  clear();
  return element("div", { class: "drawing" }, pad,
    element("div", {}, element("button", { type: "button", onclick: clear }, "Clear"), words),
    element("div", { class: "steps" }, ...steps.map(({ figure }) => figure)));
}

/** A field for an image file, which may also be dropped on the page. */
export function fileField(data, receive) {
  const words = element("span", { class: "note", role: "status" });
  const field = element("input", { type: "file", accept: "image/*", id: "file", onchange: () => field.files[0] && take(field.files[0]) });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });

  async function take(file) {
    try {
      const bitmap = await createImageBitmap(file);
      words.textContent = "";
      receive(data.draws ? digitOf(bitmap) : fittedTo(bitmap, data.images), file.name);
    } catch {
      words.textContent = `${file.name} is not an image that can be read, or all of it has one color.`;
    }
  }
  return element("p", { class: "file" }, element("label", { for: "file" }, "or an image file: choose one, or drop it on the page "), field, words);
}

/** Pixels of a bitmap on white, [red, green, blue, …], drawn at a size. */
function pixelsOf(bitmap, width, height, crop = [0, 0, bitmap.width, bitmap.height]) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, ...crop, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

const grayOf = (pixels, i) => (299 * pixels[4 * i] + 587 * pixels[4 * i + 1] + 114 * pixels[4 * i + 2]) / 255000;

function digitOf(bitmap) {
  const scale = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
  const pixels = pixelsOf(bitmap, width, height);
  return likeMnist({ height, width, values: Float32Array.from({ length: width * height }, (_, i) => grayOf(pixels, i)) }).digit.values;
}

/** The middle of a bitmap, as large as the run's images. */
function fittedTo(bitmap, { shape: [channels, height, width], low, high }) {
  const scale = Math.min(bitmap.width / width, bitmap.height / height);
  const across = width * scale, down = height * scale;
  const pixels = pixelsOf(bitmap, width, height, [(bitmap.width - across) / 2, (bitmap.height - down) / 2, across, down]);
  const size = height * width;
  return Float32Array.from({ length: channels * size }, (_, i) => {
    const share = channels === 1 ? grayOf(pixels, i) : pixels[4 * (i % size) + Math.floor(i / size)] / 255;
    return low + share * (high - low);
  });
}
