// The page of a run, or of two: its sections in their order, and the image that is looked at.
import { bytes, largest, percent } from "./arrays.js";
import { setPalettes } from "./colors.js";
import { element } from "./dom.js";
import { drawingPad, fileField } from "./drawing.js";
import { filtersSection } from "./filters.js";
import { configurationSection, curvesSection, headSection, healthSection, letter, picturesSection, title } from "./head.js";
import { imageView, networkView, probabilityBars } from "./maps.js";
import { confusionSection, gallery } from "./matrix.js";
import { readNetwork, runNetwork } from "./network.js";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, images, classes } = data;
setPalettes(data.palettes);
if (images) unpack(images);
const networks = runs.map(({ network }) => (network.layers ? readNetwork(network) : null));
const work = workSection();
document.querySelector("main").append(...[
  headSection(runs), work.root, filtersSection(runs), confusionSection(data, runs, work.open),
  curvesSection(runs), healthSection(runs), configurationSection(runs), picturesSection(runs),
].filter(Boolean));
work.begin();
globalThis.report = { data, networks, runNetwork, work }; // to play with in the browser's console

/** The pixels of each item, in the range that the network takes. */
function unpack({ pixels, items, shape, low, high }) {
  const all = bytes(pixels), size = shape.reduce((a, b) => a * b, 1);
  items.forEach((item, i) => {
    item.values = Float32Array.from(all.subarray(i * size, (i + 1) * size), (b) => (b / 255) * (high - low) + low);
  });
}

/** Choose an image, or draw one, and see what every layer makes of it. */
function workSection() {
  const root = element("section", { id: "network" }, element("h2", {}, "The network at work"));
  const sentences = runs.map((run, i) => run.network.sentence && `${runs.length > 1 ? `${title(runs, i)}. ` : ""}${run.network.sentence}`).filter(Boolean);
  root.append(...sentences.map((sentence) => element("p", { class: "sentence" }, sentence)));
  const usable = networks.some(Boolean);
  const weights = runs.map((run, i) => run.checkpoint && `${runs.length > 1 ? `${letter(i)}: ` : ""}${run.checkpoint}`).filter(Boolean);
  if (weights.length) root.append(element("p", { class: "note" }, `Computed in this page, in plain JavaScript, with the weights of ${weights.join(" and ")}.`));
  // Without images of the run, drawings still have their shape.
  const scale = images ?? { shape: [1, 28, 28], low: 0, high: 1, items: [] };
  const view = imageView(scale);
  const caption = element("p", { class: "caption", role: "status" });
  const details = element("div", { class: "details", role: "status", "aria-live": "polite" }, hint());
  const panels = networks.map((network, i) => network && panel(network, i));
  let current = null;

  function hint() {
    return element("p", { class: "note" }, "Point at any cell of any map: what it sees is framed, and here stands how it came about.");
  }

  function panel(network, i) {
    const bars = probabilityBars(classes);
    const maps = networkView(network, {
      frame: view.frame,
      tell: (elements) => {
        details.classList.toggle("open", Boolean(elements));
        details.replaceChildren(...(elements ? [element("button", { type: "button", class: "close", "aria-label": "close", onclick: () => maps.clear() }, "×"), ...elements] : [hint()]));
      },
    });
    return { bars, maps, heading: runs.length > 1 ? title(runs, i) : null };
  }

  const called = (item) => (item.kind === "own" ? item.name : `image of ${classes[item.label]}`);

  function show(values, name) {
    current = { shape: scale.shape, values };
    view.show(values, name);
    const answers = panels.map((panel) => {
      if (!panel) return null;
      const probabilities = panel.maps.show(current);
      panel.bars.show(probabilities);
      const best = largest(probabilities);
      return `${classes[best]}, ${percent(probabilities[best])}`;
    }).filter(Boolean);
    caption.textContent = `${name}: ${answers.join(" and ")}`;
  }

  function open(item) {
    show(item.values, called(item));
    root.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  if (images) {
    const first = images.items.filter((item) => item.kind !== "example");
    root.append(element("h3", {}, "Choose an image"), gallery(data, first.map((item) => ({ ...item, predicted: undefined })), 0, (item) => show(item.values, called(item))));
  }
  if (usable) {
    root.append(element("div", { class: "work" },
      element("div", { class: "input-side" },
        data.draws ? element("h3", {}, "or draw one") : null,
        data.draws ? drawingPad(show) : null,
        fileField({ ...data, images: scale }, show)),
      element("div", { class: "answer-side" },
        element("h3", {}, "What the network gets"), view.canvas, caption,
        ...panels.filter(Boolean).map(({ bars, heading }) => element("div", {}, heading && element("h4", {}, heading), bars.root)), details),
      element("div", { class: panels.filter(Boolean).length > 1 ? "maps two" : "maps" },
        ...panels.filter(Boolean).map(({ maps, heading }) => element("div", {}, heading && element("h3", {}, heading), maps.root)))));
  }
  return {
    root, open, show,
    current: () => current,
    begin() {
      if (!usable) return;
      const item = images?.items[0];
      if (item) show(item.values, called(item));
    },
  };
}
