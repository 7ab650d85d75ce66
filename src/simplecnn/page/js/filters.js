// The filters of the first convolution through time: a slider, a play button, values under the pointer.
import { digits, floats, percent } from "./arrays.js";
import { paintTiles, scaleOf } from "./colors.js";
import { element } from "./dom.js";
import { title } from "./head.js";

const FILTER = 54; // pixels, the least side of a filter
const MAX_FILTERS = 64, MAX_CHANNELS = 4;

export function filtersSection(runs) {
  const shown = runs.map((run, i) => [run, i]).filter(([run]) => run.filters);
  if (!shown.length) return null;
  return element("section", { id: "filters" }, element("h2", {}, "Filters through time"),
    element("p", { class: "note" }, "Red excites, blue inhibits, white is zero. The number is the cosine similarity to a named kernel."),
    element("div", { class: "side-by-side" }, ...shown.map(([run, i]) =>
      filterHistory(run.filters, runs.length > 1 ? title(runs, i) : null))));
}

function filterHistory({ layer, shape, weights: text, dtype, moments, matches }, heading) {
  const [numMoments, numFilters, numChannels, height, width] = shape;
  const weights = floats(text, dtype);
  const areFinite = weights.every(Number.isFinite);
  const painted = areFinite ? weights : weights.map((weight) => (Number.isFinite(weight) ? weight : 0));
  const filterSize = numChannels * height * width, channels = Math.min(numChannels, MAX_CHANNELS);
  const shown = Math.min(numFilters, MAX_FILTERS);
  const scale = { palette: "signed", limit: scaleOf(painted).limit };
  const at = (moment, filter) => (moment * numFilters + filter) * filterSize;
  const slider = element("input", { type: "range", min: 0, max: numMoments - 1, value: numMoments - 1, step: 1,
    id: `moment-${layer}-${heading ?? ""}`, "aria-label": `moment of ${layer}`, oninput: () => show(Number(slider.value)) });
  const when = element("output", { for: slider.id });
  const play = element("button", { type: "button", onclick: toggle, disabled: numMoments < 2 }, "Play");
  const words = element("p", { class: "values", role: "status" });
  const list = element("ul", { class: "filters" });
  const zoom = Math.max(1, Math.ceil(FILTER / Math.max(height, width)));
  const cells = Array.from({ length: shown }, (_, filter) => {
    const canvas = element("canvas", { width: channels * (width * zoom + 1) - 1, height: height * zoom, tabindex: 0, role: "img",
      onpointermove: (event) => point(filter, event), onkeydown: (event) => move(filter, event) });
    const name = element("span", { class: "match" });
    const change = element("span", { class: "change" });
    list.append(element("li", {}, canvas, element("span", {}, element("b", {}, String(filter)), " ", change), name));
    return { canvas, name, change, place: [0, 0, 0] };
  });
  let moment = numMoments - 1, timer = null;

  function show(index) {
    moment = index;
    slider.value = index;
    when.textContent = moments[index];
    slider.setAttribute("aria-valuetext", moments[index]);
    cells.forEach(({ canvas, name, change }, filter) => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      const tiles = Array.from({ length: channels }, (_, c) => ({
        values: painted, offset: at(index, filter) + c * height * width, left: c * (width * zoom + 1), top: 0 }));
      paintTiles(new Uint32Array(image.data.buffer), canvas.width, tiles, height, width, zoom, scale);
      context.putImageData(image, 0, 0);
      const match = matches[index][filter];
      name.textContent = match ? `${digits(match[1], 2)} ${match[0]}` : "";
      change.textContent = index ? percent(changeOf(index, filter), 0) : "start";
      canvas.setAttribute("aria-label", `filter ${filter}, ${moments[index]}, changed by ${percent(changeOf(index, filter), 0)} since the start` +
        (match ? `, most like ${match[0]}, cosine ${digits(match[1], 2)}` : ""));
    });
  }

  /** The norm of the change since the start, beside the norm at the start. */
  function changeOf(index, filter) {
    let moved = 0, before = 0;
    for (let i = 0; i < filterSize; i++) {
      const start = weights[at(0, filter) + i];
      moved += (weights[at(index, filter) + i] - start) ** 2;
      before += start ** 2;
    }
    return before ? Math.sqrt(moved / before) : 0;
  }

  function say(filter, channel, row, column) {
    const place = (channel * height + row) * width + column;
    const now = weights[at(moment, filter) + place], start = weights[at(0, filter) + place];
    const which = numChannels > 1 ? `, channel ${channel}` : "";
    words.textContent = `filter ${filter}${which}, row ${row}, column ${column}: ${digits(now)}; at the start ${digits(start)}, change ${digits(now - start)}`;
    cells[filter].place = [channel, row, column];
  }

  function point(filter, event) {
    const box = event.target.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * event.target.width;
    const y = ((event.clientY - box.top) / box.height) * event.target.height;
    const tile = width * zoom + 1, channel = Math.min(channels - 1, Math.floor(x / tile));
    const limit = (v, size) => Math.max(0, Math.min(size - 1, v));
    say(filter, channel, limit(Math.floor(y / zoom), height), limit(Math.floor((x - channel * tile) / zoom), width));
  }

  function move(filter, event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [channel, row, column] = cells[filter].place;
    const along = channel * width + column + step[1];
    const x = Math.max(0, Math.min(channels * width - 1, along)), y = Math.max(0, Math.min(height - 1, row + step[0]));
    say(filter, Math.floor(x / width), y, x % width);
  }

  function toggle() {
    if (timer !== null) return stop();
    play.textContent = "Pause";
    if (moment === numMoments - 1) show(0);
    timer = setInterval(() => (moment < numMoments - 1 ? show(moment + 1) : stop()), 350);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  show(moment);
  return element("div", {},
    heading && element("h3", {}, heading),
    element("div", { class: "moments" }, play, slider, when),
    list,
    areFinite ? null : element("p", { class: "sentence" }, "Some weights are not finite numbers: they are shown white."),
    numFilters > shown ? element("p", { class: "note" }, `the first ${shown} of ${numFilters} filters`) : null,
    words,
    element("p", { class: "note" }, `${layer}: ${numFilters} filters of ${numChannels} x ${height} x ${width}; one scale for the whole run, ±${digits(scale.limit)}. The percentages are the change since the start.${filterSize === 9 && width === 3 ? " Random weights reach a cosine similarity of 0.57 on average." : ""}`));
}
