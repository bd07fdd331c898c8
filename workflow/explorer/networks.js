// Trained networks: spectra of what training adds to a product, from a head to all layers.

const PLAIN = { KQ: "W_K W_Qᵀ", VO: "W_V W_Oᵀ" };
const plainName = (product) => PLAIN[product] ?? product; // models choose the names of their products
const headName = (head) => (head === "all" ? "mean of all" : String(Number(head) + 1));

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
const FOLLOWED = 20; // singular values followed through training, as in the paper's Figure 3
const DECADES = 4; // of a logarithmic axis; below, stored singular values are rounded
const OVERVIEWS = {
  rank: "stable rank of the change",
  share: "stable rank / that of a random change of equal norm",
  size: "largest singular value of the change",
};

// Choices

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
  const overview = choose("overview-of", Object.keys(OVERVIEWS), "rank");
  const logTime = chooseFlag("log-time");
  const logValues = chooseFlag("log-values");
  return {
    run, product, layer, head, epoch, overview, logTime, logValues,
    options: { networks, scales, seeds, products, layers, heads },
  };
}

// The same choices for another run, as far as it has them.
function viewBeside(view, run) {
  const product = run.products[view.product] ? view.product : Object.keys(run.products)[0];
  const [, layers, heads] = run.products[product].delta.stable_rank.shape;
  const head = view.head === "all" ? "all" : Math.min(view.head, heads - 1);
  return { ...view, run, product, layer: Math.min(view.layer, layers - 1), head, epoch: nearest(run.epochs, view.epoch) };
}

const networkRunName = ({ network, alpha, seed }) => `${study.networks.names[network]}, α = ${alpha}, seed ${seed}`;
const ofNetwork = ({ run }) => study.networks.runs.filter(({ network }) => network === run.network);

function showNetworkControls({ run, epoch, options }) {
  showOptions("network", options.networks, (name) => study.networks.names[name]);
  showOptions("scale", options.scales);
  showOptions("seed", options.seeds);
  showOptions("product", options.products, plainName);
  showOptions("layer", range(options.layers), (number) => number + 1);
  showOptions("head", ["all", ...range(options.heads)], headName);
  showOptions("overview-of", Object.keys(OVERVIEWS), (name) => OVERVIEWS[name]);
  showSlider("epoch", run.epochs, () => `${short(epoch)} of ${run.epochs.at(-1)}`);
}

// Numbers

// Mean and deviation over the chosen heads; a single head has no deviation.
function overHeads(byHead, head) {
  return head === "all" ? meanAndDeviation(byHead) : [byHead[head], 0];
}

// Index of an epoch among those of a matrix; the initial one has only epoch 0.
const epochIndex = (run, matrix, epoch) => (matrix === "initial" ? 0 : run.epochs.indexOf(nearest(run.epochs, epoch)));
const stepAt = (run, epoch) => run.steps[epochIndex(run, "delta", epoch)];

function rankAt(run, view, matrix, epoch) {
  const ranks = array(run.products[view.product][matrix].stable_rank);
  return overHeads(ranks[epochIndex(run, matrix, epoch)][view.layer], view.head);
}

function spectrumAt(view, matrix) {
  const spectra = array(view.run.products[view.product][matrix].spectra);
  const byHead = spectra[epochIndex(view.run, matrix, view.epoch)][view.layer];
  return transposed(byHead).map((values) => overHeads(values, view.head));
}

// The largest singular values of the change, a row for each, along the snapshots; means over the chosen heads.
function followedValues({ run, product, layer, head }) {
  const { spectra, largest: tops } = run.products[product].delta;
  const rows = array(spectra).map((ofEpoch, epoch) => transposed(ofEpoch[layer].map((values, index) =>
    values.slice(0, FOLLOWED).map((value) => value * array(tops)[epoch][layer][index]))));
  return transposed(rows).map((values) => values.map((byHead) => overHeads(byHead, head)[0]));
}

// One number for each layer and head, in the order of `epochs`.
function overviewOf({ run, product, overview }) {
  const { delta, random_product: random } = run.products[product];
  const ranks = array(delta.stable_rank);
  if (overview === "size") return array(delta.largest);
  if (overview === "rank") return ranks;
  const others = array(random.stable_rank);
  return ranks.map((layers, epoch) => layers.map((heads, layer) =>
    heads.map((rank, head) => rank / others[epoch][layer][head])));
}

// Panels

function styled(matrix, x, y, options) {
  const { color: name, line, marker, ...style } = STYLES[matrix];
  return {
    x, y, ...style, line: { ...line, color: color(name) }, marker: { ...marker, color: color(name) }, ...options,
  };
}

function band(x, means, deviations, matrix, options) {
  const upper = means.map((mean, index) => mean + deviations[index]);
  const lower = means.map((mean, index) => Math.max(1e-6, mean - deviations[index])); // a logarithmic axis has no 0
  return {
    x: [...x, ...x.toReversed()], y: [...upper, ...lower.toReversed()], mode: "lines", line: { width: 0 },
    fill: "toself", fillcolor: color(STYLES[matrix].color), opacity: 0.2, hoverinfo: "skip",
    name: `${STYLES[matrix].name}, ± one deviation`, ...options,
  };
}

function drawSpectra(id, view, { views, title }) {
  const traces = [];
  for (const matrix of [...BASELINES, "initial", "delta"]) {
    const [means, deviations] = transposed(spectrumAt(view, matrix));
    if (!means[0]) continue; // a change of zero
    const x = means.map((_, index) => index + 1);
    if (view.head === "all") traces.push(band(x, means, deviations, matrix));
    const hovertemplate = `%{y:.3f} at index %{x}<extra>${STYLES[matrix].name}</extra>`;
    traces.push(styled(matrix, x, means, { hovertemplate }));
  }
  draw(id, traces, {
    views, title,
    xaxis: axis("index of singular value", { range: [0.5, largest(views.map(longestSpectrum)) + 0.5] }),
    yaxis: valueAxis("singular value / largest", 1, view.logValues, DECADES),
    annotations: noteOfNoChange(view),
  });
}

function longestSpectrum({ run, product }) {
  return largest(Object.values(run.products[product]).map(({ spectra }) => spectra.shape.at(-1)));
}

function noteOfNoChange(view) {
  if (view.epoch > 0) return [];
  const place = { xref: "paper", yref: "paper", x: 0.98, y: 0.98, xanchor: "right", yanchor: "top", align: "right" };
  return [{ text: "Epoch 0: nothing has changed yet.<br>Move the slider, or press Play.", showarrow: false, ...place }];
}

// A logarithmic axis with room for all curves of these networks, so that it stays the same for every head.
function rankAxis(views, options) {
  const tops = views.flatMap((view) => ofNetwork(view).flatMap((run) => Object.keys(STYLES).map((matrix) =>
    extremes(array(run.products[view.product]?.[matrix].stable_rank ?? []))[1])));
  const limits = [0.9, 1.15 * largest([1, ...tops])].map(Math.log10);
  return axis("stable rank", { type: "log", range: limits, tickvals: RANK_TICKS, ...options });
}

function rankTraces(view, yaxis) {
  const { run } = view;
  return [...BASELINES, "initial", "delta"].flatMap((matrix) => {
    const ends = [run.epochs[0], run.epochs.at(-1)];
    const epochs = matrix === "initial" ? ends : run.epochs.filter((epoch) => epoch > 0);
    const [means, deviations] = transposed(epochs.map((epoch) => rankAt(run, view, matrix, epoch)));
    const steps = epochs.map((epoch) => stepAt(run, epoch));
    if (matrix === "initial" && view.logTime) steps[0] = stepAt(run, run.epochs[1]); // a logarithmic axis has no 0
    const size = epochs.map((epoch) => (matrix === "delta" && epoch === view.epoch ? 13 : 6));
    const trace = styled(matrix, steps, means, {
      yaxis, customdata: epochs.map(short),
      hovertemplate: `%{y:.2f} at epoch %{customdata}<extra>${STYLES[matrix].name}</extra>`,
    });
    const curve = { ...trace, marker: { ...trace.marker, size } };
    if (view.head !== "all" || matrix !== "delta") return [curve];
    return [band(steps, means, deviations, matrix, { yaxis }), curve];
  });
}

const METRICS = {
  train_loss: { name: "training loss", yaxis: "y3", color: "measured", dash: "solid" },
  test_loss: { name: "test loss", yaxis: "y3", color: "measured", dash: "dot" },
  test_accuracy: { name: "test accuracy", yaxis: "y4", color: "accent", dash: "dash" },
};

function metricTraces({ run }) {
  const epochs = array(run.metrics.epoch);
  return Object.entries(METRICS).map(([name, { color: of, dash, ...options }]) => ({
    x: array(run.metrics.step), y: array(run.metrics[name]), mode: "lines", line: { color: color(of), width: 2, dash },
    customdata: epochs, hovertemplate: `%{y:.3g} after epoch %{customdata}<extra>${options.name}</extra>`, ...options,
  }));
}

function drawTraining(id, view, { views, title }) {
  const values = followedValues(view);
  const traces = values.map((y, index) => ({
    x: view.run.steps, y, mode: "lines",
    line: { color: scaleColor(index / Math.max(1, values.length - 1)), width: 1.5 },
    name: `singular value ${index + 1}`, customdata: view.run.epochs.map(short),
    hovertemplate: `%{y:.3g} at epoch %{customdata}<extra>singular value ${index + 1}</extra>`,
  }));
  const steps = views.flatMap(({ run }) => run.steps);
  const end = largest(steps);
  const top = largest(views.flatMap((each) => followedValues(each)[0]));
  const first = smallest(steps.filter((step) => step > 0));
  const logarithmic = { type: "log", range: [first * 0.9, end * 1.1].map(Math.log10) };
  const time = view.logTime ? logarithmic : { range: [0, end * 1.02] };
  const losses = views.flatMap(({ run: { metrics } }) =>
    [metrics.train_loss, metrics.test_loss].map((loss) => extremes(array(loss))[1]));
  draw(id, [...traces, ...rankTraces(view, "y2"), ...metricTraces(view)], {
    views, title,
    margin: { r: 56, t: 26 },
    xaxis: axis("step", { ...time, anchor: "y3" }),
    yaxis: valueAxis("singular value", top, view.logValues, DECADES, { domain: [0.64, 1] }),
    yaxis2: rankAxis(views, { domain: [0.32, 0.57] }),
    yaxis3: valueAxis("loss", largest(losses), false, 0, { domain: [0, 0.25] }),
    yaxis4: axis("test accuracy", {
      range: [0, 1.04], overlaying: "y3", side: "right", showgrid: false, tickmode: "linear", dtick: 0.25,
      tickformat: ".0%", color: color("accent"),
    }),
    shapes: view.logTime && view.epoch === 0 ? [] : [verticalLine(stepAt(view.run, view.epoch), "quiet", 1.5)],
    annotations: [
      panelTitle(`${values.length} largest singular values`, "y"), panelTitle("Stable rank", "y2"),
      panelTitle("Loss and accuracy", "y3"),
    ],
  });
}

function drawOverview(id, view, { views, title }) {
  const z = overviewOf(view)[epochIndex(view.run, "delta", view.epoch)];
  const all = views.flatMap((each) => overviewOf(each).flat(2)).filter((value) => value > 0);
  const place = { x: range(z[0].length).map((head) => head + 1), y: range(z.length).map((layer) => layer + 1) };
  const [left, right] = view.head === "all" ? [0.5, z[0].length + 0.5] : [view.head + 0.5, view.head + 1.5];
  const trace = {
    type: "heatmap", ...place, z: z.map((row) => row.map((value) => (value > 0 ? value : null))),
    name: OVERVIEWS[view.overview],
    zmin: view.overview === "rank" ? 1 : 0, zmax: largest(all), xgap: 2, ygap: 2, hoverongaps: false,
    colorscale: range(9).map((number) => [number / 8, scaleColor(number / 8)]),
    colorbar: { thickness: 12, outlinewidth: 0, tickfont: { size: 11 } },
    texttemplate: z[0].length > 12 ? "" : "%{z:.2f}",
    hovertemplate: `layer %{y}, head %{x}: %{z:.3f}<extra></extra>`,
  };
  draw(id, [trace], {
    views, title,
    xaxis: axis("head", { dtick: 1, showgrid: false, ticks: "" }),
    yaxis: axis("layer", { dtick: 1, showgrid: false, ticks: "", autorange: "reversed" }),
    shapes: [{
      type: "rect", x0: left, x1: right, y0: view.layer + 0.5, y1: view.layer + 1.5,
      line: { color: color("initial"), width: 3 },
    }],
    annotations: noteOfNoChange(view),
  });
}

function drawScales(view) {
  const runs = ofNetwork(view);
  const seeds = unique(runs.map((run) => run.seed));
  const traces = seeds.flatMap((seed, number) => [...BASELINES, "delta"].map((matrix) => {
    const ofSeed = runs.filter((run) => run.seed === seed);
    const [means, deviations] = transposed(ofSeed.map((run) => rankAt(run, view, matrix, view.epoch)));
    const trace = styled(matrix, ofSeed.map((run) => Number(run.alpha)), means, {
      customdata: ofSeed.map((run) => run.alpha),
      hovertemplate: `%{y:.2f} at α = %{customdata}<extra>${STYLES[matrix].name}, seed ${seed}</extra>`,
    });
    if (BASELINES.includes(matrix)) return trace;
    const size = ofSeed.map((run) => (run === view.run ? 13 : 7));
    return {
      ...trace, marker: { ...trace.marker, size, symbol: SEED_SYMBOLS[number % SEED_SYMBOLS.length] },
      error_y: { type: "data", array: deviations, visible: view.head === "all", thickness: 1.2, width: 4 },
    };
  }));
  const scales = unique(runs.map((run) => run.alpha));
  const logs = scales.map((scale) => Math.log10(scale));
  draw("scales", traces, {
    title: study.networks.names[view.run.network],
    xaxis: axis("init scale α", {
      type: "log", range: [Math.min(...logs) - 0.12, Math.max(...logs) + 0.12],
      tickvals: scales.map(Number), ticktext: scales,
    }),
    yaxis: rankAxis([view]),
    shapes: [verticalLine(Number(view.run.alpha), "quiet", 1.5)],
    annotations: noteOfNoChange(view),
  });
}

function describeNetwork(view) {
  const rank = (matrix) => short(rankAt(view.run, view, matrix, view.epoch)[0]);
  const tested = array(view.run.metrics.test_accuracy)[array(view.run.metrics.epoch).indexOf(view.epoch)];
  const accuracy = Number.isFinite(tested) ? ` Test accuracy: ${(100 * tested).toFixed(1)}\u00a0%.` : "";
  const atRandom = `of random changes: ${rank("random_product")} (of equal norm), ${rank("noisy_factors")} (of the factors)`;
  const changes = view.epoch === 0 ? "" : `of the change: ${rank("delta")}; ${atRandom}; `;
  return `Epoch ${short(view.epoch)}, step ${stepAt(view.run, view.epoch)}. ` +
    `Stable rank ${changes}of the initial product: ${rank("initial")}.${accuracy}`;
}

function renderNetworks() {
  const view = chooseNetwork();
  showNetworkControls(view);
  const others = study.networks.runs.filter((run) => run !== view.run);
  const beside = chooseBeside("beside", others, networkRunName);
  const views = beside ? [view, viewBeside(view, beside)] : [view];
  byId("networks").classList.toggle("comparing", views.length > 1);
  const heads = view.head === "all" ? "all heads" : `head ${headName(view.head)}`;
  const which = `of ${plainName(view.product)}, layer ${view.layer + 1}, ${heads}`;
  document.querySelectorAll("#networks .which").forEach((place) => { place.textContent = which; });
  document.querySelector("#networks .spread").hidden = view.head !== "all";
  byId("networks-readout").innerText = views
    .map((each) => (beside ? `${networkRunName(each.run)}: ` : "") + describeNetwork(each)).join("\n");
  views.forEach((each, place) => {
    const shown = { views, title: networkRunName(each.run) };
    drawSpectra(idOf("spectra", place), each, shown);
    drawTraining(idOf("training", place), each, shown);
    drawOverview(idOf("overview", place), each, shown);
  });
  drawScales(view);
}

function connectNetworks() {
  const { run } = chooseNetwork();
  byId("epoch").addEventListener("input", ({ target }) => update({ epoch: chooseNetwork().run.epochs[target.value] }));
  makePlayer("epoch", null, Math.min(500, 12000 / run.epochs.length));
  onClick("training", (point) => {
    const { epochs, steps } = chooseNetwork().run;
    update({ epoch: epochs[steps.indexOf(nearest(steps, point.x))] });
  });
  onClick("scales", (point) => update({ scale: point.customdata }));
  onClick("overview", ({ x, y }) => {
    const chosen = { layer: String(y - 1), head: String(x - 1) };
    const again = chosen.layer === state.layer && chosen.head === state.head;
    update(again ? { head: "all" } : chosen);
  });
}
