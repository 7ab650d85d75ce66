// Elements made in one line. Whatever text comes from a run stays text: nothing is parsed as HTML.

/** element("p", {class: "note", onclick: f}, "text", child, …) */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child || child === 0));
  return made;
}

/** A table of rows; the first is its head. Cells are text or elements. */
export function table(rows, attributes = {}) {
  const [head, ...body] = rows;
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": attributes["aria-label"] },
    element("table", attributes,
      element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
      element("tbody", {}, ...body.map((row) => element("tr", {}, ...row.map((cell, i) =>
        i === 0 ? element("th", { scope: "row" }, cell) : element("td", {}, cell)))))));
}

/** The name of a class for a narrow place: of a long one the first and the last characters. */
export function shortName(name) {
  const letters = [...name], part = /[\u2e80-\uffff]/.test(name) ? 3 : 7; // Chinese letters are wide
  return letters.length <= 2 * part + 1 ? name : [...letters.slice(0, part), "…", ...letters.slice(-part)].join("");
}

/** Calls `draw(width)` now that the element is on the page, and whenever its width changes. */
export function fitted(target, draw) {
  let before = 0;
  new ResizeObserver(() => {
    const width = Math.floor(target.clientWidth);
    if (width > 0 && width !== before) draw((before = width));
  }).observe(target);
}

/** Does `work` once before the next frame, however often it is asked for. */
export function once(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}

/** A button that copies `text`, also where a page from a file may not use the clipboard. */
export function copyButton(text) {
  const button = element("button", { type: "button", class: "copy", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = element("textarea", { readonly: true }, text);
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
  return button;
}
