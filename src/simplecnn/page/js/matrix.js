// The confusion matrix with the images of its cells, and differences between two runs.
import { percent } from "./arrays.js";
import { css, paintImage } from "./colors.js";
import { element, shortName } from "./dom.js";
import { letter, title } from "./head.js";

/** Thumbnails of items; a click on one calls `open` with it. */
export function gallery(data, items, run, open) {
  return element("div", { class: "gallery" }, ...items.map((item) => {
    const label = data.classes[item.label], predicted = item.predicted?.[run];
    const isKnown = predicted != null, isCorrect = predicted === item.label;
    const probability = item.answers?.[run] ? `, ${percent(confidence(item, run))}` : "";
    const description = item.kind === "own" ? item.name : !isKnown ? label
      : `${label}, ${isCorrect ? "correct" : `predicted as ${data.classes[predicted]}`}${probability}`;
    const canvas = element("canvas", { "aria-hidden": "true" });
    paintImage(canvas, item.values, data.images);
    return element("button", { type: "button", class: "thumbnail", "aria-label": description, title: description, onclick: () => open(item) },
      canvas, element("span", { "aria-hidden": "true" }, isKnown && !isCorrect ? `${label} → ${data.classes[predicted]}` : label ?? item.name));
  }));
}

export function confusionSection(data, runs, open) {
  const section = element("section", { id: "confusion" }, element("h2", {}, runs.length > 1 ? "Confusion and differences" : "Confusion and mistakes"));
  const { images } = data;
  if (!images.confusion?.some(Boolean)) {
    section.append(element("p", {}, images.confusion ? "There are no predictions for these images." : "The images of this run are not available."));
    return section;
  }
  section.append(element("p", { class: "note" }, `${images.number.toLocaleString("en-US")} ${images.split} images${runs.length === 1 ? `, as predicted by ${runs[0].checkpoint}` : ""}. Rows are true classes, columns are predicted classes. Click a cell to show its images, and an image to run the network on it.`));
  if (!images.is_common) section.append(element("p", { class: "note" }, "These are images of A. B was trained on other data, perhaps on some of these images."));
  section.append(element("div", { class: "side-by-side" }, ...images.confusion.map((counts, run) => {
    const heading = runs.length > 1 ? title(runs, run) : null;
    if (counts) return matrix(data, heading, counts, run, open);
    return element("div", {}, element("h3", {}, heading), element("p", {}, "There are no predictions for these images."));
  })));
  if (images.confusion.length > 1 && images.confusion.every(Boolean)) section.append(...differences(data, open));
  else if (runs.length === 1) {
    const wrong = mistakes(images, 0);
    section.append(element("h3", {}, "The most confident mistakes"), wrong.length ? gallery(data, wrong.slice(0, 40), 0, open) : element("p", {}, "None among these images."));
  }
  return section;
}

/** The items that a run misclassifies, the most confident first. */
export function mistakes(images, run) {
  return images.items.filter((item) => item.predicted?.[run] != null && item.predicted[run] !== item.label)
    .sort((a, b) => confidence(b, run) - confidence(a, run));
}

/** The probability of the class that a run predicts. */
function confidence(item, run) {
  return item.answers?.[run]?.[0][1] ?? 0;
}

function matrix(data, heading, counts, run, open) {
  // One color scale for all runs.
  const most = Math.max(1, ...data.images.confusion.flatMap((rows) => rows?.flatMap((row, i) => row.filter((_, j) => j !== i)) ?? []));
  const images = element("div", { class: "cell-images", role: "status" });
  const cell = (count, i, j) => {
    const node = element("td", { class: i === j ? "correct" : null });
    if (count === 0) {
      node.append(element("span", { class: "none" }, "·"));
      return node;
    }
    const description = i === j ? `${data.classes[i]} correct: ${count}` : `${data.classes[i]} predicted as ${data.classes[j]}: ${count}`;
    const button = element("button", { type: "button", "aria-label": description, title: description, onclick: () => show(i, j, count, description) }, String(count));
    if (i !== j) {
      button.style.backgroundColor = css(0.1 + (0.4 * count) / most, { palette: "count", limit: 1 });
      button.classList.add("wrong");
    }
    node.append(button);
    return node;
  };
  function show(i, j, count, description) {
    const items = data.images.items.filter((item) => item.label === i && item.predicted?.[run] === j);
    const note = items.length < count ? ` (${items.length} of them are on this page)` : "";
    images.replaceChildren(element("h3", {}, description + note), gallery(data, items, run, open));
  }
  const names = data.classes.slice(0, counts.length); // without outputs that are no class of the data
  return element("div", {}, heading && element("h3", {}, heading),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "confusion matrix" }, element("table", { class: "matrix" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "true"), ...names.map((name) => element("th", { scope: "col", title: name }, shortName(name))), element("th", { scope: "col" }, "recall"))),
      element("tbody", {}, ...counts.map((row, i) => element("tr", {}, element("th", { scope: "row", title: names[i] }, shortName(names[i])), ...row.map((count, j) => cell(count, i, j)),
        element("td", { class: "recall" }, row.some(Boolean) ? percent(row[i] / row.reduce((a, b) => a + b, 0)) : "")))))),
    images);
}

/** The images that one run classifies correctly and the other incorrectly. */
function differences(data, open) {
  const between = (right, wrong) => data.images.items.filter((item) => item.predicted?.[right] === item.label && item.predicted?.[wrong] != null && item.predicted[wrong] !== item.label);
  return [[0, 1], [1, 0]].flatMap(([right, wrong]) => {
    const items = between(right, wrong);
    return [element("h3", {}, `${letter(right)} is right, ${letter(wrong)} is wrong`),
      items.length ? gallery(data, items, wrong, open) : element("p", {}, "None among these images.")];
  });
}
