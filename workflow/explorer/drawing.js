// Plots by Plotly, and what is shown in them as files.

{
  const script = document.createElement("script");
  script.textContent = await (await unzip("plotly")).text();
  document.head.append(script);
}

const fine = matchMedia("(pointer: fine)").matches; // where dragging does not mean scrolling the page
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

// A colour between the first (0) and the last (1), without the end that is hard to see on the page.
function scaleColor(fraction) {
  const [first, last] = isDark() ? [0.4, 1] : [0, 0.75];
  const place = (first + (last - first) * fraction) * (VIRIDIS.length - 1);
  const [low, high] = [VIRIDIS[Math.floor(place)], VIRIDIS[Math.ceil(place)]];
  const part = (text, start) => parseInt(text.slice(start, start + 2), 16);
  const mixed = [1, 3, 5].map((start) => part(low, start) + (place % 1) * (part(high, start) - part(low, start)));
  return `rgb(${mixed.map(Math.round).join(",")})`;
}

function axis(title, options) {
  const line = color("rule");
  return {
    title: { text: title, standoff: 8 }, gridcolor: line, linecolor: line, zeroline: false, ticks: "outside",
    tickcolor: line, fixedrange: true, automargin: true, ...options,
  };
}

// An axis from 0, or a logarithmic one over some powers of ten, up to `top`; up to 1 if there is nothing to show.
function valueAxis(title, top, isLog, decades, options) {
  const end = top > 0 ? top : 1;
  if (!isLog) return axis(title, { range: [0, 1.04 * end], ...options });
  const limits = [Math.log10(end) - decades, Math.log10(1.1 * end)];
  return axis(title, { type: "log", range: limits, exponentformat: "power", dtick: 1, ...options });
}

// `title` names what is drawn: it stands in downloaded tables, and above the plot if there are several `views`.
function draw(id, traces, { title, views, margin, ...layout }) {
  const whole = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("text") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    hovermode: "closest", hoverdistance: -1, dragmode: false,
    hoverlabel: { bgcolor: color("panel"), font: { color: color("text") }, bordercolor: color("quiet") },
    margin: { l: 56, r: 12, t: 10, b: 44, ...margin }, meta: title, ...layout,
  };
  if (views?.length > 1) {
    const corner = { x: 0, xref: "paper", y: 1, yref: "container", pad: { t: 8 } };
    whole.title = { text: escaped(title), font: { size: 14 }, ...corner };
    whole.margin.t += 26;
  }
  Plotly.react(id, traces, whole, { displayModeBar: false, responsive: true });
  listen(id);
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const idOf = (name, place) => (place === 0 ? name : `${name}-beside`);

const clicks = {};

// Call `act` with the nearest point when a plot, or the one beside it, is clicked.
const onClick = (name, act) => { clicks[name] = act; };

function listen(id) {
  if (byId(id).dataset.listens) return;
  byId(id).dataset.listens = "true";
  byId(id).on("plotly_click", ({ points }) => clicks[id.replace("-beside", "")]?.(points[0]));
}

const verticalLine = (x, name, width, dash = "solid") => ({
  type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: color(name), width, dash },
});

const panelTitle = (text, yref) => ({
  text: `<b>${text}</b>`, x: 0, xref: "paper", xanchor: "left", y: 1, yref: `${yref} domain`, yanchor: "bottom",
  showarrow: false, yshift: 2, bgcolor: color("page"),
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

// Files

const plain = (text) => new DOMParser().parseFromString(text, "text/html").body.textContent;
const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

// What plots show, as text: a row for each point. A heat map has a value besides x and y.
function tableOf(plots) {
  const rows = [["plot", "x_axis", "y_axis", "curve", "x", "y", "value"]];
  for (const { data, layout } of plots) {
    for (const trace of data) {
      const title = (letter) => layout[`${letter}axis${(trace[`${letter}axis`] ?? "").slice(1)}`].title.text;
      const head = [layout.meta, plain(title("x")), plain(title("y")), plain(trace.name ?? "")];
      const points = trace.type === "heatmap"
        ? trace.y.flatMap((y, row) => trace.x.map((x, column) => [x, y, trace.z[row][column]]))
        : trace.x.map((x, point) => [x, trace.y[point], ""]);
      rows.push(...points.filter(([x, y]) => x != null && y != null).map((point) => [...head, ...point]));
    }
  }
  return rows.map((row) => row.map((value) => quoted(value ?? "")).join(",")).join("\n").concat("\n");
}

function save(name, address) {
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
}

async function saveImage(plot) {
  const { data, layout } = plot;
  const { offsetWidth: width, offsetHeight: height } = plot;
  const page = color("page");
  const image = { data, layout: { ...layout, paper_bgcolor: page, plot_bgcolor: page } };
  save(`${study.about.study}-${plot.id}.png`, await Plotly.toImage(image, { format: "png", scale: 2, width, height }));
}

function saveTable(name, plots) {
  const address = URL.createObjectURL(new Blob([tableOf(plots)], { type: "text/csv" }));
  save(`${study.about.study}-${name}.csv`, address);
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// Buttons in the caption of each figure.
function addDownloads() {
  for (const figure of document.querySelectorAll("figure")) {
    const shown = () => [...figure.querySelectorAll(".plot")].filter((plot) => plot.offsetHeight > 0);
    const name = figure.querySelector(".plot").id;
    const button = (kind, act) => {
      const made = element("button", kind, { type: "button", ariaLabel: `Download ${name} as ${kind}` });
      made.addEventListener("click", act);
      return made;
    };
    const buttons = element("span", "", { className: "save" });
    buttons.append(
      button("CSV", () => saveTable(name, shown())), button("PNG", () => shown().forEach(saveImage)),
    );
    figure.prepend(buttons);
  }
}

function element(name, text, attributes = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...attributes });
}
