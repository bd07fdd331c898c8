// The page: its parts, each with the choices that it depends on, and what draws it.

const PARTS = [
  {
    has: study.networks, draw: renderNetworks,
    selects: ["network", "scale", "seed", "product", "layer", "head", "beside", "overview-of"],
    boxes: ["log-time", "log-values"], others: ["epoch"],
  },
  {
    has: study.toy, draw: renderToy,
    selects: ["variant", "problem", "toy-layer", "toy-head", "toy-beside"],
    boxes: ["log-loss"], others: ["alpha", "time"],
  },
  { has: true, draw: renderLive, selects: [], boxes: [], others: ["live-alpha", "live-problem"] },
];

// Draws the parts that depend on some of the choices; all without them.
function render(changed) {
  for (const { has, draw: drawPart, selects, boxes, others } of PARTS) {
    const own = new Set([...selects, ...boxes, ...others]);
    if (has && (!changed || changed.some((key) => own.has(key)))) drawPart();
  }
  showLink();
}

function showAbout() {
  const { study: name, commits, date } = study.about;
  document.title = `Gradual rank increase: ${name}`;
  const origin = commits.map((commit) => commit.slice(0, 12)).join(", ");
  byId("about").textContent = `Study ${name} · tables made at commit ${origin} · page made on ${date}`;
}

function connect() {
  for (const { selects, boxes } of PARTS) {
    for (const id of selects) byId(id).addEventListener("change", ({ target }) => update({ [id]: target.value }));
    for (const id of boxes) {
      byId(id).addEventListener("change", ({ target }) => update({ [id]: target.checked ? "on" : "off" }));
    }
  }
  if (study.networks) connectNetworks();
  if (study.toy) connectToy();
  connectLive();
}

for (const part of ["networks", "toy", "claims"]) {
  document.querySelector(`#${part} .missing`).hidden = Boolean(study[part]);
  document.querySelector(`#${part} .part`).hidden = !study[part];
}
showAbout();
if (study.claims) renderClaims();
readAddress();
render();
addDownloads();
connect();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
addEventListener("hashchange", () => {
  readAddress();
  render();
});
document.body.dataset.ready = "true";
