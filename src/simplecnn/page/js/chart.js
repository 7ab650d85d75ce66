// A line chart in SVG that shows the values under the pointer or the arrow keys.
import { clampIndex, digits } from "./arrays.js";
import { element, fitted, shape } from "./dom.js";

const HEIGHT = 230, LEFT = 52, RIGHT = 14, TOP = 10, BOTTOM = 34;

/**
 * lines: [{name, color, dash, points: [[x, y], …], faint}].
 * options: title, x (axis label), range (of x; by default that of the points), logX (a logarithmic axis of x),
 * place (formats x), percent (values are fractions), zero (the axis begins at zero), linear (never use a logarithmic axis),
 * highlights (highlight the line under the pointer or chosen by the up and down keys), onhover (called with its name or null).
 */
export function chart(lines, options) {
  lines = lines.filter((line) => line.points.length);
  const output = element("p", { class: "values", role: "status" });
  const area = element("div", { class: "plot" });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, options.title), area,
    legend(lines), output);
  if (lines.length === 0) {
    area.append(element("p", { class: "note" }, "No data."));
    return figure;
  }
  fitted(area, (width) => area.replaceChildren(plot(lines, options, width, output)));
  return figure;
}

function legend(lines) {
  return element("ul", { class: "legend" }, ...lines.map((line) => element("li", {},
    shape("svg", { width: 26, height: 10, "aria-hidden": "true" },
      shape("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: line.color, "stroke-width": line.faint ? 1 : 2.5,
        "stroke-dasharray": line.dash })), ` ${line.name}`)));
}

function plot(lines, options, width, output) {
  const ys = lines.flatMap((line) => line.points.map(([, y]) => y));
  const xs = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const lowest = Math.min(...ys), high = Math.max(...ys);
  const isLog = !options.percent && !options.linear && lowest > 0 && high > 10 * lowest;
  const low = isLog ? Math.max(lowest, high / 1e5) : lowest; // one tiny value must not flatten all others
  const [bottom, top] = isLog ? [Math.log10(low), Math.log10(high)] : padded(options.zero ? 0 : low, high, options);
  const [first, last] = options.range ?? [xs[0], xs[xs.length - 1]];
  const scaled = options.logX ? Math.log10 : (x) => x;
  const toX = (x) => LEFT + ((scaled(x) - scaled(first)) / (scaled(last) - scaled(first) || 1)) * (width - LEFT - RIGHT);
  const toY = (y) => HEIGHT - BOTTOM - (((isLog ? Math.log10(Math.max(y, low)) : y) - bottom) / (top - bottom || 1)) * (HEIGHT - TOP - BOTTOM);
  const place = options.place ?? ((x) => `${options.x} ${digits(x, 5)}`);
  const text = (y) => (options.percent ? `${digits(100 * y, 4)} %` : digits(y));
  const svg = shape("svg", { width, height: HEIGHT, role: "img", tabindex: 0,
    "aria-label": `${options.title}. ${summary(lines, text)} Arrow keys read the values${options.highlights ? "; up and down choose a curve" : ""}.` });
  const ticks = isLog ? logTicks(low, high) : linearTicks(bottom, top);
  for (const tick of ticks) {
    svg.append(shape("line", { x1: LEFT, x2: width - RIGHT, y1: toY(tick), y2: toY(tick), class: "grid" }),
      shape("text", { x: LEFT - 6, y: toY(tick) + 4, "text-anchor": "end" },
        options.percent ? `${digits(100 * tick, 5)} %` : digits(tick, 5)));
  }
  for (const tick of options.logX ? logTicks(first, last) : linearTicks(first, last, Math.max(2, Math.floor(width / 90)))) {
    if (Number.isInteger(tick)) svg.append(shape("text", { x: toX(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, digits(tick, 5)));
  }
  svg.append(shape("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, `${options.x}${options.logX ? ", log scale" : ""}`));
  const drawn = lines.map((line) => {
    const path = shape("path", { fill: "none", stroke: line.color, "stroke-width": line.faint ? 1 : 2,
      "stroke-dasharray": line.dash, "stroke-linejoin": "round", class: line.faint ? "faint" : null,
      d: line.points.map(([x, y], i) => `${i ? "L" : "M"}${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join("") });
    const group = shape("g", {}, path);
    if (line.points.length < 40 && !line.faint) {
      group.append(...line.points.map(([x, y]) => shape("circle", { cx: toX(x), cy: toY(y), r: 2.5, fill: line.color })));
    }
    svg.append(group);
    return group;
  });
  const cursor = shape("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  let at = xs.length - 1;
  const show = (index) => {
    at = clampIndex(index, xs.length);
    cursor.setAttribute("x1", toX(xs[at]));
    cursor.setAttribute("x2", toX(xs[at]));
    cursor.setAttribute("visibility", "visible");
    output.textContent = `${place(xs[at])}: ` + lines
      .map((line) => `${line.name} ${text(nearest(line.points, xs[at])[1])}`).join(" · ");
  };
  let chosen = null;
  const highlight = (index) => {
    chosen = index;
    drawn.forEach((group, i) => group.classList.toggle("dimmed", index !== null && i !== index));
    options.onhover?.(index === null ? null : lines[index].name);
    if (index !== null) output.textContent = `${lines[index].name}: ${text(nearest(lines[index].points, xs[at])[1])}, ${place(xs[at])}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    show(xs.reduce((best, value, i) => (Math.abs(toX(value) - x) < Math.abs(toX(xs[best]) - x) ? i : best), 0));
    if (options.highlights) {
      const distances = lines.map((line) => Math.abs(toY(nearest(line.points, xs[at])[1]) - y));
      const closest = distances.indexOf(Math.min(...distances));
      highlight(distances[closest] < 25 ? closest : null);
    }
  });
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    if (options.highlights) highlight(null);
  };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length }[event.key];
    const turn = options.highlights ? { ArrowUp: -1, ArrowDown: 1 }[event.key] : undefined;
    if (step === undefined && turn === undefined) return;
    event.preventDefault();
    show(at + (step ?? 0));
    if (turn !== undefined) highlight(clampIndex((chosen ?? -1) + turn, lines.length));
    else if (chosen !== null) highlight(chosen);
  });
  return svg;
}

function nearest(points, x) {
  return points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
}

function summary(lines, text) {
  return lines.map(({ name, points }) => `${name}: ${text(points[0][1])} to ${text(points[points.length - 1][1])}.`).join(" ");
}

/** The limits of an axis with a margin, not below zero if it begins there; a constant is in its middle, or below 100 %. */
function padded(low, high, { zero, percent }) {
  const most = percent ? 1.04 * Math.max(1, high) : Infinity;
  if (high - low <= 1e-6 * Math.abs(high)) return high > 0 ? [0, Math.min(2 * high, most)] : [low - 1, high + 1];
  const margin = (high - low) * 0.04;
  return [zero ? low : low - margin, high + margin];
}

/** About `count` round numbers between two limits. */
export function linearTicks(low, high, count = 6) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((n) => n * power >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Powers of ten between two limits; also 2 and 5 times them if there are few. */
function logTicks(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const factors = to - from > 2 ? [1] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((to - from) / 6)); // a run of one step has one power
  const ticks = [];
  for (let power = from; power <= to; power += every) ticks.push(...factors.map((n) => n * 10 ** power));
  return ticks.filter((tick) => tick >= low && tick <= high);
}
