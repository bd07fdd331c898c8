// The toy model: loss, products and stages of a run up to a time, beside what Algorithm 1 predicts.

const PRODUCTS = { KQ: "W<sub>K</sub>W<sub>Q</sub><sup>⊤</sup>", VO: "W<sub>V</sub>W<sub>O</sub><sup>⊤</sup>" };
const METHODS = {
  flow: "gradient flow", gd: "gradient descent", sgd: "stochastic gradient descent", adam: "Adam", sign: "sign descent",
  muon: "Muon",
};
const STAGE_SYMBOLS = { KQ: "circle", VO: "diamond" };
const MANY = 20; // lines or marks, above which they are drawn smaller
const RESCALED_TIME = "time / ln(1/α)";

// Choices

function variantName(name) {
  const { weights, teacher, method, layers, heads } = study.toy.variants[name];
  const attention = layers ? `, layers: ${layers}, heads: ${heads}` : "";
  return `${name}: ${weights} weights, ${teacher} teacher, ${METHODS[method]}${attention}`;
}

const toyRunName = ({ variant, alpha, seed }) => `${variant}, α = ${alpha}, seed ${seed}`;

function chooseToy() {
  const { runs } = study.toy;
  const names = unique(runs.map((run) => run.variant));
  const variant = choose("variant", names, names[0]);
  const ofVariant = runs.filter((run) => run.variant === variant);
  const problems = unique(ofVariant.map((run) => run.seed));
  const problem = choose("problem", problems, study.shown.problem);
  const ofProblem = ofVariant.filter((run) => run.seed === problem);
  const alphas = ofProblem.map((run) => run.alpha);
  const run = ofProblem.find((candidate) => candidate.alpha === choose("alpha", alphas, study.shown.alpha));
  const [layers, heads] = run.KQ.shape;
  const layer = choose("toy-layer", range(layers), 0);
  const head = choose("toy-head", range(heads), 0);
  const end = array(run.time).at(-1);
  const time = chooseNumber("time", end, (wanted) => Math.max(0, Math.min(end, wanted)));
  const options = { names, problems, alphas, layers, heads };
  return { ...viewOfToy(run, layer, head, time), isLog: chooseFlag("log-loss"), options };
}

function viewOfToy(run, layer, head, time) {
  const { runs, stages, variants } = study.toy;
  const [layers, heads] = run.KQ.shape;
  return {
    run, time, layer: Math.min(layer, layers - 1), head: Math.min(head, heads - 1), end: array(run.time).at(-1),
    others: runs.filter((other) => other !== run && other.variant === run.variant && other.seed === run.seed),
    prediction: stages[variants[run.variant].limit]?.[run.seed],
    full: variants[run.variant].weights === "full",
  };
}

function showToyControls({ end, time, options }) {
  showOptions("variant", options.names, variantName);
  showOptions("problem", options.problems);
  for (const [id, count] of [["toy-layer", options.layers], ["toy-head", options.heads]]) {
    showOptions(id, range(count), (number) => number + 1);
    byId(id).closest("label").hidden = count < 2;
  }
  showSlider("alpha", options.alphas, String);
  Object.assign(byId("time"), { max: end, step: end / 1000, value: time });
  showValue("time", time.toFixed(0));
}

// Stages

const keyOf = ({ layer, head, product, index }, number) =>
  [layer[number], head[number], product[number], index[number]].join(" ");

// The first stage in which each coordinate becomes active, from 0, by its key.
function firstStages(prediction) {
  const first = {};
  prediction?.index.forEach((_, stage) => { first[keyOf(prediction, stage)] ??= stage; });
  return first;
}

// When the coordinate of each predicted stage became active in the run; null if it did not. A coordinate that leaves
// and comes back has several stages.
function measuredTimes(run, prediction) {
  const times = {};
  array(run.events.time).forEach((time, event) => { (times[keyOf(run.events, event)] ??= []).push(time); });
  return prediction.index.map((_, stage) => times[keyOf(prediction, stage)]?.shift() ?? null);
}

// A staircase: `start` before the first stage time, then values[k] from times[k] on.
function staircase(prediction, start, values, end) {
  const times = array(prediction.time);
  return { x: [0, ...times, end], y: [start, ...values, values.at(-1)] };
}

// Panels

function lossTraces(view) {
  const { run, others, prediction, end, time } = view;
  const traces = others.map((other) => ({
    x: array(other.time), y: array(other.loss), line: { color: color("quiet"), width: 1, dash: "1px,3px" },
    hoverinfo: "skip", name: `loss at α = ${other.alpha}`,
  }));
  if (prediction?.index.length) {
    // At alpha -> 0 training starts where the run with the smallest alpha does.
    const start = prediction.start ?? array([run, ...others].at(-1).loss)[0];
    const limit = staircase(prediction, start, array(prediction.loss), end);
    traces.push({
      ...limit, line: { color: color("limit"), width: 6, shape: "hv" }, hoverinfo: "skip", name: "predicted limit",
    });
  }
  traces.push({
    ...curveUpTo(array(run.time), array(run.loss), time), line: { color: color("measured"), width: 1.6 }, name: "loss",
    hovertemplate: "loss %{y:.4f} at %{x:.1f}<extra></extra>",
  });
  return traces.map((trace) => ({ mode: "lines", ...trace }));
}

const entryName = (view, index) => (view.full ? `singular value ${index + 1}` : `entry ${index + 1}`);

function entryTraces(view, product, yaxis, stages) {
  const { run, prediction, layer, head, full, time, end } = view;
  const values = array(run[product])[layer][head];
  const stageOf = (index) => stages[`${layer} ${head} ${product} ${index}`];
  const active = (index) => full || stageOf(index) !== undefined;
  const shown = values.map((value) => curveUpTo(array(run.time), value, time));
  const traces = [{
    ...joined(shown.filter((_, index) => !active(index))), line: { color: color("idle"), width: 1 }, hoverinfo: "skip",
    name: "entries active in no stage",
  }];
  if (prediction?.index.length) {
    const limit = array(prediction[product])[layer][head];
    const lines = range(limit.length).filter(active).map((index) => staircase(prediction, 0, limit[index], end));
    traces.push({
      ...joined(lines), line: { color: color("limit"), width: lines.length > MANY ? 3 : 5, shape: "hv" },
      hoverinfo: "skip", name: "predicted limit",
    });
  }
  const last = Math.max(1, full ? values.length - 1 : prediction?.index.length - 1);
  for (const index of range(values.length).filter(active)) {
    const name = full ? entryName(view, index) : `${entryName(view, index)}, stage ${stageOf(index) + 1}`;
    traces.push({
      ...shown[index], line: { color: scaleColor((full ? index : stageOf(index)) / last), width: 1.4 }, name,
      hovertemplate: `%{y:.3f} at %{x:.1f}<extra>${name}</extra>`,
    });
  }
  return traces.map((trace) => ({ mode: "lines", yaxis, ...trace }));
}

// Number of the stage against its time: predicted ones, and measured ones up to the time shown. Without a prediction,
// coordinates are numbered as they become active.
function stageTraces(view) {
  const { run, prediction, time } = view;
  const places = prediction ?? run.events;
  const measured = prediction ? measuredTimes(run, prediction) : array(run.events.time);
  const numbers = range(places.index.length);
  const name = (number) => `${entryName(view, places.index[number])} of ${plainName(places.product[number])}`;
  const trace = (which, x, options) => ({
    x: which.map((number) => x[number]), y: which.map((number) => number + 1), mode: "markers", yaxis: "y4",
    customdata: which.map(name), ...options,
  });
  const predicted = trace(numbers, prediction ? array(prediction.time) : [], {
    marker: { symbol: "square", size: numbers.length > MANY ? 8 : 10, color: color("limit") }, name: "predicted",
    hovertemplate: "stage %{y} predicted at %{x:.1f}<extra>%{customdata}</extra>",
  });
  const happened = trace(numbers.filter((number) => measured[number] !== null && measured[number] <= time), measured, {
    name: "measured", hovertemplate: "stage %{y} measured at %{x:.1f}<extra>%{customdata}</extra>",
  });
  const last = Math.max(1, numbers.length - 1);
  happened.marker = {
    size: numbers.length > MANY ? 5 : 7, color: happened.y.map((stage) => scaleColor((stage - 1) / last)),
    symbol: happened.y.map((stage) => STAGE_SYMBOLS[places.product[stage - 1]]),
  };
  return prediction ? [predicted, happened] : [happened];
}

// Labels at the ends of the entries that end farthest from zero, as many as fit.
function entryLabels({ run, layer, head }, product, yref) {
  const ends = array(run[product])[layer][head].map((values, index) => ({ y: values.at(-1), index }));
  const span = largest(ends.map(({ y }) => y)) - smallest(ends.map(({ y }) => y));
  const room = 0.09 * span;
  const placed = [];
  for (const end of ends.sort((a, b) => Math.abs(b.y) - Math.abs(a.y))) {
    if (Math.abs(end.y) > room && placed.every((other) => Math.abs(other.y - end.y) > room)) placed.push(end);
  }
  return placed.map(({ y, index }) => ({
    x: 1, xref: "paper", xanchor: "left", y, yref, text: String(index + 1), showarrow: false,
    font: { size: 11, color: color("quiet") },
  }));
}

// The same axis at every time, with room for the whole run and its limit.
function entryAxis(views, product, domain) {
  const all = views.flatMap(({ run, prediction, layer, head }) =>
    [run, prediction].flatMap((part) => (part ? extremes(array(part[product])[layer][head]) : [])));
  const [low, high] = extremes([0, ...all]);
  const room = 0.05 * (high - low) || 1;
  return axis("value", { domain, range: [low - room, high + room] });
}

const stageLines = (times) => ({
  type: "path", xref: "x", yref: "paper", path: times.map((time) => `M${time},0V1`).join(""), layer: "below",
  line: { color: color("idle"), width: 1, dash: "2px,3px" },
});

function drawStages(id, view, { views, title }) {
  const stages = firstStages(view.prediction);
  const entries = view.full ? "Singular values of" : "Diagonal entries of";
  const traces = [
    ...lossTraces(view), ...entryTraces(view, "KQ", "y2", stages), ...entryTraces(view, "VO", "y3", stages),
    ...stageTraces(view),
  ];
  const times = array(view.prediction?.time ?? []);
  const losses = views.flatMap(({ run, others }) => [run, ...others].flatMap(({ loss }) => extremes(array(loss))));
  const [bottom, top] = extremes(losses);
  const decades = bottom > 0 ? Math.min(8, 0.3 + Math.log10(top / bottom)) : 8;
  const end = largest(views.map((each) => each.end));
  const count = largest(views.map(({ run, prediction }) => (prediction ?? run.events).index.length));
  draw(id, traces, {
    views, title,
    margin: { r: 30, t: 30 },
    dragmode: fine ? "zoom" : false,
    xaxis: axis(RESCALED_TIME, { range: [0, end], anchor: "y4", fixedrange: !fine }),
    yaxis: valueAxis("loss", top, view.isLog, decades, { domain: [0.79, 1] }),
    yaxis2: entryAxis(views, "KQ", [0.54, 0.74]),
    yaxis3: entryAxis(views, "VO", [0.28, 0.48]),
    yaxis4: axis("stage", { domain: [0, 0.22], range: [0, count + 1] }),
    shapes: [verticalLine(view.time, "initial", 2), ...(times.length ? [stageLines(times)] : [])],
    annotations: [
      panelTitle("Training loss", "y"),
      panelTitle(`${entries} ${PRODUCTS.KQ}`, "y2"), panelTitle(`${entries} ${PRODUCTS.VO}`, "y3"),
      panelTitle(view.prediction ? "Stages, predicted and measured" : "Order of activation", "y4"),
      ...entryLabels(view, "KQ", "y2"), ...entryLabels(view, "VO", "y3"),
    ],
  });
}

function describeToy(view) {
  const { run, prediction, time } = view;
  const at = Math.max(0, countUpTo(array(run.time), time) - 1);
  const start = `At time ${short(time)} ln(1/α) the loss is ${short(array(run.loss)[at])}`;
  const active = countUpTo(array(run.events.time), time);
  if (!prediction) return `${start}. Activations so far: ${active}. Algorithm 1 predicts nothing for this problem.`;
  const times = array(prediction.time);
  const stage = countUpTo(times, time);
  const measured = measuredTimes(run, prediction).filter((each) => each !== null && each <= time).length;
  const limit = stage > 0 ? ` (predicted limit: ${short(array(prediction.loss)[stage - 1])})` : "";
  const which = `${entryName(view, prediction.index[stage])} of ${plainName(prediction.product[stage])}`;
  const next = stage < times.length ? `; next, ${which} at ${times[stage].toFixed(1)}` : "";
  return `${start}${limit}. ${stage} of ${times.length} stages should have happened, ${measured} have${next}.`;
}

function renderToy() {
  const view = chooseToy();
  showToyControls(view);
  const others = study.toy.runs.filter((run) => run !== view.run);
  const beside = chooseBeside("toy-beside", others, toyRunName);
  const views = beside ? [view, viewBesideToy(view, beside)] : [view];
  byId("toy").classList.toggle("comparing", views.length > 1);
  byId("toy-readout").innerText = views
    .map((each) => (beside ? `${toyRunName(each.run)}: ` : "") + describeToy(each)).join("\n");
  const weights = view.full ? "Full weights" : "Diagonal weights";
  document.querySelector("#toy .which").textContent = beside ? "Two runs" : `${weights}, α = ${view.run.alpha}`;
  const predicted = views.some(({ prediction }) => prediction);
  document.querySelectorAll("#toy .prediction").forEach((item) => { item.hidden = !predicted; });
  document.querySelector("#toy .others").hidden = view.others.length === 0;
  views.forEach((each, place) => {
    drawStages(idOf("stages", place), each, { views, title: toyRunName(each.run) });
  });
}

function viewBesideToy(view, run) {
  return { ...viewOfToy(run, view.layer, view.head, Math.min(view.time, array(run.time).at(-1))), isLog: view.isLog };
}

function connectToy() {
  byId("time").addEventListener("input", ({ target }) => update({ time: target.value }));
  makePlayer("time", 100, 100);
  byId("alpha").addEventListener("input", ({ target }) => {
    const { options } = chooseToy();
    update({ alpha: options.alphas[target.value] });
  });
  makePlayer("alpha", null, 1200);
  onClick("stages", (point) => update({ time: String(point.x) }));
}
