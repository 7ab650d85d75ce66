// The confusion matrix and the images behind its cells; where two runs differ.
import { percent } from "./arrays.js";
import { css, paintImage } from "./colors.js";
import { element, shortName } from "./dom.js";
import { letter, title } from "./head.js";

/** Small pictures of items, each shown at work by `open` when it is clicked. */
export function gallery(data, items, run, open) {
  return element("div", { class: "gallery" }, ...items.map((item) => {
    const label = data.classes[item.label], answer = item.predicted?.[run];
    const isKnown = answer != null, isRight = answer === item.label;
    const sure = item.answers?.[run] ? `, ${percent(confidence(item, run))}` : "";
    const words = item.kind === "own" ? item.name : !isKnown ? label
      : `${label}, ${isRight ? "correct" : `predicted as ${data.classes[answer]}`}${sure}`;
    const canvas = element("canvas", { "aria-hidden": "true" });
    paintImage(canvas, item.values, data.images);
    return element("button", { type: "button", class: "thumbnail", "aria-label": words, title: words, onclick: () => open(item) },
      canvas, element("span", { "aria-hidden": "true" }, isKnown && !isRight ? `${label} → ${data.classes[answer]}` : label ?? item.name));
  }));
}

export function confusionSection(data, runs, open) {
  const section = element("section", { id: "confusion" }, element("h2", {}, runs.length > 1 ? "Confusion, and where the runs differ" : "Confusion and mistakes"));
  const { images } = data;
  if (!images.confusion?.some(Boolean)) {
    section.append(element("p", {}, images.confusion ? "What was predicted for these images is not known." : "The images of this run are not at hand."));
    return section;
  }
  section.append(element("p", { class: "note" }, `On ${images.number.toLocaleString("en-US")} ${images.split} images: a row a true class, a column the predicted one. A click on a cell shows images in it, a click on an image the network at work on it.`));
  section.append(element("div", { class: "side-by-side" }, ...images.confusion.map((counts, run) => {
    const heading = runs.length > 1 ? title(runs, run) : null;
    if (counts) return matrix(data, heading, counts, run, open);
    return element("div", {}, element("h3", {}, heading), element("p", {}, "What it predicted for these images is not known."));
  })));
  if (images.confusion.length > 1 && images.confusion.every(Boolean)) section.append(...differences(data, open));
  else if (runs.length === 1) {
    const wrong = mistakes(images, 0);
    section.append(element("h3", {}, "The most confident mistakes"), wrong.length ? gallery(data, wrong.slice(0, 40), 0, open) : element("p", {}, "None among these images."));
  }
  return section;
}

/** The items to which a run gave another class, the most confident first. */
export function mistakes(images, run) {
  return images.items.filter((item) => item.predicted?.[run] != null && item.predicted[run] !== item.label)
    .sort((a, b) => confidence(b, run) - confidence(a, run));
}

/** The probability of what a run takes an item for: the first of its answers. */
function confidence(item, run) {
  return item.answers?.[run]?.[0][1] ?? 0;
}

function matrix(data, heading, counts, run, open) {
  const most = Math.max(1, ...counts.flatMap((row, i) => row.filter((_, j) => j !== i)));
  const behind = element("div", { class: "behind", role: "status" });
  const cell = (count, i, j) => {
    const made = element("td", { class: i === j ? "right" : null });
    if (count === 0) {
      made.append(element("span", { class: "none" }, "·"));
      return made;
    }
    const words = i === j ? `${data.classes[i]} correct: ${count}` : `${data.classes[i]} predicted as ${data.classes[j]}: ${count}`;
    const button = element("button", { type: "button", "aria-label": words, title: words, onclick: () => show(i, j, count, words) }, String(count));
    if (i !== j) {
      button.style.backgroundColor = css(0.1 + (0.4 * count) / most, { palette: "count", limit: 1 });
      button.classList.add("wrong");
    }
    made.append(button);
    return made;
  };
  function show(i, j, count, words) {
    const items = data.images.items.filter((item) => item.label === i && item.predicted?.[run] === j);
    const some = items.length < count ? ` (${items.length} of them are on this page)` : "";
    behind.replaceChildren(element("h3", {}, words + some), gallery(data, items, run, open));
  }
  const names = data.classes;
  return element("div", {}, heading && element("h3", {}, heading),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "confusion matrix" }, element("table", { class: "matrix" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "true"), ...names.map((name) => element("th", { scope: "col", title: name }, shortName(name))), element("th", { scope: "col" }, "found"))),
      element("tbody", {}, ...counts.map((row, i) => element("tr", {}, element("th", { scope: "row", title: names[i] }, shortName(names[i])), ...row.map((count, j) => cell(count, i, j)),
        element("td", { class: "recall" }, row.some(Boolean) ? percent(row[i] / row.reduce((a, b) => a + b, 0)) : "")))))),
    behind);
}

/** The images that one run gets right and the other wrong. */
function differences(data, open) {
  const of = (right, wrong) => data.images.items.filter((item) => item.predicted?.[right] === item.label && item.predicted?.[wrong] != null && item.predicted[wrong] !== item.label);
  return [[0, 1], [1, 0]].flatMap(([right, wrong]) => {
    const items = of(right, wrong);
    return [element("h3", {}, `${letter(right)} is right, ${letter(wrong)} is wrong`),
      items.length ? gallery(data, items, wrong, open) : element("p", {}, "None among these images.")];
  });
}
