// Two halves, each with a function that validates its choices and one that draws them. All choices are in `state`, which
// is also the part of the address after "#", so that a view can be shared.

const byId = (id) => document.getElementById(id);
const study = JSON.parse(byId("study").textContent);
const bytes = await unzip(byId("arrays").textContent);
const unpacked = new WeakMap();
const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const PRODUCTS = { KQ: "W<sub>K</sub>W<sub>Q</sub><sup>⊤</sup>", VO: "W<sub>V</sub>W<sub>O</sub><sup>⊤</sup>" };
const PLAIN = { KQ: "W_K W_Qᵀ", VO: "W_V W_Oᵀ" };
const METHODS = { flow: "gradient flow", gd: "gradient descent", sgd: "stochastic gradient descent" };
const RESCALED_TIME = "time / ln(1/α)";

// Numbers

async function unzip(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Nested arrays of the stored shape.
function array(place) {
  if (!unpacked.has(place)) {
    const kind = { float32: Float32Array, int16: Int16Array, uint16: Uint16Array }[place.type];
    const count = place.shape.reduce((product, size) => product * size, 1);
    const stored = new kind(bytes.slice(place.start, place.start + count * kind.BYTES_PER_ELEMENT));
    const values = Array.from(stored, (value) => value * (place.step ?? 1));
    unpacked.set(place, nested(values, place.shape));
  }
  return unpacked.get(place);
}

function nested(values, shape) {
  if (shape.length === 1) return values;
  const size = values.length / shape[0];
  return range(shape[0]).map((row) => nested(values.slice(row * size, (row + 1) * size), shape.slice(1)));
}

const unique = (values) => [...new Set(values)];
const range = (count) => Array.from({ length: count }, (_, index) => index);
const nearest = (values, wanted) =>
  values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best));
const short = (value) => Number(value.toPrecision(3)).toString();
// How many of the ascending values are at most `limit`.
const countUpTo = (values, limit) => values.filter((value) => value <= limit).length;

function meanAndDeviation(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return [mean, Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)];
}

// State and controls

let remembering;

function update(changes) {
  Object.assign(state, changes);
  render(Object.keys(changes));
  clearTimeout(remembering); // browsers limit how often the address may change
  remembering = setTimeout(() => history.replaceState(null, "", `#${new URLSearchParams(state)}`), 300);
}

// The value of a choice: that of the state if it is among the options, else the default, else the last option.
function choose(key, options, fallback) {
  const value = [state[key], fallback].map(String).find((wanted) => options.map(String).includes(wanted));
  state[key] = value ?? String(options.at(-1));
  return options.find((option) => String(option) === state[key]);
}

// The same for a number, which `allowed` maps to a valid one.
function chooseNumber(key, fallback, allowed) {
  const value = parseFloat(state[key]);
  const chosen = allowed(Number.isFinite(value) ? value : fallback);
  state[key] = String(chosen);
  return chosen;
}

function showOptions(id, options, label = String) {
  const select = byId(id);
  select.replaceChildren(...options.map((option) => new Option(label(option), option)));
  select.value = state[id];
  select.disabled = options.length < 2;
}

function showSlider(id, options, label) {
  const slider = byId(id);
  const position = options.map(String).indexOf(state[id]);
  Object.assign(slider, { max: options.length - 1, value: position, disabled: options.length < 2 });
  byId(`${id}-play`).disabled = slider.disabled;
  showValue(id, label(options[position]));
}

function showValue(id, text) {
  byId(id).setAttribute("aria-valuetext", text);
  byId(`${id}-value`).textContent = text;
}

// Play moves a slider step by step to its end, from the start if it is there already; so does the space bar on it.
function makePlayer(id, steps, milliseconds) {
  const slider = byId(id);
  const button = byId(`${id}-play`);
  let timer = null;
  const show = () => { button.textContent = timer === null ? "Play" : "Pause"; };
  const stop = () => { clearInterval(timer); timer = null; show(); };
  const move = (value) => { slider.value = value; slider.dispatchEvent(new Event("input")); };
  const advance = () => {
    move(Number(slider.value) + (slider.max - slider.min) / (steps ?? slider.max - slider.min));
    if (Number(slider.value) >= Number(slider.max)) stop();
  };
  const toggle = () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= Number(slider.max)) move(slider.min);
    timer = setInterval(advance, milliseconds);
    show();
  };
  button.addEventListener("click", toggle);
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
}

// Drawing

const fine = matchMedia("(pointer: fine)").matches; // where dragging does not mean scrolling the page
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function axis(title, options) {
  const line = color("rule");
  return {
    title: { text: title, standoff: 8 }, gridcolor: line, linecolor: line, zeroline: false, ticks: "outside",
    tickcolor: line, fixedrange: true, automargin: true, ...options,
  };
}

function draw(id, traces, layout) {
  const whole = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("text") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    margin: { l: 56, r: 12, t: 10, b: 44 }, hovermode: "closest", hoverdistance: -1, dragmode: false,
    hoverlabel: { bgcolor: color("panel"), font: { color: color("text") }, bordercolor: color("quiet") },
    ...layout,
  };
  return Plotly.react(id, traces, whole, { displayModeBar: false, responsive: true });
}

// Call `act` with the nearest point when a plot is clicked.
function onClick(id, act) {
  byId(id).on("plotly_click", ({ points }) => act(points[0]));
}

const verticalLine = (x, name, width, dash = "solid") => ({
  type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: color(name), width, dash },
});

// Points of several lines, separated by gaps, as a single trace.
function joined(lines) {
  const x = [];
  const y = [];
  for (const line of lines) {
    x.push(...line.x, null);
    y.push(...line.y, null);
  }
  return { x, y };
}

// Networks

const STYLES = {
  delta: {
    line: { width: 2.5 }, marker: { size: 7 }, mode: "lines+markers", name: "change by training", color: "accent",
  },
  initial: {
    line: { width: 1.8 }, marker: { size: 7, symbol: "square-open" }, mode: "lines+markers", name: "initial product",
    color: "initial",
  },
  random_product: {
    line: { width: 1.8, dash: "dash" }, mode: "lines", name: "random change of equal norm", color: "baseline",
  },
  noisy_factors: {
    line: { width: 1.8, dash: "dot" }, mode: "lines", name: "random change of the factors", color: "baseline",
  },
};
const BASELINES = ["random_product", "noisy_factors"];
const SEED_SYMBOLS = ["circle", "diamond", "triangle-up", "cross", "x", "star"];
const RANK_TICKS = [1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500];

const plainName = (product) => PLAIN[product] ?? product; // models choose the names of their products
const headName = (head) => (head === "all" ? "mean of all" : String(Number(head) + 1));

function chooseNetwork() {
  const { runs } = study.networks;
  const networks = unique(runs.map((run) => run.network));
  const network = choose("network", networks, networks[0]);
  const ofNetwork = runs.filter((run) => run.network === network);
  const scales = unique(ofNetwork.map((run) => run.alpha));
  const scale = choose("scale", scales, study.shown.scale);
  const ofScale = ofNetwork.filter((run) => run.alpha === scale);
  const seeds = ofScale.map((run) => run.seed);
  const seed = choose("seed", seeds, study.shown.seed);
  const run = ofScale.find((candidate) => candidate.seed === seed);
  const products = Object.keys(run.products);
  const product = choose("product", products, products[0]);
  const [, layers, heads] = run.products[product].delta.stable_rank.shape;
  const layer = choose("layer", range(layers), 1);
  const head = choose("head", ["all", ...range(heads)], "all");
  const epoch = chooseNumber("epoch", run.epochs.at(-1), (wanted) => nearest(run.epochs, wanted));
  return { run, product, layer, head, epoch, ofNetwork, options: { networks, scales, seeds, products, layers, heads } };
}

function showNetworkControls({ run, options }) {
  showOptions("network", options.networks, (name) => study.networks.names[name]);
  showOptions("scale", options.scales);
  showOptions("seed", options.seeds);
  showOptions("product", options.products, plainName);
  showOptions("layer", range(options.layers), (number) => number + 1);
  showOptions("head", ["all", ...range(options.heads)], headName);
  showSlider("epoch", run.epochs, (epoch) => `${epoch} of ${run.epochs.at(-1)}`);
}

// Mean and deviation over the chosen heads; a single head has no deviation.
function overHeads(byHead, head) {
  return head === "all" ? meanAndDeviation(byHead) : [byHead[head], 0];
}

// Index of an epoch among those of a matrix; the initial one has only epoch 0.
const epochIndex = (run, matrix, epoch) => (matrix === "initial" ? 0 : run.epochs.indexOf(nearest(run.epochs, epoch)));

function rankAt(run, view, matrix, epoch) {
  const ranks = array(run.products[view.product][matrix].stable_rank);
  return overHeads(ranks[epochIndex(run, matrix, epoch)][view.layer], view.head);
}

function spectrumAt(view, matrix) {
  const spectra = array(view.run.products[view.product][matrix].spectra);
  const byHead = spectra[epochIndex(view.run, matrix, view.epoch)][view.layer];
  return range(byHead[0].length).map((index) => overHeads(byHead.map((values) => values[index]), view.head));
}

function styled(matrix, x, y, options) {
  const { color: name, line, marker, ...style } = STYLES[matrix];
  return {
    x, y, ...style, line: { ...line, color: color(name) }, marker: { ...marker, color: color(name) }, ...options,
  };
}

function band(x, means, deviations, name) {
  const upper = means.map((mean, index) => mean + deviations[index]);
  const lower = means.map((mean, index) => Math.max(1e-3, mean - deviations[index])); // a logarithmic axis has no 0
  return {
    x: [...x, ...x.toReversed()], y: [...upper, ...lower.toReversed()], mode: "lines", line: { width: 0 },
    fill: "toself", fillcolor: color(name), opacity: 0.2, hoverinfo: "skip",
  };
}

function drawSpectra(view) {
  const traces = [];
  for (const matrix of [...BASELINES, "initial", "delta"]) {
    const [means, deviations] = transposed(spectrumAt(view, matrix));
    if (!means[0]) continue; // a change of zero
    const x = means.map((_, index) => index + 1);
    if (view.head === "all") traces.push(band(x, means, deviations, STYLES[matrix].color));
    const hovertemplate = `%{y:.3f} at index %{x}<extra>${STYLES[matrix].name}</extra>`;
    traces.push(styled(matrix, x, means, { hovertemplate }));
  }
  draw("spectra", traces, {
    xaxis: axis("index of singular value", { range: [0.5, longestSpectrum(view) + 0.5] }),
    yaxis: axis("singular value / largest", { range: [0, 1.04] }),
    annotations: noteOfNoChange(view),
  });
}

function longestSpectrum(view) {
  return Math.max(...Object.values(view.run.products[view.product]).map(({ spectra }) => spectra.shape.at(-1)));
}

function noteOfNoChange(view) {
  if (view.epoch > 0) return [];
  const place = { xref: "paper", yref: "paper", x: 0.98, y: 0.98, xanchor: "right", yanchor: "top", align: "right" };
  return [{ text: "Epoch 0: nothing has changed yet.<br>Move the slider, or press Play.", showarrow: false, ...place }];
}

const transposed = (pairs) => [pairs.map(([first]) => first), pairs.map(([, second]) => second)];

// A logarithmic axis with room for all curves of the network, so that it stays the same for every head.
function rankAxis(view) {
  const ranks = view.ofNetwork.flatMap((run) =>
    Object.keys(STYLES).flatMap((matrix) => array(run.products[view.product][matrix].stable_rank).flat(2)));
  const largest = ranks.reduce((best, rank) => (rank > best ? rank : best), 1);
  const limits = [0.9, 1.15 * largest].map(Math.log10);
  return axis("stable rank", { type: "log", range: limits, tickvals: RANK_TICKS });
}

function drawRanks(view) {
  const traces = [];
  for (const matrix of [...BASELINES, "initial", "delta"]) {
    const epochs = matrix === "initial" ? [0, view.run.epochs.at(-1)] : view.run.epochs.filter((epoch) => epoch > 0);
    const [means, deviations] = transposed(epochs.map((epoch) => rankAt(view.run, view, matrix, epoch)));
    if (view.head === "all" && matrix === "delta") traces.push(band(epochs, means, deviations, STYLES[matrix].color));
    const size = epochs.map((epoch) => (matrix === "delta" && epoch === view.epoch ? 13 : 6));
    const trace = styled(matrix, epochs, means, {
      hovertemplate: `%{y:.2f} at epoch %{x}<extra>${STYLES[matrix].name}</extra>`,
    });
    traces.push({ ...trace, marker: { ...trace.marker, size } });
  }
  draw("ranks", traces, {
    xaxis: axis("epoch", { range: [0, view.run.epochs.at(-1) * 1.03] }),
    yaxis: rankAxis(view),
    shapes: [verticalLine(view.epoch, "quiet", 1.5)],
  });
}

function drawScales(view) {
  const seeds = unique(view.ofNetwork.map((run) => run.seed));
  const traces = seeds.flatMap((seed, number) => [...BASELINES, "delta"].map((matrix) => {
    const runs = view.ofNetwork.filter((run) => run.seed === seed);
    const [means, deviations] = transposed(runs.map((run) => rankAt(run, view, matrix, view.epoch)));
    const trace = styled(matrix, runs.map((run) => Number(run.alpha)), means, {
      customdata: runs.map((run) => run.alpha),
      hovertemplate: `%{y:.2f} at α = %{customdata}<extra>${STYLES[matrix].name}, seed ${seed}</extra>`,
    });
    if (BASELINES.includes(matrix)) return trace;
    const size = runs.map((run) => (run === view.run ? 13 : 7));
    return {
      ...trace, marker: { ...trace.marker, size, symbol: SEED_SYMBOLS[number % SEED_SYMBOLS.length] },
      error_y: { type: "data", array: deviations, visible: view.head === "all", thickness: 1.2, width: 4 },
    };
  }));
  const scales = unique(view.ofNetwork.map((run) => run.alpha));
  const logs = scales.map((scale) => Math.log10(scale));
  draw("scales", traces, {
    xaxis: axis("init scale α", {
      type: "log", range: [Math.min(...logs) - 0.12, Math.max(...logs) + 0.12],
      tickvals: scales.map(Number), ticktext: scales,
    }),
    yaxis: rankAxis(view),
    shapes: [verticalLine(Number(view.run.alpha), "quiet", 1.5)],
    annotations: noteOfNoChange(view),
  });
}

function describeNetwork(view) {
  const rank = (matrix) => short(rankAt(view.run, view, matrix, view.epoch)[0]);
  const accuracy = view.run.accuracy[view.epoch];
  const atRandom = `of random changes: ${rank("random_product")} (of equal norm), ${rank("noisy_factors")} (of the factors)`;
  const changes = view.epoch === 0 ? "" : `of the change: ${rank("delta")}; ${atRandom}; `;
  const tested = accuracy === undefined ? "" : ` Test accuracy: ${(100 * accuracy).toFixed(1)}\u00a0%.`;
  byId("networks-readout").textContent =
    `Epoch ${view.epoch}. Stable rank ${changes}of the initial product: ${rank("initial")}.${tested}`;
}

function renderNetwork() {
  const view = chooseNetwork();
  showNetworkControls(view);
  const heads = view.head === "all" ? "all heads" : `head ${headName(view.head)}`;
  document.querySelector("#networks .which").textContent = `of ${plainName(view.product)}, layer ${view.layer + 1}, ${heads}`;
  document.querySelector("#networks .spread").hidden = view.head !== "all";
  describeNetwork(view);
  drawSpectra(view);
  drawRanks(view);
  drawScales(view);
}

// The toy model

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

// A colour between the first (0) and the last (1), without the end that is hard to see on the page.
function scaleColor(fraction) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const place = ((dark ? 0.25 : 0) + 0.75 * fraction) * (VIRIDIS.length - 1);
  const [low, high] = [VIRIDIS[Math.floor(place)], VIRIDIS[Math.ceil(place)]];
  const part = (text, start) => parseInt(text.slice(start, start + 2), 16);
  const mixed = [1, 3, 5].map((start) => part(low, start) + (place % 1) * (part(high, start) - part(low, start)));
  return `rgb(${mixed.map(Math.round).join(",")})`;
}

function variantName(name) {
  const { weights, teacher, method } = study.toy.variants[name];
  return `${name}: ${weights} weights, ${teacher} teacher, ${METHODS[method]}`;
}

function chooseToy() {
  const { runs, variants, stages } = study.toy;
  const names = unique(runs.map((run) => run.variant));
  const variant = choose("variant", names, names[0]);
  const ofVariant = runs.filter((run) => run.variant === variant);
  const problems = unique(ofVariant.map((run) => run.seed));
  const problem = choose("problem", problems, study.shown.problem);
  const ofProblem = ofVariant.filter((run) => run.seed === problem);
  const alphas = ofProblem.map((run) => run.alpha);
  const run = ofProblem.find((candidate) => candidate.alpha === choose("alpha", alphas, study.shown.alpha));
  const end = array(run.time).at(-1);
  const time = chooseNumber("time", end / 2, (wanted) => Math.max(0, Math.min(end, wanted)));
  const prediction = stages[variants[variant].limit]?.[problem];
  const full = variants[variant].weights === "full";
  return { run, ofProblem, prediction, end, full, time, options: { names, problems, alphas } };
}

function showToyControls({ end, time, options }) {
  showOptions("variant", options.names, variantName);
  showOptions("problem", options.problems);
  showSlider("alpha", options.alphas, String);
  Object.assign(byId("time"), { max: end, step: end / 1000, value: time });
  showValue("time", time.toFixed(0));
}

// The first stage in which each entry becomes active, from 0, by product and index.
function firstStages(prediction) {
  const first = {};
  prediction?.index.forEach((index, stage) => { first[`${prediction.product[stage]} ${index}`] ??= stage; });
  return first;
}

// A staircase: `start` before the first stage time, then values[k] from times[k] on.
function staircase(prediction, start, values, end) {
  const times = array(prediction.time);
  return { x: [0, ...times, end], y: [start, ...values, values.at(-1)] };
}

function lossTraces(view) {
  const others = view.ofProblem.filter((run) => run !== view.run);
  const curves = others.map((run) => ({ x: array(run.time), y: array(run.loss) }));
  const traces = [{ ...joined(curves), line: { color: color("quiet"), width: 1, dash: "1px,3px" }, hoverinfo: "skip" }];
  if (view.prediction) {
    // At alpha -> 0 training starts where the run with the smallest alpha does.
    const start = array(view.ofProblem.at(-1).loss)[0];
    const limit = staircase(view.prediction, start, array(view.prediction.loss), view.end);
    traces.push({ ...limit, line: { color: color("limit"), width: 6, shape: "hv" }, hoverinfo: "skip" });
  }
  traces.push({
    x: array(view.run.time), y: array(view.run.loss), line: { color: color("measured"), width: 1.6 },
    hovertemplate: "loss %{y:.4f} at %{x:.1f}<extra></extra>",
  });
  return traces.map((trace) => ({ mode: "lines", ...trace }));
}

function entryTraces(view, product, yaxis, stages) {
  const values = array(view.run[product]);
  const time = array(view.run.time);
  const active = (index) => view.full || `${product} ${index}` in stages;
  const idle = range(values.length).filter((index) => !active(index)).map((index) => ({ x: time, y: values[index] }));
  const traces = [{ ...joined(idle), line: { color: color("idle"), width: 1 }, hoverinfo: "skip" }];
  if (view.prediction) {
    const limit = array(view.prediction[product]);
    const entries = range(limit.length).filter(active);
    const lines = entries.map((index) => staircase(view.prediction, 0, limit[index], view.end));
    traces.push({ ...joined(lines), line: { color: color("limit"), width: 5, shape: "hv" }, hoverinfo: "skip" });
  }
  const last = Math.max(1, view.full ? values.length - 1 : view.prediction?.index.length - 1);
  for (const index of range(values.length).filter(active)) {
    const stage = stages[`${product} ${index}`];
    const name = view.full ? `singular value ${index + 1}` : `entry ${index + 1}, stage ${stage + 1}`;
    traces.push({
      x: time, y: values[index], line: { color: scaleColor((view.full ? index : stage) / last), width: 1.4 },
      hovertemplate: `%{y:.3f} at %{x:.1f}<extra>${name}</extra>`,
    });
  }
  return traces.map((trace) => ({ mode: "lines", yaxis, ...trace }));
}

// Labels at the ends of the entries that end farthest from zero, as many as fit.
function entryLabels(view, product, yref) {
  const ends = array(view.run[product]).map((values, index) => ({ y: values.at(-1), index }));
  const span = Math.max(...ends.map(({ y }) => y)) - Math.min(...ends.map(({ y }) => y));
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

const panelTitle = (text, yref) => ({
  text: `<b>${text}</b>`, x: 0, xref: "paper", xanchor: "left", y: 1, yref: `${yref} domain`, yanchor: "bottom",
  showarrow: false, yshift: 2, bgcolor: color("page"),
});

function drawStages(view) {
  const stages = firstStages(view.prediction);
  const entries = view.full ? "Singular values of" : "Diagonal entries of";
  const traces = [
    ...lossTraces(view), ...entryTraces(view, "KQ", "y2", stages), ...entryTraces(view, "VO", "y3", stages),
  ];
  const shapes = [verticalLine(view.time, "initial", 2)];
  if (view.prediction) shapes.push(stageLines(array(view.prediction.time)));
  draw("stages", traces, {
    margin: { l: 56, r: 30, t: 30, b: 44 },
    dragmode: fine ? "zoom" : false,
    xaxis: axis(RESCALED_TIME, { range: [0, view.end], anchor: "y3", fixedrange: !fine }),
    yaxis: axis("loss", { domain: [0.74, 1], rangemode: "tozero" }),
    yaxis2: axis("value", { domain: [0.385, 0.665] }),
    yaxis3: axis("value", { domain: [0, 0.31] }),
    shapes,
    annotations: [
      panelTitle("Training loss", "y"),
      panelTitle(`${entries} ${PRODUCTS.KQ}`, "y2"), panelTitle(`${entries} ${PRODUCTS.VO}`, "y3"),
      ...entryLabels(view, "KQ", "y2"), ...entryLabels(view, "VO", "y3"),
    ],
  });
}

const stageLines = (times) => ({
  type: "path", xref: "x", yref: "paper", path: times.map((time) => `M${time},0V1`).join(""), layer: "below",
  line: { color: color("idle"), width: 1, dash: "2px,3px" },
});

function moveCursor(view) {
  Plotly.relayout("stages", { "shapes[0].x0": view.time, "shapes[0].x1": view.time });
}

function describeToy(view) {
  const { run, prediction, time } = view;
  const at = Math.max(0, countUpTo(array(run.time), time) - 1);
  const parts = [`At time ${short(time)} ln(1/α) the loss is ${short(array(run.loss)[at])}`];
  const unpredicted = view.full ? "full weights" : "this problem";
  if (!prediction) return `${parts[0]}. Algorithm 1 predicts nothing for ${unpredicted}.`;
  const times = array(prediction.time);
  const stage = countUpTo(times, time);
  if (stage > 0) parts.push(` (predicted limit: ${short(array(prediction.loss)[stage - 1])})`);
  parts.push(`. ${stage} of ${times.length} stages should have happened`);
  if (stage < times.length) {
    const entry = `entry ${prediction.index[stage] + 1} of ${plainName(prediction.product[stage])}`;
    parts.push(`; next, ${entry} at ${times[stage].toFixed(1)}`);
  }
  return `${parts.join("")}.`;
}

function renderToy(changed) {
  const view = chooseToy();
  showToyControls(view);
  byId("toy-readout").textContent = describeToy(view);
  if (changed.length === 1 && changed[0] === "time") return moveCursor(view);
  const weights = view.full ? "Full weights" : "Diagonal weights";
  document.querySelector("#toy .which").textContent = `${weights}, α = ${view.run.alpha}`;
  document.querySelectorAll("#toy .prediction").forEach((item) => { item.hidden = !view.prediction; });
  document.querySelector("#toy .others").hidden = view.ofProblem.length < 2;
  drawStages(view);
}

// The page

const NETWORK_KEYS = ["network", "scale", "seed", "product", "layer", "head", "epoch"];
const TOY_KEYS = ["variant", "problem", "alpha", "time"];

function render(changed = [...NETWORK_KEYS, ...TOY_KEYS]) {
  if (study.networks && changed.some((key) => NETWORK_KEYS.includes(key))) renderNetwork();
  if (study.toy && changed.some((key) => TOY_KEYS.includes(key))) renderToy(changed);
}

// Claims

const MARKS = { supported: "✓", "not supported": "✗", "not tested": "–" };

function element(name, text, attributes = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...attributes });
}

function claimRow(claim) {
  const verdict = `${MARKS[claim.verdict]} ${claim.verdict}`;
  const measured = claim.value === null ? "–" : `${short(claim.value)} (threshold: ${claim.relation} ${short(claim.threshold)})`;
  const cell = element("td", claim.statement);
  const how = element("details", "");
  how.append(element("summary", `how: ${claim.source}`), element("p", claim.measure), element("p", claim.details));
  cell.append(how);
  const row = element("tr", "");
  row.append(
    element("td", verdict, { className: `verdict ${claim.verdict.replace(" ", "-")}` }),
    cell, element("td", measured), element("td", claim.n),
  );
  return row;
}

function renderClaims() {
  const count = (verdict) => study.claims.filter((claim) => claim.verdict === verdict).length;
  byId("claims-readout").textContent =
    `Of ${study.claims.length} claims, ${Object.keys(MARKS).map((verdict) => `${count(verdict)} ${verdict}`).join(", ")}.`;
  byId("claims-rows").replaceChildren(...study.claims.map(claimRow));
}

function showAbout() {
  const { study: name, commits, date } = study.about;
  document.title = `Gradual rank increase: ${name}`;
  const origin = commits.map((commit) => commit.slice(0, 12)).join(", ");
  byId("about").textContent = `Study ${name} · tables made at commit ${origin} · page made on ${date}`;
}

function connect() {
  for (const id of ["network", "scale", "seed", "product", "layer", "head", "variant", "problem"]) {
    byId(id).addEventListener("change", ({ target }) => update({ [id]: target.value }));
  }
  byId("time").addEventListener("input", ({ target }) => update({ time: target.value }));
  makePlayer("time", 100, 100);
  if (study.toy) {
    byId("alpha").addEventListener("input", ({ target }) => {
      update({ alpha: chooseToy().ofProblem[target.value].alpha });
    });
    makePlayer("alpha", null, 1200);
    onClick("stages", (point) => update({ time: String(point.x) }));
  }
  if (study.networks) {
    byId("epoch").addEventListener("input", ({ target }) => update({ epoch: chooseNetwork().run.epochs[target.value] }));
    makePlayer("epoch", null, 500);
    onClick("ranks", (point) => update({ epoch: String(point.x) }));
    onClick("scales", (point) => update({ scale: point.customdata }));
  }
}

for (const part of ["networks", "toy", "claims"]) {
  document.querySelector(`#${part} .missing`).hidden = Boolean(study[part]);
  document.querySelector(`#${part} .part`).hidden = !study[part];
}
showAbout();
if (study.claims) renderClaims();
render();
connect();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
addEventListener("hashchange", () => {
  Object.assign(state, Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
  render();
});
document.body.dataset.ready = "true";
