"""The page of the command, from what it has measured: one HTML file that needs nothing else."""

import json
from html import escape
from pathlib import Path

import numpy as np

from rank_increase.notation import PRODUCT_NAMES, alpha_label
from rank_increase.probes.measures import stable_rank
from rank_increase.tables import atomic, read_provenance, read_table

WIDTH, HEIGHT, MARGIN = 420, 240, 45  # of a chart, in pixels
NOT_MEASURED = "not measured"
STYLE = """body {font: 15px/1.4 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em}
table {border-collapse: collapse; margin: 1em 0}
td, th {border: 1px solid #ccc; padding: .25em .6em; text-align: left}
pre {overflow-x: auto; font-size: 11px} svg {margin: .5em}
text {font-size: 11px} .no {color: #b00020; font-weight: bold}"""


def write_page(out):
    """Write index.html into the folder `out`, from checks.json, speed.json, runs.json and the tables there."""
    out = Path(out)
    found = {name: _read(out / f"{name}.json") for name in ("machine", "checks", "speed", "runs")}
    parts = [
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>GPU check</title><style>{STYLE}</style>",
        "<h1>GPU check</h1>",
        _table([[name, value] for name, value in (found["machine"] or {}).items()]),
        "<h2>Checks</h2>",
        _checks(found["checks"]),
        "<h2>Speed</h2>",
        _speed(found["speed"]),
        "<h2>Runs</h2>",
        _runs(found["runs"], out),
    ]
    with atomic(out / "index.html") as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _read(path):
    return json.loads(path.read_text()) if path.exists() else None


def _table(rows, head=None):
    """An HTML table of rows of values, which are escaped."""
    lines = [f"<tr>{''.join(f'<th>{escape(str(cell))}</th>' for cell in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _checks(checks):
    if not checks:
        return f"<p>{NOT_MEASURED}</p>"
    wrong = sum(not check["right"] for check in checks)
    verdict = (
        f"<p class='no'>{wrong} of {len(checks)} are wrong.</p>" if wrong else f"<p>All {len(checks)} are right.</p>"
    )
    rows = [[check["says"], "right" if check["right"] else "WRONG", check["found"]] for check in checks]
    return verdict + _table(rows, ["check", "verdict", "found"])


def _speed(speed):
    if not speed:
        return f"<p>{NOT_MEASURED}</p>"
    rate = speed["matrix_product_flops_per_second"]
    rows = [
        [
            case["label"],
            case["batch_size"],
            f"{case['samples_per_second']:,.0f} ({case['lowest']:,.0f} to {case['highest']:,.0f})",
            f"{case['flops_per_sample'] / 1e9:.3g}",
            f"{case['flops_per_second'] / 1e12:.3g}",
            f"{case['utilisation']:.1%}",
            f"{case['first_steps_seconds']:.1f}",
            NOT_MEASURED if case["memory_bytes"] is None else f"{case['memory_bytes'] / 1e9:.1f}",
            "yes" if case["compiled"] else "no",
        ]
        for case in speed["cases"]
    ]
    head = ["model", "batch", "samples/s: median (lowest to highest)", "GFLOP a sample", "TFLOP/s", "utilisation"]
    head += ["first steps, s", "memory, GB", "compiled"]
    kinds = list(speed["cases"][0]["time_by_kind"])
    shares = [[case["label"], *(f"{case['time_by_kind'][kind]:.1%}" for kind in kinds)] for case in speed["cases"]]
    return "".join(
        [
            f"<p>Product of two bfloat16 matrices: {rate / 1e12:.3g} TFLOP/s. Utilisation is the rate of training over"
            " this one, both measured in this run. FLOPs are those of matrix products in forward and backward passes."
            "</p>",
            _table(rows, head),
            "<p>Where the time goes (of kernels, or of operations on a CPU):</p>",
            _table(shares, ["model", *kinds]),
            *(f"<details><summary>{escape(case['label'])}</summary><pre>{escape(case['profile'])}</pre></details>"
              for case in speed["cases"]),
        ]
    )  # fmt: skip


def _runs(runs, out):
    """Epochs and accuracy of each run, and curves of loss and stable rank."""
    if not runs:
        return f"<p>{NOT_MEASURED}</p>"
    rows, losses, ranks = [], {"train": {}, "test": {}}, {}
    for path in sorted(out.glob("networks/*/alpha_*/seed_*/metrics.parquet")):
        metrics, wildcards = read_table(path), read_provenance(path)["wildcards"]
        name = f"{alpha_label(wildcards['alpha'])}, seed {wildcards['seed']}"
        last = metrics.iloc[-1]
        rows.append(
            [
                name,
                f"{last['epoch']:.0f} of {runs['epochs']}",
                f"{last['train_loss']:.4f}",
                f"{last['test_accuracy']:.2%}",
                f"{metrics['images_per_second'].median():,.0f}",
            ]
        )
        for split, curves in losses.items():
            curves[name] = metrics["epoch"], metrics[f"{split}_loss"]
        for (product, layer), values in _stable_ranks(path.with_name("spectra.parquet")):
            title = f"{name}: stable rank of the change of {PRODUCT_NAMES[product]}"
            ranks.setdefault(title, {})[f"layer {layer + 1}"] = values
    if not rows:  # no run has come to the end of its first epoch
        return f"<p>{NOT_MEASURED}</p>"
    head = ["run", "epochs", "train loss", "test accuracy", "samples/s (median over epochs)"]
    charts = [_chart(f"{split} loss", curves) for split, curves in losses.items()]
    charts += [_chart(title, curves) for title, curves in ranks.items()]
    return _table(rows, head) + "".join(charts)


def _stable_ranks(path):
    """Mean stable rank of the change over the heads of a layer: ((product, layer), (epochs, values)) of each."""
    spectra = read_table(path, columns=["step", "epoch", "layer", "product", "matrix", "singular_values"])
    changes = spectra[(spectra["matrix"] == "delta") & (spectra["step"] > 0)]
    changes = changes.assign(rank=[float(stable_rank(values)) for values in changes["singular_values"]])
    means = changes.groupby(["product", "layer", "epoch"], observed=True)["rank"].mean().reset_index()
    for key, rows in means.groupby(["product", "layer"], observed=True):
        yield key, (rows["epoch"], rows["rank"])


def _chart(title, curves):
    """An SVG of curves (x, y) by name, over log x."""
    xs = np.concatenate([np.asarray(x, float) for x, _ in curves.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in curves.values()])
    (low, high), (bottom, top) = np.log10([xs.min(), xs.max()]), (min(0.0, ys.min()), ys.max())
    high, top = max(high, low + 1e-9), max(top, bottom + 1e-9)

    def place(x, y):
        across = MARGIN + (np.log10(x) - low) / (high - low) * (WIDTH - 2 * MARGIN)
        return f"{across:.1f},{HEIGHT - MARGIN - (y - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN):.1f}"

    lines = [f"<text x='{MARGIN}' y='16'>{escape(title)}</text>"]
    lines.append(f"<path d='M{MARGIN},{MARGIN} V{HEIGHT - MARGIN} H{WIDTH - MARGIN}' fill='none' stroke='black'/>")
    for x in (xs.min(), xs.max()):
        lines.append(f"<text x='{place(x, bottom).split(',')[0]}' y='{HEIGHT - MARGIN + 15}'>{x:.3g}</text>")
    for y in (bottom, top):
        lines.append(f"<text x='5' y='{place(xs.min(), y).split(',')[1]}'>{y:.3g}</text>")
    lines.append(f"<text x='{WIDTH / 2}' y='{HEIGHT - 8}'>epoch</text>")
    for number, (name, (x, y)) in enumerate(curves.items()):
        color = f"hsl({360 * number / len(curves):.0f} 70% 40%)"
        points = " ".join(place(*point) for point in zip(x, y, strict=True))
        lines.append(
            f"<polyline points='{points}' fill='none' stroke='{color}'><title>{escape(name)}</title></polyline>"
        )
        lines.append(f"<text x='{WIDTH - MARGIN + 3}' y='{MARGIN + 13 * number}' fill='{color}'>{escape(name)}</text>")
    return f"<svg width='{WIDTH + 130}' height='{HEIGHT}'>{''.join(lines)}</svg>"
