// The page of one run or of two: its sections, and the current image.
import { bytes, largest, percent } from "./arrays.js";
import { setPalettes } from "./colors.js";
import { element } from "./dom.js";
import { DRAWING, imageInputs } from "./drawing.js";
import { filtersSection } from "./filters.js";
import { configurationSection, curvesSection, headSection, healthSection, letter, picturesSection, title } from "./head.js";
import { imageView, networkView, probabilityBars } from "./maps.js";
import { confusionSection, gallery, mistakes } from "./matrix.js";
import { readNetwork, runNetwork } from "./network.js";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, classes } = data;
setPalettes(data.palettes);
// Without images of the run, drawings and files can still be shown.
const images = Object.assign(data.images ?? { low: 0, high: 1, items: [] }, { shape: data.shape, isInk: data.box !== null });
if (data.images) unpack(images);
const networks = runs.map(({ network }) => (network.layers ? readNetwork(network) : null));
const work = workSection();
document.querySelector("main").append(...[
  headSection(data.title, runs), configurationSection(runs), curvesSection(runs), filtersSection(runs), work.root,
  confusionSection(data, runs, work.open), healthSection(runs), picturesSection(runs),
].filter(Boolean));
work.begin();
globalThis.report = { data, networks, runNetwork, work }; // for the browser's console

/** Decodes the pixels of all items to inputs of the network. */
function unpack({ pixels, items, shape, low, high }) {
  const all = bytes(pixels), size = shape.reduce((a, b) => a * b, 1);
  items.forEach((item, i) => {
    item.values = Float32Array.from(all.subarray(i * size, (i + 1) * size), (b) => (b / 255) * (high - low) + low);
  });
}

/** The section in which an image is chosen or drawn, and all layers are computed for it. */
function workSection() {
  const several = runs.length > 1, canCompute = networks.some(Boolean);
  const sentences = runs.map((run) => run.network.sentence).filter(Boolean);
  const weights = runs.map((run, i) => networks[i] && `${several ? `${letter(i)}: ` : ""}${run.checkpoint}`).filter(Boolean);
  const root = element("section", { id: "network" }, element("h2", {}, "The network at work"),
    ...sentences.map((sentence) => element("p", { class: "sentence" }, sentence)),
    weights.length > 0 && element("p", { class: "note" }, `Computed on this page, in plain JavaScript, with the weights of ${weights.join(" and ")}.`));
  const view = imageView(images);
  const caption = element("p", { class: "caption", role: "status" });
  const details = element("div", { class: "details", role: "status", "aria-live": "polite", tabindex: 0, hidden: !canCompute });
  const answer = element("div", { class: "answer" }, element("h3", {}, "Network input"), view.canvas, details);
  const pointing = { clear: null, isPinned: false, byKeys: false };
  const panels = runs.map((_, i) => ({
    bars: probabilityBars(classes, several ? title(runs, i) : null), heading: several ? title(runs, i) : null,
    maps: networks[i] && networkView(networks[i], classes, pointing, { frame: view.frame, explain }),
  }));
  const inputs = canCompute ? imageInputs(data, show) : null;
  let current = null;
  addEventListener("keydown", (event) => event.key === "Escape" && pointing.clear?.());
  addEventListener("scroll", keepInView);

  /** Shows the explanation of a cell; null shows a hint instead. */
  function explain(elements) {
    answer.classList.toggle("open", Boolean(elements));
    answer.classList.toggle("pinned", Boolean(elements) && pointing.isPinned);
    details.replaceChildren(...(elements
      ? [element("button", { type: "button", class: "close", "aria-label": "close", onclick: () => pointing.clear() }, "×"), ...elements,
        element("p", { class: "note" }, pointing.isPinned ? "Pinned: click a map or press Escape to unpin." : "Click or press Enter to pin.")]
      : [element("p", { class: "note" }, "Point at any cell of any map to frame its receptive field and to show here how it is computed.")]));
    keepInView();
  }

  /** Moves an explanation into the window while the page is scrolled to the first or the last maps. */
  function keepInView() {
    answer.style.translate = "";
    const { top, bottom } = answer.getBoundingClientRect(), maps = area.getBoundingClientRect();
    if (!answer.classList.contains("open") || maps.bottom < 0 || maps.top > innerHeight) return;
    answer.style.translate = `0 ${bottom > innerHeight ? innerHeight - bottom : Math.max(0, 8 - top)}px`;
  }

  const nameOf = (item) => (item.kind === "own" ? item.name : `image of ${classes[item.label]}`);

  /**
   * Shows an image and runs the networks on it; null clears the page. `answers` are used for networks
   * that the page cannot run: for each run, pairs [class, probability] that Python has computed.
   */
  function show(values, name, answers = []) {
    if (name !== DRAWING || values === null) pointing.clear?.();
    if (name !== DRAWING) inputs?.forget();
    current = values && { shape: images.shape, values };
    view.show(values, name);
    const predictions = panels.map(({ maps, bars }, run) => {
      const probabilities = maps ? maps.show(current) : fromPairs(answers[run]);
      bars.show(probabilities);
      return probabilities && `${classes[largest(probabilities)]} (${percent(probabilities[largest(probabilities)])})`;
    }).filter(Boolean);
    caption.textContent = !values ? "" : predictions.length ? `${name}: predicted ${predictions.join(" and ")}` : name;
  }

  /** Converts pairs [class, probability] to a list with a probability for each class. */
  function fromPairs(pairs) {
    if (!pairs) return null;
    const probabilities = classes.map(() => 0);
    for (const [index, probability] of pairs) probabilities[index] = probability ?? NaN;
    return probabilities;
  }

  const choose = (item) => show(item.values, nameOf(item), item.answers);
  const area = element("div", { class: canCompute ? "work" : "work without-maps" },
    element("div", { class: "input-side" },
      inputs?.pad && element("div", {}, element("div", { class: "heading" }, element("h3", {}, "Draw a digit"), inputs.clear), inputs.pad),
      element("div", {}, caption, ...panels.map(({ bars }) => bars.root)),
      inputs && element("div", {}, inputs.steps, inputs.file)),
    element("div", { class: "answer-side" }, answer),
    canCompute && element("div", { class: networks.every(Boolean) && several ? "maps two" : "maps" },
      ...panels.filter(({ maps }) => maps).map(({ maps, heading }) => element("div", {}, heading && element("h3", {}, heading), maps.root))));

  if (images.items.length) {
    const first = images.items.filter((item) => item.kind !== "example").map((item) => ({ ...item, predicted: undefined }));
    const wrong = mistakes(images, 0).slice(0, first.length);
    root.append(element("h3", {}, "Choose an image"), gallery(data, first, 0, choose),
      ...(wrong.length ? [element("h4", {}, `Mistakes${several ? " of A" : ""}`), gallery(data, wrong, 0, choose)] : []));
  }
  if (images.items.length || canCompute) root.append(area);
  if (canCompute) explain(null);
  return {
    root, show,
    current: () => current,
    open(item) {
      choose(item);
      area.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    },
    begin() {
      if (images.items.length) choose(images.items[0]);
    },
  };
}
