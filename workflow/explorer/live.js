// The reader trains the toy model, of a small problem, beside its predicted stages.

const LIVE = {
  samples: 40, tokens: 4, dim: 4, teacher_std_KQ: 0.6, teacher_std_VO: 0.8, stages: 6, // shown first:
  seed: 34, alpha: "1e-8",
};
const LIVE_ALPHAS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 100, 300, 1000, 3000].map((digits) => `1e-${digits}`);
const live = { seed: null, runs: [], training: 0 }; // of one problem: `problem`, `prediction`, `end`, `levels`

const ofLiveProduct = (coordinate) => (coordinate < LIVE.dim ? "KQ" : "VO");

// Records, as `train` and `stages` yield them, in the form of a stored run or prediction, with a layer and a head.
function liveTable(records) {
  const rows = transposed(records.map(({ p }) => [...p]));
  return {
    time: records.map(({ time }) => time), loss: records.map(({ loss }) => loss),
    KQ: [[rows.slice(0, LIVE.dim)]], VO: [[rows.slice(LIVE.dim)]],
  };
}

// Coordinates with their times, in the form of a stored table.
const liveEvents = (found) => ({
  time: found.map(({ time }) => time), layer: found.map(() => 0), head: found.map(() => 0),
  product: found.map(({ coordinate }) => ofLiveProduct(coordinate)),
  index: found.map(({ coordinate }) => coordinate % LIVE.dim),
});

function chooseLiveProblem(seed) {
  if (live.seed === seed) return;
  const problem = drawProblem(seed, LIVE);
  const found = [];
  for (const stage of stages(problem)) if (found.push(stage) === LIVE.stages) break;
  const start = diagonalHead(problem).lossAndG(new Float64Array(2 * LIVE.dim)).loss;
  const prediction = { ...liveTable(found), ...liveEvents(found), start };
  // As in the library, a coordinate is active above half of what the stage gives it that activates it.
  const levels = {};
  for (const { coordinate, p } of found) {
    levels[coordinate] = Math.min(levels[coordinate] ?? Infinity, Math.abs(p[coordinate]) / 2);
  }
  Object.assign(live, { seed, problem, prediction, levels, end: 1.25 * found.at(-1).time, runs: [] });
}

// When products pass their levels upwards, between two records each.
function activations(records, levels) {
  const found = [];
  for (const [coordinate, level] of Object.entries(levels)) {
    for (let after = 1; after < records.length; after += 1) {
      const [low, high] = [records[after - 1], records[after]].map(({ p }) => Math.abs(p[coordinate]));
      if (low > level || high <= level) continue;
      const share = (level - low) / (high - low);
      const time = records[after - 1].time + share * (records[after].time - records[after - 1].time);
      found.push({ time, coordinate: Number(coordinate) });
    }
  }
  return found.sort((a, b) => a.time - b.time);
}

function chooseLive() {
  const alpha = choose("live-alpha", LIVE_ALPHAS, LIVE.alpha);
  chooseLiveProblem(chooseNumber("live-problem", LIVE.seed, (seed) => Math.min(9999, Math.max(0, Math.round(seed)))));
  return alpha;
}

const logAlpha = (alpha) => -Number(alpha.slice(3)) * Math.LN10; // 1e-3000 is no number of JavaScript

function renderLive() {
  const alpha = chooseLive();
  const known = live.runs.find((run) => run.alpha === alpha);
  const records = known?.records ?? [train(live.problem, logAlpha(alpha), live.end).next().value];
  showSlider("live-alpha", LIVE_ALPHAS, String);
  byId("live-problem").value = live.seed;
  const run = { alpha, ...liveTable(records), events: liveEvents(activations(records, live.levels)) };
  const others = live.runs.filter((other) => other !== known)
    .map((other) => ({ alpha: other.alpha, ...liveTable(other.records) }));
  const { prediction, end } = live;
  const view = { run, others, prediction, end, time: run.time.at(-1), layer: 0, head: 0, full: false, isLog: false };
  drawStages("live-stages", view, { views: [view], title: `live, α = ${alpha}, problem ${live.seed}` });
  byId("live-readout").textContent = describeLive(view);
}

function describeLive({ run, prediction, time }) {
  const count = prediction.time.length;
  const predicted = `Algorithm 1 predicts the first ${count} stages at times ${prediction.time.map(short).join(", ")}.`;
  if (time === 0) return `${predicted} Press Train, or move the init scale.`;
  const measured = measuredTimes(run, prediction);
  const happened = measured.filter((each) => each !== null).length;
  const times = measured.map((each) => (each === null ? "–" : short(each))).join(", ");
  const off = measured.map((each, stage) => (each === null ? 0 : Math.abs(each - prediction.time[stage])));
  return `${predicted} At α = ${run.alpha}, ${happened} have happened, at times ${times}: ` +
    `at most ${short(largest(off))} from the prediction.`;
}

// Trains from the start, and draws while training; a new call starts again.
function trainLive() {
  const alpha = chooseLive();
  const run = { alpha, records: [] };
  live.runs = [...live.runs.filter((other) => other.alpha !== alpha), run];
  const steps = train(live.problem, logAlpha(alpha), live.end);
  const training = (live.training += 1);
  const perFrame = matchMedia("(prefers-reduced-motion: reduce)").matches ? Infinity : 5;
  byId("live").dataset.training = "on";
  const advance = () => {
    if (training !== live.training) return; // another one has begun
    let done = false;
    for (let count = 0; count < perFrame && !done; count += 1) {
      const step = steps.next();
      done = step.done;
      if (!done) run.records.push(step.value);
    }
    renderLive();
    if (!done) return requestAnimationFrame(advance);
    byId("live").dataset.training = "done";
  };
  advance();
}

function connectLive() {
  byId("live-train").addEventListener("click", trainLive);
  byId("live-alpha").addEventListener("input", ({ target }) => {
    update({ "live-alpha": LIVE_ALPHAS[target.value] });
    trainLive();
  });
  byId("live-problem").addEventListener("change", ({ target }) => update({ "live-problem": target.value }));
}
