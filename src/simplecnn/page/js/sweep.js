// The page of a sweep: a table of its jobs, results by parameter, learning curves.
import { digits } from "./arrays.js";
import { chart, linearTicks } from "./chart.js";
import { copyButton, element, fitted, shape } from "./dom.js";

const data = JSON.parse(document.getElementById("data").textContent);
const { jobs, keys, metric, mode } = data;
const rows = new Map(); // table rows by job name
document.querySelector("main").append(headOfSweep(), meanTable(), jobTable(), values(), curves());

function headOfSweep() {
  return element("header", {},
    element("p", { class: "brand" }, "simplecnn · sweep"), element("h1", {}, data.title), data.folder && element("p", { class: "note" }, data.folder), element("p", {}, data.summary),
    ...[["command", data.command], ...data.answers].map(([label, text]) => element("div", { class: "command" },
      element("span", { class: "label" }, label), element("code", {}, text), ["command", "reproduce", "resume"].includes(label) ? copyButton(text) : null)));
}

/** Mean ± standard deviation (n) of jobs that differ only in their seed; empty without such jobs. */
function meanTable() {
  const columns = Object.entries(data.means);
  if (!columns.length) return "";
  const rowsOfCells = columns[0][1].map((_, i) => element("tr", {}, ...columns.map(([, cells]) => element("td", {}, cells[i]))));
  return element("section", { id: "means" }, element("h2", {}, "Means over seeds"),
    element("p", { class: "note" }, "The best first: mean ± standard deviation (number of jobs)."),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "means over seeds" },
      element("table", { class: "means" }, element("thead", {}, element("tr", {}, ...columns.map(([name]) => element("th", { scope: "col" }, name)))), element("tbody", {}, ...rowsOfCells))));
}

function jobTable() {
  const columns = Object.keys(jobs[0]?.cells ?? {});
  const body = element("tbody");
  const heads = columns.map((column) => {
    const head = element("th", { scope: "col", class: isText(column) ? "text" : null });
    head.append(element("button", { type: "button", onclick: () => sort(column, head) }, column));
    return head;
  });
  for (const job of jobs) {
    const row = element("tr", {}, ...columns.map((column, i) => element("td", { class: `${isText(column) ? "text " : ""}${column === "status" ? job.status : ""}` },
      i === 0 && job.link ? element("a", { href: job.link }, job.cells[column]) : job.cells[column])));
    rows.set(job.name, row);
    body.append(row);
  }

  function isText(column) {
    return jobs.some((job) => job.cells[column] !== "" && Number.isNaN(number(job.cells[column])));
  }

  /** The value of `0.5` or `98,442`; NaN for any other text. */
  function number(text) {
    return Number(/^\d{1,3}(,\d{3})+$/.test(text) ? text.replaceAll(",", "") : text);
  }

  /** Sorts ascending at the first click, descending at the next; jobs without a value come last. */
  function sort(column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => (isText(column) ? a.localeCompare(b, "en", { numeric: true }) : number(a) - number(b)) * (down ? -1 : 1);
    const sorted = [...jobs].sort(({ cells: { [column]: a } }, { cells: { [column]: b } }) => (a === "") - (b === "") || order(a, b));
    body.append(...sorted.map((job) => rows.get(job.name)));
  }

  const failed = jobs.filter((job) => job.error);
  return element("section", { id: "jobs" }, element("h2", {}, "Jobs"),
    element("p", { class: "note" }, `Sorted by ${metric}, ${mode === "max" ? "highest" : "lowest"} first. Click a heading to sort the table${jobs.some((job) => job.link) ? ", or a job to open its page" : ""}.`),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "jobs" },
      element("table", { class: "jobs" }, element("thead", {}, element("tr", {}, ...heads)), body)),
    ...failed.map((job) => element("p", { class: "error" }, `job ${job.name} ${job.status}: ${job.error} `, job.log ? element("a", { href: job.log }, "log") : null)));
}

function values() {
  return element("section", { id: "values" }, element("h2", {}, `${metric} by parameter`),
    element("div", { class: "charts" }, ...keys.map((key, k) => scatter(key, jobs.filter((job) => job.result !== null)
      .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })) // values in the order of the sweep
      .map((job) => ({ name: job.name, value: job.values[k], result: job.result }))))));
}

/** A dot per job: result against parameter, on a logarithmic axis if values span a factor of ten. */
function scatter(key, points) {
  const area = element("div", { class: "plot" }), output = element("p", { class: "values", role: "status" });
  const isNumber = points.every(({ value }) => typeof value === "number");
  const distinct = [...new Set(points.map(({ value }) => value))];
  if (isNumber) distinct.sort((a, b) => a - b);
  const isLog = isNumber && distinct[0] > 0 && distinct[distinct.length - 1] >= 10 * distinct[0];
  const position = (value) => (!isNumber ? distinct.indexOf(value) : isLog ? Math.log10(value) : value);
  const xs = points.map(({ value }) => position(value)), ys = points.map(({ result }) => result);
  if (points.length) fitted(area, (width) => {
    const height = 220, left = 56, bottom = 40;
    const margin = (low, high) => [low - 0.08 * (high - low || 1), high + 0.08 * (high - low || 1)];
    const [x0, x1] = margin(Math.min(...xs), Math.max(...xs)), [y0, y1] = margin(Math.min(...ys), Math.max(...ys));
    const toX = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - 12);
    const toY = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - bottom - 10);
    const svg = shape("svg", { width, height, role: "img", "aria-label": `${metric} by ${key}: ${points.map((p) => `${p.value}: ${digits(p.result, 4)}`).join(", ")}` });
    for (const tick of linearTicks(y0, y1, 4)) svg.append(
      shape("line", { x1: left, x2: width - 12, y1: toY(tick), y2: toY(tick), class: "grid" }),
      shape("text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, digits(tick, 4)));
    let free = 0; // where the previous tick label ends
    for (const value of distinct) {
      const x = toX(position(value));
      if (x < free) continue;
      const text = isNumber ? digits(value) : String(value).slice(0, 14);
      free = x + 7 * text.length + 8;
      svg.append(shape("text", { x, y: height - bottom + 16, "text-anchor": "middle" }, text));
    }
    svg.append(shape("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, key));
    for (const point of points) {
      const text = `job ${point.name}: ${key} ${point.value}, ${metric} ${digits(point.result, 4)}`;
      const dot = shape("circle", { cx: toX(position(point.value)), cy: toY(point.result), r: 5, fill: "var(--line-0)", "fill-opacity": .7, tabindex: 0, role: "img", "aria-label": text });
      const select = () => {
        output.textContent = text;
        highlightRow(point.name);
      };
      dot.addEventListener("pointerenter", select);
      dot.addEventListener("focus", select);
      svg.append(dot);
    }
    area.replaceChildren(svg);
  });
  return element("figure", { class: "chart" }, element("figcaption", {}, key), area, output);
}

function highlightRow(name) {
  for (const [job, row] of rows) row.classList.toggle("highlighted", job === name);
}

function curves() {
  const drawn = jobs.filter((job) => job.curve.length);
  const best = drawn.filter((job) => job.result !== null).sort((a, b) => (mode === "max" ? b.result - a.result : a.result - b.result))[0];
  const lines = drawn.map((job, i) => ({ name: job.label, color: `var(--line-${i % 6})`, dash: ["", "6 3", "2 3", "8 3 2 3"][Math.floor(i / 6) % 4], points: job.curve }));
  return element("section", { id: "curves" }, element("h2", {}, "Learning curves"),
    best ? element("p", { class: "note" }, `The best is job ${best.name}. Point at a curve to highlight it and its row in the table.`) : null,
    chart(lines, { title: data.curve_metric, x: "epoch", highlights: true, onhover: (label) => highlightRow(drawn.find((job) => job.label === label)?.name) }));
}
