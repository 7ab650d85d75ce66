// A network at work: the image, the maps of every layer, the answer; a cell under the pointer.
import { digits, largest, percent } from "./arrays.js";
import { paintImage, paintTiles, scaleOf } from "./colors.js";
import { element, fitted } from "./dom.js";
import { runNetwork, softmax } from "./network.js";
import { cellName, explanation } from "./pointing.js";
import { receptiveField } from "./windows.js";

const GAP = 2, MAP = 44, DOT = 11; // pixels: between maps, about a map, a unit of a dense layer
const MAX_MAPS = 256;
const FRAME = "#ff9500"; // seen on red, blue, white and viridis

/**
 * The maps of one run's network. `show(image)` computes and paints them; a cell that is pointed at
 * is explained by `tell(elements)` and framed on the image by `frame(window or null)`.
 */
export function networkView(network, { tell, frame }) {
  const shapes = [null, ...network.map((layer) => layer.shape)];
  const names = ["image", ...network.map((layer) => layer.name)];
  const views = [];
  let tensors = null, selected = null;
  const root = element("div", { class: "layers" });
  network.forEach((layer, i) => {
    if (layer.kind === "flatten") return; // the same values in one line
    const view = layerView(i + 1, layer);
    views.push(view);
    root.append(view.root);
  });

  function layerView(index, layer) {
    const [channels, rows, columns] = layer.shape;
    const shown = Math.min(channels, MAX_MAPS);
    const isDense = rows * columns === 1;
    const zoom = isDense ? DOT : Math.max(1, Math.round(MAP / Math.max(rows, columns)));
    const canvas = element("canvas", { tabindex: 0, role: "application",
      "aria-label": `${layer.name}: ${channels} ${isDense ? "units" : `maps of ${rows} x ${columns}`}. Arrow keys move from cell to cell, Page Up and Page Down from map to map.` });
    const range = element("span", { class: "note" });
    const box = element("div", {}, canvas);
    const view = { index, canvas, root: null, perLine: 1, zoom, place: null, paint, mark, pixels: null };
    view.root = element("figure", { class: "layer" }, element("figcaption", {}, element("b", {}, layer.name),
      ` ${layer.kind.replaceAll("_", " ")}, ${isDense ? `${channels} units` : `${channels} ${channels === 1 ? "map" : "maps"} of ${rows} x ${columns}`}${channels > shown ? `, the first ${shown}` : ""}, `, range), box);
    const across = columns * zoom + GAP, down = rows * zoom + GAP;
    const corner = (channel) => [(channel % view.perLine) * across, Math.floor(channel / view.perLine) * down];
    fitted(box, (width) => {
      view.perLine = Math.max(1, Math.min(shown, Math.floor((width + GAP) / across)));
      canvas.width = view.perLine * across - GAP;
      canvas.height = Math.ceil(shown / view.perLine) * down - GAP;
      paint();
    });

    function paint() {
      if (!tensors) return;
      const { values } = tensors[index], scale = scaleOf(values);
      const context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      const tiles = Array.from({ length: shown }, (_, c) => {
        const [left, top] = corner(c);
        return { values, offset: c * rows * columns, left, top };
      });
      paintTiles(new Uint32Array(image.data.buffer), canvas.width, tiles, rows, columns, zoom, scale);
      view.pixels = image;
      range.textContent = scale.palette === "signed" ? `±${digits(scale.limit)}` : `0 to ${digits(scale.limit)}`;
      mark(null);
    }

    /** Frames windows on the maps: {rows, columns, channel (or null for all)}. */
    function mark(window) {
      if (!view.pixels || view.pixels.width !== canvas.width || view.pixels.height !== canvas.height) return;
      const context = canvas.getContext("2d");
      context.putImageData(view.pixels, 0, 0);
      if (!window) return;
      context.strokeStyle = FRAME;
      context.lineWidth = 2;
      for (let c = 0; c < shown; c++) {
        if (window.channel !== null && window.channel !== c) continue;
        const [left, top] = corner(c);
        context.strokeRect(left + window.columns[0] * zoom, top + window.rows[0] * zoom,
          (window.columns[1] - window.columns[0] + 1) * zoom, (window.rows[1] - window.rows[0] + 1) * zoom);
      }
    }

    function under(event) {
      const bounds = canvas.getBoundingClientRect();
      const x = ((event.clientX - bounds.left) / bounds.width) * canvas.width;
      const y = ((event.clientY - bounds.top) / bounds.height) * canvas.height;
      const tileX = Math.min(view.perLine - 1, Math.floor(x / across)), tileY = Math.floor(y / down);
      const channel = tileY * view.perLine + tileX;
      const limit = (v, size) => Math.max(0, Math.min(size - 1, Math.floor(v / zoom)));
      return channel >= shown ? null : [channel, limit(y - tileY * down, rows), limit(x - tileX * across, columns)];
    }
    const point = (event) => {
      const cell = under(event);
      if (cell) select(view, ...cell);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", (event) => {
      let [channel, row, column] = view.place ?? [0, 0, 0];
      const steps = isDense
        ? { ArrowLeft: [-1], ArrowRight: [1], ArrowUp: [-view.perLine], ArrowDown: [view.perLine] }
        : { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0] };
      const step = { ...steps, PageUp: [-1], PageDown: [1], Home: [-MAX_MAPS], End: [MAX_MAPS] }[event.key];
      if (event.key === "Escape") return select(null);
      if (!step) return;
      event.preventDefault();
      const limit = (v, size) => Math.max(0, Math.min(size - 1, v));
      if (view.place) [channel, row, column] = [limit(channel + step[0], shown), limit(row + (step[1] ?? 0), rows), limit(column + (step[2] ?? 0), columns)];
      select(view, channel, row, column);
    });
    return view;
  }

  function select(view, channel, row, column) {
    selected = view && { view, channel, row, column };
    if (view) view.place = [channel, row, column];
    point();
  }

  function point() {
    if (!selected || !tensors) {
      views.forEach((view) => view.mark(null));
      frame(null);
      return tell(null);
    }
    const { view, channel, row, column } = selected;
    const windows = receptiveField(network, tensors.map((t) => t.shape), view.index, row, column);
    // Maps mix in convolutions and linear layers alone: behind the last of them, a cell has one.
    const mixes = network.findLastIndex((layer, i) => i < view.index && ["convolution", "linear"].includes(layer.kind));
    for (const other of views) {
      if (other.index > view.index) other.mark(null);
      else other.mark({ ...windows[other.index], channel: other.index > mixes ? channel : null });
    }
    frame(windows[0]);
    tell(explanation(network, tensors, names, view.index, channel, row, column),
      `${names[view.index]}, ${cellName(shapes[view.index], channel, row, column)}`);
  }

  return {
    root,
    /** Computes everything for an image, paints it, and gives the probabilities. */
    show(image) {
      tensors = runNetwork(network, image);
      views.forEach((view) => view.paint());
      if (selected) point();
      return softmax(tensors[tensors.length - 1].values);
    },
    clear: () => select(null),
  };
}

/** The image as the network gets it, with frames on it. */
export function imageView(images) {
  const [channels, height, width] = images.shape;
  const zoom = Math.max(1, Math.floor(224 / Math.max(height, width)));
  const canvas = element("canvas", { width: width * zoom, height: height * zoom, class: "input", role: "img" });
  const small = element("canvas");
  let window = null;
  function paint() {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (!window) return;
    context.strokeStyle = FRAME;
    context.lineWidth = 3;
    context.strokeRect(window.columns[0] * zoom + 1.5, window.rows[0] * zoom + 1.5,
      (window.columns[1] - window.columns[0] + 1) * zoom - 3, (window.rows[1] - window.rows[0] + 1) * zoom - 3);
  }
  return {
    canvas,
    show(values, name) {
      paintImage(small, values, [channels, height, width], images.low, images.high);
      canvas.setAttribute("aria-label", `what the network gets: ${name}`);
      paint();
    },
    frame(to) {
      window = to;
      paint();
    },
  };
}

/** Probabilities as bars; of many classes the ten largest. */
export function probabilityBars(classes) {
  const list = element("ol", { class: "bars" });
  return {
    root: list,
    show(probabilities) {
      const order = classes.map((_, i) => i);
      const shown = classes.length <= 12 ? order : order.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 10);
      const best = largest(probabilities);
      list.replaceChildren(...shown.map((i) => {
        const bar = element("span", { class: "bar" });
        bar.style.width = `${100 * probabilities[i]}%`;
        return element("li", { class: i === best ? "best" : null }, element("span", { class: "class" }, classes[i]),
          element("span", { class: "track" }, bar), element("span", { class: "share" }, percent(probabilities[i])));
      }));
    },
  };
}
