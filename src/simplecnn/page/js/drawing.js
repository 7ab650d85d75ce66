// Images of one's own: a pad to draw on with mouse, finger or keys, or a file. Both become what the
// network expects, and where that is a drawing, the page shows it step by step.
import { paintImage } from "./colors.js";
import { likeMnist, toSize } from "./digit.js";
import { element, once } from "./dom.js";

const PAD = 280; // pixels of the pad, ten to a pixel of MNIST
const PEN = 22; // pixels wide
const MAX_SIDE = 1024; // pixels of a file; larger ones are reduced
export const DRAWING = "your drawing";

/**
 * The parts {pad, clear, steps, file}, all but the last null where `box` is. `receive(values, name)`
 * gets what the network takes, and (null, name) when the pad is cleared; `forget()` empties the steps.
 */
export function imageInputs({ box, fit, shape: [channels, height, width] }, receive) {
  const shown = box ? stepsOf(box) : null;

  /** Takes images, one a channel, to the network; returns whether there is anything to see in them. */
  function take(planes, name) {
    if (box) {
      const made = likeMnist(planes[0], box);
      if (made === null) return false;
      receive(Float32Array.from({ length: channels * 784 }, (_, i) => made.digit.values[i % 784]), name);
      shown.show(made);
      return true;
    }
    let low = 1, high = 0;
    for (const { values } of planes) for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (high - low < 0.02) return false;
    receive(Float32Array.from(planes.flatMap((plane) => Array.from(toSize(plane, height, width, fit).values))), name);
    return true;
  }

  const drawing = box ? drawingPad((gray) => (gray ? take([gray], DRAWING) : (receive(null, DRAWING), shown.forget()))) : {};
  return { pad: drawing.pad, clear: drawing.clear, steps: shown?.root, forget: () => shown?.forget(),
    file: fileField(box ? 1 : channels, take) };
}

/** What becomes of a drawing: three small pictures. */
function stepsOf(box) {
  const canvases = ["cut out", `${box} pixels high or wide`, "center of mass in the middle"].map((text) =>
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

/** The pad and its Clear button; `receive(gray)` gets an image while one draws, null when cleared. */
function drawingPad(receive) {
  const canvas = element("canvas", { width: PAD, height: PAD, class: "pad", tabindex: 0, role: "application",
    "aria-label": "Pad: draw a digit with the mouse or a finger. With keys: arrows move the pen, the space bar puts it down or lifts it." });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pen = {};
  const mark = element("span", { class: "pen", hidden: true }); // where the keys have moved the pen
  const words = element("p", { class: "note", role: "status" });
  let isEmpty = true;

  const read = once(() => {
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

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * PAD, ((event.clientY - box.top) / box.height) * PAD];
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    [pen.x, pen.y] = place(event);
    pen.isDown = true;
    mark.hidden = true;
    stroke(pen.x, pen.y);
  });
  canvas.addEventListener("pointermove", (event) => pen.isDown && event.buttons && stroke(...place(event)));
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
    words.textContent = `The pen is ${pen.isDown ? "down" : "up"}, at ${Math.round(x / 10)} across and ${Math.round(y / 10)} down of 28.`;
  });
  clear();
  const button = element("button", { type: "button", onclick: () => (clear(), receive(null)) }, "Clear");
  return { pad: element("div", {}, element("div", { class: "paper" }, canvas, mark), words), clear: button };
}

/** A field for an image file, which may also be dropped on the page; `take` as above. */
function fileField(channels, take) {
  const words = element("span", { class: "note", role: "status" });
  const field = element("input", { type: "file", accept: "image/*", id: "file", onchange: () => field.files[0] && read(field.files[0]) });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  });

  async function read(file) {
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (bitmap === null) words.textContent = `${file.name} is not an image that can be read.`;
    else words.textContent = take(planesOf(bitmap, channels), file.name) ? "" : `There is nothing to see in ${file.name}: all of it has one color.`;
  }
  return element("p", { class: "file" }, element("label", { for: "file" }, "or an image file: choose one, or drop it on the page "), field, words);
}

/** The channels of a bitmap on white as images: gray, or red, green and blue. */
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
