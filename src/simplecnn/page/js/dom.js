// Creation of elements. Text from a run is always inserted as text, never parsed as HTML.

/** element("p", {class: "note", onclick: f}, "text", child, …) */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Like `element`, for SVG. */
export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child || child === 0));
  return node;
}

/** A table from rows of cells, which are text or elements; the first row is the header. */
export function table(rows, attributes = {}) {
  const [head, ...body] = rows;
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": attributes["aria-label"] },
    element("table", attributes,
      element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
      element("tbody", {}, ...body.map((row) => element("tr", {}, ...row.map((cell, i) =>
        i === 0 ? element("th", { scope: "row" }, cell) : element("td", {}, cell)))))));
}

/** Shortens a long class name in the middle. */
export function shortName(name) {
  const letters = [...name], part = /[\u2e80-\uffff]/.test(name) ? 3 : 7; // CJK characters are wide
  return letters.length <= 2 * part + 1 ? name : [...letters.slice(0, part), "…", ...letters.slice(-part)].join("");
}

/** Calls `draw(width)` when an element is added to the page, and whenever its width changes. */
export function fitted(target, draw) {
  let drawnWidth = 0;
  new ResizeObserver(() => {
    const width = Math.floor(target.clientWidth);
    if (width > 0 && width !== drawnWidth) draw((drawnWidth = width));
  }).observe(target);
}

/** The position of an event on a canvas, in pixels of the canvas. */
export function positionOn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

/** Returns a function that schedules `work` for the next frame, at most once per frame. */
export function oncePerFrame(work) {
  let isScheduled = false;
  return () => {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => {
      isScheduled = false;
      work();
    });
  };
}

/** A button that copies `text`, with a fallback for pages that may not access the clipboard. */
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
