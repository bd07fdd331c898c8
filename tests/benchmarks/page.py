"""The page and the picture of the benchmarks, made from their tables alone."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, NullLocator

from measuring import slope
from rank_increase.figures.style import new_panels, paper_style
from rank_increase.tables import atomic

NAMES = {
    "toy": ("Toy problem", "ln(1/alpha)"),
    "full": ("Toy problem with full weights", "ln(1/alpha)"),
    "spectra": ("Spectra of the attention products", "width"),
    "vit": ("Training step of a vision transformer", "width"),
    "workflow": ("Workflow", "jobs"),
}
GROWTH = {  # the case of each benchmark whose growth is drawn, and what its time is of
    "toy": ("run to rescaled time 1000", "CPU s a run"),
    "full": ("run to rescaled time 1000", "CPU s a run"),
    "spectra": ("delta of a head of width 64", "CPU s a head"),
    "vit": ("an image, forward, backward and Adam", "CPU s an image"),
    "workflow": ("dry run", "CPU s a dry run"),
}
COLORS = ["#c44e00", "#0072b2", "#009e73", "#aa4499", "#888888", "#ddaa33"]
MARKERS = "sD^vPX"


def write_page(folder):
    """Write README.md and benchmarks.png to a folder that has the tables and machine.json."""
    folder = Path(folder)
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in NAMES if (folder / f"{name}.csv").exists()}
    machine = json.loads((folder / "machine.json").read_text())
    with atomic(folder / "benchmarks.png") as temporary:
        draw(tables, temporary)
    with atomic(folder / "README.md") as temporary:
        parts = [header(machine), *(section(name, rows) for name, rows in tables.items())]
        temporary.write_text("\n\n".join(parts) + "\n")


def header(machine):
    """What was measured, on what, and how to read the tables."""
    limits, quick = machine["limits"], ", in quick mode: one repeat, few sizes" if machine["quick"] else ""
    return f"""# Benchmarks

Made by `make bench` on one core{quick}. Commit {machine["commit"]}, {machine["date"]}.

- Machine: {machine["hardware"]}; other programs wanted {machine["load"]} cores in the minutes before.
- Limits of one core, measured in the same run: matrix products {limits["float32"] / 1e9:.0f} GFLOP/s in float32 and
  {limits["float64"] / 1e9:.0f} in float64, copying {limits["bandwidth"] / 1e9:.1f} GB/s.
- Versions: {machine["versions"]}.

Times are CPU seconds of methods called in turn: the median, and the lowest and the highest of n. A star marks what is
extrapolated from a part. `peer / this` is the time of the fastest other method over that of the row; `limit / this` the
time that the operations it cannot do without would take at those limits, over that of the row. Slopes are powers of the
size with which time grows, fitted over all sizes.

![Time against size](benchmarks.png)"""


def section(name, rows):
    """A benchmark's heading, reading, slopes and table."""
    title, x = NAMES[name]
    parts = [f"## {title}", READINGS[name](rows)]
    slopes = growth(name, rows)
    if slopes:
        parts.append("Slopes: " + ", ".join(f"{method} {value:.2f}" for method, (_, value) in slopes.items()) + ".")
    heads = ["", x, "method", "CPU s", "lowest to highest", "n", "wall s", "peer / this", "limit / this", "error"]
    lines = [heads, ["---"] * len(heads)]
    for line in rows.to_dict("records"):
        star = "*" if line["extrapolated"] else ""
        spread = f"{number(line['lowest'])} to {number(line['highest'])}"
        ratios = [number(line["to_best_peer"]), "" if math.isnan(line["to_limit"]) else f"{line['to_limit']:.0%}"]
        times = [number(line["seconds"]) + star, spread, str(line["n"]), number(line["wall"])]
        lines.append([line["case"], number(line["x"]), line["method"], *times, *ratios, number(line["error"], 1)])
    return "\n\n".join([*parts, "\n".join("| " + " | ".join(line) + " |" for line in lines)])


def number(value, digits=3):
    """A number in a table: three digits, nothing if there is none."""
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.{digits}g}"


def growth(name, rows):
    """Method -> its rows in the case whose growth is drawn, and their slope, if there are at least two sizes."""
    of_case = rows[rows["case"] == GROWTH[name][0]]
    groups = {method: group.sort_values("x") for method, group in of_case.groupby("method", sort=False)}
    return {method: (group, slope(group["x"], group["seconds"])) for method, group in groups.items() if len(group) > 1}


def draw(tables, path):
    """Time against size, a panel for each benchmark; hollow marks are extrapolated."""
    with paper_style():
        rows = -(-len(tables) // 2)
        figure, axes = new_panels(rows, 2, 3.4 * rows)
        for ax in axes.flat[len(tables) :]:
            ax.set_axis_off()
        for ax, (name, rows) in zip(axes.flat, tables.items(), strict=False):
            styles = zip(COLORS, MARKERS, strict=True)
            for method, (group, power) in growth(name, rows).items():
                color, marker = ("black", "o") if method == "ours" else next(styles)
                line = {"color": color, "marker": marker, "ms": 4, "lw": 1.8 if method == "ours" else 1.0}
                fill = "none" if group["extrapolated"].any() else color
                ax.loglog(group["x"], group["seconds"], **line, mfc=fill, label=f"{method}: {power:.2f}")
            sizes = sorted(set(rows.loc[rows["case"] == GROWTH[name][0], "x"]))
            shown = spread(sizes)
            ax.set_xticks(shown, [f"{size:.3g}" if size < 1000 else f"{size:.0f}" for size in shown])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set(title=NAMES[name][0], xlabel=NAMES[name][1], ylabel=GROWTH[name][1])
            ax.legend(title="method: slope", loc="upper left", bbox_to_anchor=(-0.2, -0.2), alignment="left")
        figure.savefig(path, format="png", dpi=150)


def spread(sizes, least=0.12):
    """Those of ascending sizes that are at least a share of the logarithmic axis away from the one before."""
    chosen, length = [sizes[0]], np.log(sizes[-1] / sizes[0])
    for size in sizes[1:]:
        if np.log(size / chosen[-1]) >= least * length:
            chosen.append(size)
    return chosen


def seconds_of(rows, case):
    """Seconds of one case, a row for each x and a column for each method."""
    return rows[rows["case"] == case].pivot(index="x", columns="method", values="seconds")


def read_toy(rows):
    """One line on the toy problem."""
    seconds = seconds_of(rows, GROWTH["toy"][0])
    runs = seconds[["ours", "gradient descent, autograd"]].dropna()
    both = runs.sum()
    compared = seconds.drop(columns=["gradient descent, autograd", "SGD, autograd"]).dropna()
    others = compared.drop(columns="ours")
    ours, smallest = seconds["ours"], runs.index[-1]
    beyond = "".join(
        f" At ln(1/alpha) = {x:.0f} ours takes {longer:.1f} times as long as at {smallest:.0f}."
        for x, longer in (ours[ours.index > smallest] / ours[smallest]).items()
    )
    solvers = "; ".join(
        f"{others.loc[x, method] / compared.loc[x, 'ours']:.1f} at ln(1/alpha) = {x:.0f} ({method})"
        for x, method in others.idxmin(axis=1).items()
    )
    return (
        f"{len(runs)} of the paper's init scales together take {both['ours']:.0f} s, gradient descent by torch autograd"
        f" {both['gradient descent, autograd'] / 3600:.2g} h (extrapolated): {both.iloc[1] / both['ours']:.0f} times as"
        f" long. The fastest other solver takes this many times as long as ours: {solvers}.{beyond}"
    )


def read_full(rows):
    """One line on full weights."""
    seconds = seconds_of(rows, GROWTH["full"][0])
    ours, descent = seconds["ours"], seconds["gradient descent, autograd"]
    gradient = rows[(rows["case"] == "one gradient") & (rows["method"] == "ours")].iloc[0]
    parts = [
        f"With {gradient['x']:.0f} samples a run takes {ours.iloc[0]:.2g} s at ln(1/alpha) = {ours.index[0]:.0f} and"
        f" {ours.iloc[-1]:.2g} s at {ours.index[-1]:.0f}; gradient descent by torch autograd"
        f" {(descent / ours).iloc[0]:.0f} to {(descent / ours).iloc[-1]:.0f} times as long (extrapolated).",
        f"A gradient reaches {gradient['to_limit']:.0%} of the matrix-product rate.",
    ]
    beside = seconds_of(rows, "beside a gradient").iloc[0]
    shares = (beside.drop("a gradient") / beside["a gradient"]).rename(lambda name: name.removeprefix("ours, "))
    parts.append("Beside a gradient: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) + ".")
    small = rows[rows["case"].str.endswith(f": {GROWTH['full'][0]}")]
    for x, group in small.groupby("x"):
        group = group.set_index("method")
        others = group.loc[~group.index.str.startswith("ours")]
        best = others["seconds"].idxmin()
        parts.append(
            f"At ln(1/alpha) = {x:.0f}, {group['case'].iloc[0].split(':')[0]}, the fastest other solver, {best}, takes"
            f" {others['seconds'].min() / group.loc['ours', 'seconds']:.1f} times as long as ours, with an error of"
            f" {others.loc[best, 'error']:.0e} beside {group.loc['ours', 'error']:.0e}."
        )
    return " ".join(parts)


def read_spectra(rows):
    """One line on the spectra."""
    parts = []
    for case in dict.fromkeys(rows["case"]):
        if case != GROWTH["spectra"][0]:
            seconds = seconds_of(rows, case).iloc[0]
            peers = seconds.drop([name for name in seconds.index if name.startswith("ours")])
            slower = [seconds["numpy, dense"] / seconds["ours"], peers.min() / seconds["ours"]]
            parts.append(f"{case}: {slower[0]:.1f} times as fast as numpy, {slower[1]:.1f} as the fastest dense way")
    error = rows.loc[rows["method"] == "ours", "error"].max()
    return "; ".join(parts) + f". Our largest error is {error:.0e} of the largest singular value."


def read_vit(rows):
    """One line on the training step."""
    rows = rows.assign(rate=1 / rows["seconds"])
    ours, parts = rows[rows["method"] == "ours"].set_index("x"), []
    for x, seconds in seconds_of(rows, GROWTH["vit"][0]).iterrows():
        slower = {name: seconds[name] / seconds["ours"] for name in seconds.index.drop("ours")}
        words = ", ".join(f"{value:.2f} times {name}'s" for name, value in slower.items())
        share = f"{ours.loc[x, 'to_limit']:.0%} of the matrix-product rate"
        parts.append(f"width {x:.0f}: {ours.loc[x, 'rate']:.3g} images/s, {words}, {share}")
    return "; ".join(parts) + "."


def read_workflow(rows):
    """One line on the workflow."""
    dry = rows[rows["case"] == GROWTH["workflow"][0]].sort_values("x").iloc[-1]
    each = 1e3 * dry["seconds"] / dry["x"]
    text = f"A dry run of {dry['x']:.0f} jobs takes {dry['seconds']:.0f} CPU s, {each:.1f} ms a job."
    demo = rows[rows["case"].str.startswith("demo")].set_index("method")["seconds"]
    if demo.empty:
        return text + " The demo was not measured."
    total, jobs, cpu = demo["wall time x cores"], demo["sum over jobs, wall"], demo["sum over jobs, CPU"]
    return text + (
        f" Jobs of the demo, each a process of its own, fill {jobs / total:.0%} of its wall time on all cores, and"
        f" compute in {cpu / total:.0%} of it; the rest is Snakemake's and other programs',"
        " and cores that wait for jobs or for each other."
    )


READINGS = {"toy": read_toy, "full": read_full, "spectra": read_spectra, "vit": read_vit, "workflow": read_workflow}
