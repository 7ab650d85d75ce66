// Sections on the run: results, command, configuration, curves, health, figures.
import { percent } from "./arrays.js";
import { chart } from "./chart.js";
import { copyButton, element, table } from "./dom.js";

const STAGES = { train: ["training", 0], val: ["validation", 1], test: ["test", 2] };
const COLORS = ["var(--line-0)", "var(--line-1)", "var(--line-2)"];
const DASHES = ["", "6 4"]; // of the first and the second run
export const letter = (i) => "AB"[i];

/** The title of a run; with its letter and directory if there are two runs. */
export function title(runs, i) {
  return runs.length === 1 ? runs[i].title : `${letter(i)}: ${runs[i].title}, ${runs[i].name}`;
}

export function headSection(heading, runs) {
  return element("header", {},
    element("p", { class: "brand" }, "simplecnn · report"),
    element("h1", {}, heading),
    ...runs.map((run, i) => runHead(run, runs.length > 1 ? `${letter(i)}: ${run.title}` : null)));
}

function runHead(run, heading) {
  const seconds = Object.values(run.seconds ?? {}).reduce((a, b) => a + b, 0);
  const [metrics, when] = lastMetrics(run);
  // The test is of the best checkpoint; without one, these are metrics of test_each_epoch.
  const tested = run.best && run.seconds?.test !== undefined ? `, after epoch ${run.best.epoch}` : "";
  const stage = Object.keys(STAGES).findLast((name) => `${name}/loss` in metrics || `${name}/acc` in metrics);
  const facts = [
    ["status", run.status ?? "unknown"],
    ...Object.entries(metrics).filter(([name]) => name.startsWith(`${stage}/`)).map(([name, value]) =>
      [`${STAGES[stage][0]} ${name.slice(stage.length + 1).replace(/^acc$/, "accuracy")}${when || (stage === "test" ? tested : "")}`, metricText(name, value)]),
    ["parameters", run.num_parameters?.toLocaleString("en-US")],
    ["epochs", run.num_epochs],
    ["device", run.device?.name],
    ["total time", seconds ? `${seconds.toFixed(1)} s` : null],
    ["seed", run.seed],
  ].filter(([, value]) => value !== null && value !== undefined);
  const command = run.command ?? "";
  return element("div", { class: "run" },
    heading && element("h2", {}, heading),
    element("p", { class: "note" }, run.path),
    element("dl", { class: "facts" }, ...facts.map(([name, value]) =>
      element("div", { class: name === "status" ? `status ${run.status}` : null },
        element("dt", {}, name), element("dd", {}, String(value))))),
    run.error && element("p", { class: "error", role: "alert" }, run.error),
    run.ended && element("p", { class: "note" }, `Training ended: ${run.ended}.`),
    element("div", { class: "command" }, element("span", { class: "label" }, "reproduce"),
      element("code", {}, command), copyButton(command)));
}

/** The final metrics and "", or those of the last epoch and ", epoch n" if the run did not finish. */
function lastMetrics(run) {
  if (run.metrics && Object.keys(run.metrics).length) return [run.metrics, ""];
  const curves = Object.entries(run.curves?.epochs ?? {}).filter(([, points]) => points.length);
  const last = Object.fromEntries(curves.map(([name, points]) => [name, points.at(-1)[1]]));
  const epoch = (curves.find(([name]) => name.startsWith("val/")) ?? curves[0])?.[1].at(-1)[0];
  return [last, `, epoch ${epoch}`];
}

// As in simplecnn.table.
const isPercentage = (metric) => /(^|[/_])acc(uracy)?$|(^|\/)acc(uracy)?_[^/]*$/.test(metric);

function metricText(name, value) {
  if (!Number.isFinite(value)) return String(value);
  return isPercentage(name) ? percent(value, 2) : value.toFixed(4);
}

/** The configuration, first the keys that differ from the defaults, or between two runs. */
export function configurationSection(runs) {
  const values = runs.map((run) => new Map(run.config.map(([key, value]) => [key, value])));
  let rows, head, note;
  if (runs.length === 1) {
    rows = runs[0].config.map(([key, value, standard]) => ({ cells: [key, value, standard ?? ""], differs: standard !== null }));
    head = ["key", "value", "default"];
    note = "All keys have their default values.";
  } else {
    const keys = [...new Set(values.flatMap((map) => [...map.keys()]))];
    rows = keys.map((key) => ({ cells: [key, ...values.map((map) => map.get(key) ?? "—")],
      differs: values[0].get(key) !== values[1].get(key) }));
    head = ["key", ...runs.map((_, i) => letter(i))];
    note = "The configurations are the same.";
  }
  const differing = rows.filter((row) => row.differs), others = rows.filter((row) => !row.differs);
  const grid = (selected, label) => table([head, ...selected.map(({ cells }) => cells)], { class: "configuration", "aria-label": label });
  return element("section", { id: "configuration" },
    element("h2", {}, runs.length === 1 ? "Configuration" : "Differences between the configurations"),
    differing.length ? grid(differing, "differing keys") : element("p", {}, note),
    element("details", {}, element("summary", {}, `the ${others.length} other keys`), grid(others, "the other keys")));
}

export function curvesSection(runs) {
  const measured = runs.filter((run) => run.curves);
  const section = element("section", { id: "curves" }, element("h2", {}, "Curves"));
  if (!measured.length) {
    section.append(element("p", {}, "No epoch finished, or the run recorded no curves."));
    return section;
  }
  const several = runs.length > 1;
  const of = (suffix, pick) => runs.flatMap((run, i) => (run.curves ? pick(run.curves).map((line) => ({
    ...line, name: several ? `${letter(i)} ${line.name}` : line.name, dash: DASHES[i] || line.dash,
  })) : []));
  const byStage = (metric) => (curves) => Object.entries(STAGES).filter(([stage]) => curves.epochs[`${stage}/${metric}`])
    .map(([stage, [name, color]]) => ({ name, color: COLORS[color], points: curves.epochs[`${stage}/${metric}`] }));
  const single = (name, label) => (curves) => (curves.steps[name] ? [{ name: label, color: "var(--faint)", faint: true, points: curves.steps[name] }] : []);
  const metrics = [...new Set(measured.flatMap((run) => Object.keys(run.curves.epochs))
    .filter((name) => /^(train|val|test)\//.test(name)).map((name) => name.split("/").slice(1).join("/")))];
  // All charts share one axis; its points are described by the epoch and the step of the first run.
  const ends = measured.flatMap(({ curves }) => [...Object.values(curves.epochs), ...Object.values(curves.steps)]
    .flatMap((points) => points.map(([x]) => x)));
  const { steps_per_epoch: perEpoch, step_offset: offset } = measured[0].curves;
  const axis = { x: "epoch", range: [0, Math.max(1, ...ends)],
    place: (x) => `epoch ${Math.max(1, Math.ceil(x))}${several ? "" : `, step ${Math.round(x * perEpoch + offset)}`}` };
  const charts = metrics.sort((a, b) => order(a) - order(b)).map((metric) => chart(
    of(metric, (curves) => [...(metric === "loss" ? single("loss", "single batch")(curves) : []), ...byStage(metric)(curves)]),
    { title: { loss: "Loss", acc: "Accuracy" }[metric] ?? metric, ...axis, percent: isPercentage(metric) }));
  charts.push(chart(of("lr", (curves) => single("lr", "learning rate")(curves).map((line) => ({ ...line, faint: false, color: COLORS[0] }))),
    { title: "Learning rate", ...axis, linear: true }));
  section.append(element("div", { class: "charts" }, ...charts));
  return section;
}

const order = (metric) => ({ loss: 0, acc: 1 })[metric] ?? 2;

const HEALTH = {
  dead: ["Dead: outputs that are zero for every image", true], always_on: ["Outputs that are positive for every image", true],
  zeros: ["Zeros among all outputs", true], std: ["Standard deviation of the outputs", false],
  norm: ["Gradient norm", false], update: ["Relative weight change per step", false],
};
const EARLY = ["norm", "update"]; // measured at early steps, too

export function healthSection(runs) {
  const section = element("section", { id: "health" }, element("h2", {}, "Health"));
  runs.forEach((run, i) => {
    if (!run.health) return;
    const { layers, quantities } = run.health;
    const charts = Object.entries(HEALTH).filter(([name]) => quantities[name]?.some((points) => points.length)).map(([name, [text, isShare]]) =>
      chart(layers.map((layer, l) => ({ name: layer, color: `var(--line-${l % 6})`, dash: l >= 6 ? "5 3" : null, points: quantities[name][l] })),
        { title: text, x: "step", logX: EARLY.includes(name), percent: isShare, zero: isShare }));
    section.append(...(runs.length > 1 ? [element("h3", {}, title(runs, i))] : []), element("div", { class: "charts" }, ...charts));
  });
  return section.childElementCount > 1 ? section : null;
}

export function picturesSection(runs) {
  const section = element("section", { id: "pictures" }, element("h2", {}, "Figures"));
  runs.forEach((run, i) => {
    if (!run.pictures.length) return;
    section.append(...(runs.length > 1 ? [element("h3", {}, title(runs, i))] : []), ...run.pictures.map(({ name, png, width, height }) =>
      element("details", {}, element("summary", {}, name),
        png === null
          ? element("p", {}, `omitted to keep the page small; see images/${name}.png in the run directory`)
          : element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name },
            element("img", { src: `data:image/png;base64,${png}`, alt: name, width, height })))));
  });
  return section.childElementCount > 1 ? section : null;
}
