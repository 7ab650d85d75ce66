// Custom images: a pad to draw on with mouse, finger or keys, and a field for image files. Both are
// converted to inputs of the network; for drawings, the page shows the steps of the conversion.
import { paintImage } from "./colors.js";
import { likeMnist, toSize } from "./digit.js";
import { element, oncePerFrame, positionOn } from "./dom.js";

const PAD = 280; // size of the pad in pixels, ten per pixel of MNIST
const PEN = 22; // width of the pen in pixels
const MAX_SIDE = 1024; // pixels; larger image files are reduced
export const DRAWING = "your drawing";

/**
 * The elements {pad, clear, steps, file}, and `forget()`, which hides the steps. `receive(values,
 * name)` is called with an input of the network, or with (null, name) when the pad is cleared. `box`
 * is null if the images are not drawings; then there are no pad, clear and steps.
 */
export function imageInputs({ box, fit, shape: [channels, height, width] }, receive) {
  const steps = box ? stepsOf(box) : null;

  /** Converts an image, given by channel, and passes it to `receive`; returns false if it is blank. */
  function submit(planes, name) {
    if (box) {
      const images = likeMnist(planes[0], box);
      if (images === null) return false;
      receive(Float32Array.from({ length: channels * 784 }, (_, i) => images.digit.values[i % 784]), name);
      steps.show(images);
      return true;
    }
    let low = 1, high = 0;
    for (const { values } of planes) for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (high - low < 0.02) return false;
    receive(Float32Array.from(planes.flatMap((plane) => Array.from(toSize(plane, height, width, fit).values))), name);
    return true;
  }

  const drawing = box ? drawingPad((gray) => (gray ? submit([gray], DRAWING) : (receive(null, DRAWING), steps.forget()))) : {};
  return { pad: drawing.pad, clear: drawing.clear, steps: steps?.root, forget: () => steps?.forget(),
    file: fileField(box ? 1 : channels, submit, (name) => receive(null, name)) };
}

/** Three small pictures of the conversion of a drawing. */
function stepsOf(box) {
  const canvases = ["cropped", `scaled to ${box} pixels`, "centered by mass"].map((text) =>
    element("canvas", { role: "img", "aria-label": text }));
  const root = element("div", { class: "steps", hidden: true }, ...canvases.map((canvas) =>
    element("figure", {}, canvas, element("figcaption", {}, canvas.getAttribute("aria-label")))));
  return {
    root,
    show({ crop, scaled, digit }) {
      root.hidden = false;
      [crop, scaled, digit].forEach(({ height, width, values }, i) =>
        paintImage(canvases[i], values, { shape: [1, height, width], low: 0, high: 1, isInk: true }));
    },
    forget: () => (root.hidden = true),
  };
}

/** The pad and its Clear button; calls `receive` with a gray image while drawing, null when cleared. */
function drawingPad(receive) {
  const canvas = element("canvas", { width: PAD, height: PAD, class: "pad", tabindex: 0, role: "application",
    "aria-label": "Pad: draw a digit with the mouse or a finger. With keys: arrows move the pen, the space bar lowers or lifts it." });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pen = {};
  const mark = element("span", { class: "pen", hidden: true }); // the pen's position, if moved by keys
  const status = element("p", { class: "note", role: "status" });
  let isEmpty = true;

  const read = oncePerFrame(() => {
    if (isEmpty) return;
    const pixels = context.getImageData(0, 0, PAD, PAD).data;
    receive({ height: PAD, width: PAD, values: Float32Array.from({ length: PAD * PAD }, (_, i) => pixels[4 * i] / 255) });
  });

  function clear() {
    isEmpty = true;
    Object.assign(pen, { x: PAD / 2, y: PAD / 2, isDown: false });
    context.fillStyle = "white";
    context.fillRect(0, 0, PAD, PAD);
  }

  function stroke(x, y) {
    isEmpty = false;
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

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    [pen.x, pen.y] = positionOn(canvas, event);
    pen.isDown = true;
    mark.hidden = true;
    stroke(pen.x, pen.y);
  });
  canvas.addEventListener("pointermove", (event) => pen.isDown && event.buttons && stroke(...positionOn(canvas, event)));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (pen.isDown = false));
  canvas.addEventListener("blur", () => (mark.hidden = true));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] }[event.key];
    if (event.key === " ") pen.isDown = !pen.isDown;
    else if (!step) return;
    event.preventDefault();
    const limit = (v) => Math.max(PEN, Math.min(PAD - PEN, v));
    const [x, y] = step ? [limit(pen.x + step[0]), limit(pen.y + step[1])] : [pen.x, pen.y];
    if (pen.isDown) stroke(x, y);
    else Object.assign(pen, { x, y });
    mark.hidden = false;
    mark.classList.toggle("down", pen.isDown);
    mark.style.left = `${(100 * x) / PAD}%`;
    mark.style.top = `${(100 * y) / PAD}%`;
    status.textContent = `The pen is ${pen.isDown ? "down" : "up"}, at column ${Math.round(x / 10)} and row ${Math.round(y / 10)} of 28.`;
  });
  clear();
  const button = element("button", { type: "button", onclick: () => (clear(), receive(null)) }, "Clear");
  return { pad: element("div", {}, element("div", { class: "paper" }, canvas, mark), status), clear: button };
}

/** A field for an image file, which may also be dropped on the page; `reject(name)` is called for a bad one. */
function fileField(channels, submit, reject) {
  const status = element("span", { class: "note", role: "status" });
  const field = element("input", { type: "file", accept: "image/*", id: "file", onchange: () => field.files[0] && read(field.files[0]) });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  });

  async function read(file) {
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (bitmap === null) status.textContent = `${file.name} cannot be read as an image.`;
    else status.textContent = submit(planesOf(bitmap, channels), file.name) ? "" : `${file.name} is blank: all pixels have the same color.`;
    if (status.textContent) reject(file.name);
  }
  return element("p", { class: "file" }, element("label", { for: "file" }, "or an image file: choose one, or drop it on the page "), field, status);
}

/** The channels of a bitmap on a white background, as images: gray, or red, green and blue. */
function planesOf(bitmap, channels) {
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const gray = (i) => (299 * data[4 * i] + 587 * data[4 * i + 1] + 114 * data[4 * i + 2]) / 255000;
  return Array.from({ length: channels }, (_, c) => ({ height, width,
    values: Float32Array.from({ length: width * height }, (_, i) => (channels === 1 ? gray(i) : data[4 * i + c] / 255)) }));
}
