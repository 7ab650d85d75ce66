// The filters of the first convolution during training, with a slider and a play button.
import { clampIndex, digits, floats, percent } from "./arrays.js";
import { paintTiles, scaleOf } from "./colors.js";
import { element, positionOn } from "./dom.js";
import { title } from "./head.js";

const FILTER = 54; // minimum size of a filter in pixels
const MAX_FILTERS = 64, MAX_CHANNELS = 4;

export function filtersSection(runs) {
  const shown = runs.map((run, i) => [run, i]).filter(([run]) => run.filters);
  if (!shown.length) return null;
  return element("section", { id: "filters" }, element("h2", {}, "Filters through time"),
    element("p", { class: "note" }, "Red is positive, blue is negative, white is zero. The number is the cosine similarity to a named kernel."),
    element("div", { class: "side-by-side" }, ...shown.map(([run, i]) =>
      filterHistory(run.filters, runs.length > 1 ? title(runs, i) : null))));
}

function filterHistory({ layer, shape, weights: text, dtype, snapshots, matches }, heading) {
  const [numSnapshots, numFilters, numChannels, height, width] = shape;
  const weights = floats(text, dtype);
  const areFinite = weights.every(Number.isFinite);
  const painted = areFinite ? weights : weights.map((weight) => (Number.isFinite(weight) ? weight : 0));
  const filterSize = numChannels * height * width, channels = Math.min(numChannels, MAX_CHANNELS);
  const shown = Math.min(numFilters, MAX_FILTERS);
  const scale = { palette: "signed", limit: scaleOf(painted).limit };
  const offset = (snapshot, filter) => (snapshot * numFilters + filter) * filterSize;
  const slider = element("input", { type: "range", min: 0, max: numSnapshots - 1, value: numSnapshots - 1, step: 1,
    id: `snapshot-${layer}-${heading ?? ""}`, "aria-label": `snapshot of ${layer}`, oninput: () => show(Number(slider.value)) });
  const when = element("output", { for: slider.id });
  const play = element("button", { type: "button", onclick: toggle, disabled: numSnapshots < 2 }, "Play");
  const status = element("p", { class: "values", role: "status" });
  const list = element("ul", { class: "filters" });
  const zoom = Math.max(1, Math.ceil(FILTER / Math.max(height, width)));
  const cells = Array.from({ length: shown }, (_, filter) => {
    const canvas = element("canvas", { width: channels * (width * zoom + 1) - 1, height: height * zoom, tabindex: 0, role: "img",
      onpointermove: (event) => point(filter, event), onkeydown: (event) => move(filter, event) });
    const name = element("span", { class: "match" });
    const change = element("span", { class: "change" });
    list.append(element("li", {}, canvas, element("span", {}, element("b", {}, String(filter)), " ", change), name));
    return { canvas, name, change, selected: [0, 0, 0] };
  });
  let current = numSnapshots - 1, timer = null;

  function show(index) {
    current = index;
    slider.value = index;
    when.textContent = snapshots[index];
    slider.setAttribute("aria-valuetext", snapshots[index]);
    cells.forEach(({ canvas, name, change }, filter) => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      const tiles = Array.from({ length: channels }, (_, c) => ({
        values: painted, offset: offset(index, filter) + c * height * width, left: c * (width * zoom + 1), top: 0 }));
      paintTiles(new Uint32Array(image.data.buffer), canvas.width, tiles, height, width, zoom, scale);
      context.putImageData(image, 0, 0);
      const match = matches[index][filter];
      name.textContent = match ? `${digits(match[1], 2)} ${match[0]}` : "";
      change.textContent = index ? percent(changeOf(index, filter), 0) : "start";
      canvas.setAttribute("aria-label", `filter ${filter}, ${snapshots[index]}, changed by ${percent(changeOf(index, filter), 0)} since the start` +
        (match ? `, most similar to ${match[0]}, cosine ${digits(match[1], 2)}` : ""));
    });
  }

  /** The norm of the change since the start, divided by the norm at the start. */
  function changeOf(index, filter) {
    let change = 0, norm = 0; // squared
    for (let i = 0; i < filterSize; i++) {
      const start = weights[offset(0, filter) + i];
      change += (weights[offset(index, filter) + i] - start) ** 2;
      norm += start ** 2;
    }
    return norm ? Math.sqrt(change / norm) : 0;
  }

  function select(filter, channel, row, column) {
    const i = (channel * height + row) * width + column;
    const now = weights[offset(current, filter) + i], start = weights[offset(0, filter) + i];
    const suffix = numChannels > 1 ? `, channel ${channel}` : "";
    status.textContent = `filter ${filter}${suffix}, row ${row}, column ${column}: ${digits(now)}; at the start ${digits(start)}, change ${digits(now - start)}`;
    cells[filter].selected = [channel, row, column];
  }

  function point(filter, event) {
    const [x, y] = positionOn(event.target, event);
    const tile = width * zoom + 1, channel = Math.min(channels - 1, Math.floor(x / tile));
    select(filter, channel, clampIndex(Math.floor(y / zoom), height), clampIndex(Math.floor((x - channel * tile) / zoom), width));
  }

  function move(filter, event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [channel, row, column] = cells[filter].selected;
    const x = clampIndex(channel * width + column + step[1], channels * width);
    select(filter, Math.floor(x / width), clampIndex(row + step[0], height), x % width);
  }

  function toggle() {
    if (timer !== null) return stop();
    play.textContent = "Pause";
    if (current === numSnapshots - 1) show(0);
    timer = setInterval(() => (current < numSnapshots - 1 ? show(current + 1) : stop()), 350);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  show(current);
  return element("div", {},
    heading && element("h3", {}, heading),
    element("div", { class: "snapshots" }, play, slider, when),
    list,
    areFinite ? null : element("p", { class: "sentence" }, "Some weights are not finite: they are drawn in white."),
    numFilters > shown ? element("p", { class: "note" }, `the first ${shown} of ${numFilters} filters`) : null,
    status,
    element("p", { class: "note" }, `${layer}: ${numFilters} filters of ${numChannels} x ${height} x ${width}; one scale for the whole run, ±${digits(scale.limit)}. Percentages are the change since the start.${filterSize === 9 && width === 3 ? " Random weights reach a cosine similarity of 0.55 on average." : ""}`));
}
