// The network view: the image, the maps of all layers, the probabilities; cells under the pointer.
import { clampIndex, digits, largest, percent } from "./arrays.js";
import { paintImage, paintTiles, scaleOf } from "./colors.js";
import { element, fitted, positionOn, shortName } from "./dom.js";
import { runNetwork, softmax } from "./network.js";
import { explanation } from "./pointing.js";
import { isEmpty, receptiveField } from "./windows.js";

const GAP = 2, MAP = 44, DOT = 11; // pixels: between maps, approximately per map, per unit of a dense layer
const MAX_MAPS = 256;
const FRAME = "#ff9500"; // visible on red, blue, white and viridis
const size = ([first, last]) => last - first + 1;

/**
 * The maps of one run's network. `show(image)` computes and paints them. For the cell under the
 * pointer, `explain(elements)` shows how it is computed, and `frame(window)` frames its receptive
 * field on the image; both are called with null at the end. A click pins the cell, so that the
 * pointer can move to the explanation. `pointing` is the state that all views of a page share:
 * {clear (ends pointing), isPinned, byKeys}.
 */
export function networkView(network, classes, pointing, { explain, frame }) {
  const names = ["image", ...network.map((layer) => layer.name)];
  const views = [];
  let tensors = null, selected = null;
  const root = element("div", { class: "layers", onpointerleave: leave });
  network.forEach((layer, i) => {
    if (layer.kind === "flatten") return; // has the same values as its input
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
    const view = { index, canvas, root: null, perLine: 1, zoom, selected: null, paint, mark, pixels: null };
    view.root = element("figure", { class: "layer" }, element("figcaption", {}, element("b", {}, layer.name),
      ` ${layer.kind.replaceAll("_", " ")}, ${isDense ? `${channels} units` : `${channels} ${channels === 1 ? "map" : "maps"} of ${rows} x ${columns}`}${channels > shown ? `, the first ${shown}` : ""}, `, range), box);
    const stepX = columns * zoom + GAP, stepY = rows * zoom + GAP;
    const corner = (channel) => [(channel % view.perLine) * stepX, Math.floor(channel / view.perLine) * stepY];
    fitted(box, (width) => {
      const most = Math.max(1, Math.floor((width + GAP) / stepX));
      view.perLine = Math.ceil(shown / Math.ceil(shown / most)); // balances the lines
      canvas.width = view.perLine * stepX - GAP;
      canvas.height = Math.ceil(shown / view.perLine) * stepY - GAP;
      paint();
    });

    function paint() {
      if (!tensors) {
        canvas.width = canvas.width; // clears it
        view.pixels = null;
        range.textContent = "";
        return;
      }
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

    /** Frames a window on the maps: {rows, columns, channel (null for all)}; null removes the frame. */
    function mark(window) {
      if (!view.pixels || view.pixels.width !== canvas.width || view.pixels.height !== canvas.height) return;
      const context = canvas.getContext("2d");
      context.putImageData(view.pixels, 0, 0);
      if (!window || isEmpty(window)) return;
      context.strokeStyle = FRAME;
      context.lineWidth = 2;
      const isWhole = size(window.rows) === rows && size(window.columns) === columns;
      if (isWhole && window.channel === null) return context.strokeRect(1, 1, canvas.width - 2, canvas.height - 2);
      for (let c = 0; c < shown; c++) {
        if (window.channel !== null && window.channel !== c) continue;
        const [left, top] = corner(c);
        context.strokeRect(left + window.columns[0] * zoom, top + window.rows[0] * zoom,
          size(window.columns) * zoom, size(window.rows) * zoom);
      }
    }

    /** The cell [channel, row, column] at the position of an event; null if there is none. */
    function cellAt(event) {
      const [x, y] = positionOn(canvas, event);
      const tileX = Math.min(view.perLine - 1, Math.floor(x / stepX)), tileY = Math.floor(y / stepY);
      const channel = tileY * view.perLine + tileX;
      const limit = (v, size) => Math.min(size - 1, Math.floor(v / zoom));
      return x < 0 || y < 0 || x >= canvas.width || channel >= shown ? null : [channel, limit(y - tileY * stepY, rows), limit(x - tileX * stepX, columns)];
    }
    let isTouch = false; // a moving finger scrolls the page: only a tap selects a cell
    canvas.addEventListener("pointerdown", (event) => (isTouch = event.pointerType === "touch"));
    canvas.addEventListener("pointermove", (event) => {
      const hasMoved = event.movementX || event.movementY; // false if the page was scrolled instead
      if (event.pointerType === "touch" || pointing.isPinned || !hasMoved) return;
      const cell = cellAt(event);
      if (!cell) return;
      pointing.byKeys = false;
      select(view, ...cell);
    });
    canvas.addEventListener("click", (event) => {
      const cell = cellAt(event);
      if (!cell) return;
      pointing.isPinned = isTouch || !pointing.isPinned;
      select(view, ...cell);
    });
    canvas.addEventListener("keydown", (event) => {
      let [channel, row, column] = view.selected ?? [0, 0, 0];
      const steps = isDense
        ? { ArrowLeft: [-1], ArrowRight: [1], ArrowUp: [-view.perLine], ArrowDown: [view.perLine] }
        : { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0] };
      const step = { ...steps, PageUp: [-1], PageDown: [1], Home: [-MAX_MAPS], End: [MAX_MAPS] }[event.key];
      if (event.key === "Enter") pointing.isPinned = !pointing.isPinned;
      else if (!step) return;
      event.preventDefault();
      pointing.byKeys = true;
      if (view.selected && step) [channel, row, column] = [clampIndex(channel + step[0], shown), clampIndex(row + (step[1] ?? 0), rows), clampIndex(column + (step[2] ?? 0), columns)];
      select(view, channel, row, column);
    });
    return view;
  }

  function select(view, channel, row, column) {
    if (pointing.clear !== clear) pointing.clear?.(pointing.isPinned);
    pointing.clear = clear;
    selected = { view, channel, row, column };
    view.selected = [channel, row, column];
    point();
  }

  function leave(event) {
    const keeps = event.pointerType === "touch" || pointing.isPinned || pointing.byKeys;
    if (selected && !keeps) clear();
  }

  /** Ends pointing: removes all frames and the explanation. */
  function clear(isPinned = false) {
    Object.assign(pointing, { clear: null, isPinned });
    selected = null;
    views.forEach((view) => view.mark(null));
    frame(null);
    explain(null);
  }

  function point() {
    if (!tensors) return;
    const { view, channel, row, column } = selected;
    const windows = receptiveField(network, tensors.map((t) => t.shape), view.index, row, column);
    // Only convolutions and linear layers mix channels: after the last of them, a cell depends on one.
    const lastMixing = network.findLastIndex((layer, i) => i < view.index && ["convolution", "linear"].includes(layer.kind));
    for (const other of views) {
      if (other.index > view.index) other.mark(null);
      else other.mark({ ...windows[other.index], channel: other.index > lastMixing ? channel : null });
    }
    frame(windows[0]);
    const name = view.index === network.length ? classes[channel] : null;
    explain(explanation(network, tensors, names, view.index, channel, row, column, name));
  }

  return {
    root,
    /** Computes and paints all maps for an image, and returns the probabilities; null clears all. */
    show(image) {
      tensors = image && runNetwork(network, image);
      views.forEach((view) => view.paint());
      if (selected) point();
      return image && softmax(tensors[tensors.length - 1].values);
    },
  };
}

/** The input of the network, with frames. */
export function imageView(images) {
  const [, height, width] = images.shape;
  const zoom = Math.max(1, Math.floor(224 / Math.max(height, width)));
  const canvas = element("canvas", { width: width * zoom, height: height * zoom, class: "input", role: "img" });
  const small = element("canvas");
  let window = null;
  function paint() {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (!window || isEmpty(window)) return;
    context.strokeStyle = FRAME;
    context.lineWidth = 3;
    context.strokeRect(window.columns[0] * zoom + 1.5, window.rows[0] * zoom + 1.5,
      size(window.columns) * zoom - 3, size(window.rows) * zoom - 3);
  }
  return {
    canvas,
    show(values, name) {
      window = null;
      if (values) paintImage(small, values, images);
      else small.width = small.width; // clears it
      canvas.setAttribute("aria-label", `network input: ${name}`);
      paint();
    },
    frame(newWindow) {
      window = newWindow;
      paint();
    },
  };
}

/** Probabilities as bars; if there are many classes, the ten largest. */
export function probabilityBars(classes, heading) {
  const list = element("ol", { class: "bars" });
  const root = element("div", {}, heading && element("h4", {}, heading), list);
  return {
    root,
    /** Shows the probabilities; null hides the bars. */
    show(probabilities) {
      root.hidden = !probabilities;
      if (!probabilities) return;
      const order = classes.map((_, i) => i);
      const shown = classes.length <= 12 ? order : order.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 10);
      const best = largest(probabilities);
      list.replaceChildren(...shown.map((i) => {
        const bar = element("span", { class: "bar" });
        bar.style.width = `${100 * probabilities[i]}%`;
        return element("li", { class: i === best ? "best" : null }, element("span", { class: "class", title: classes[i] }, shortName(classes[i])),
          element("span", { class: "track" }, bar), element("span", { class: "share" }, percent(probabilities[i])));
      }));
    },
  };
}
