"""Panels of networks: what is shown of a run, and one function per kind of panel.

Panels take rows of the tables "spectra" and "measures" and fill an Axes. Layers and heads count from 0 in tables and
from 1 in what a figure says. Means and standard deviations are over the heads of one layer of one run, never over
seeds; the heads are all that the layer has, so the deviation is that of the population. Before the first step a change
is zero and has neither rank nor normalized spectrum: panels of these begin with the first snapshot after it.
"""

from functools import partial
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from seaborn import lineplot

from rank_increase.figures.style import PRODUCT_LABELS
from rank_increase.notation import sort_alphas

INITIAL = {"color": "#c00000", "lw": 1.6, "zorder": 3, "label": "initial product"}
BASELINES = {
    "random_product": {"color": "0.55", "ls": (0, (4, 2)), "zorder": 1, "label": "random change of equal norm"},
    "noisy_factors": {"color": "0.55", "ls": (0, (1, 1)), "zorder": 1, "label": "random change of the factors"},
}
COLORS = ("#1f5fb4", "#c00000", "#2e8b57", "#b8860b")  # of a network's products, in their order
INDEX = "index of singular value"
NORMALIZED = "singular value / largest"


def read_spectra(tables, network, matrices, **wanted):
    """Singular values of a network: `epoch`, `step`, `layer`, `head`, `product`, `matrix`, `singular_values`, `alpha`.

    Parameters
    ----------
    tables : figures.job.StudyTables
    network : str
    matrices : list of str
        Of `initial`, `delta` and the keys of `BASELINES`.
    wanted : dict
        Column -> the value that rows must have, or a list of such values.
    """
    columns = ["epoch", "step", "layer", "head", "product", "matrix", "singular_values", "alpha"]
    return tables.read("spectra", columns, network=network, matrix=matrices, **wanted)


def read_stable_ranks(tables, network, **wanted):
    """Stable ranks of changes, by training and at random, with the same columns and `seed`."""
    columns = ["epoch", "step", "layer", "head", "product", "matrix", "stable_rank", "alpha", "seed"]
    return tables.read("measures", columns, network=network, matrix=["delta", *BASELINES], **wanted)


def products_of(rows):
    """Names of the products in these rows, in the order of the network; a list."""
    return list(dict.fromkeys(rows["product"]))


def delta_label(product):
    """What training adds to a product, as a figure names it."""
    return rf"$\Delta {PRODUCT_LABELS[product][1:]}" if product in PRODUCT_LABELS else f"Δ{product}"


def of_head(rows, layer, head, product):
    """The rows of one product of one head."""
    return rows[(rows["layer"] == layer) & (rows["head"] == head) & (rows["product"] == product)]


def of_matrix(rows, matrix):
    """Singular values of one product of one head by epoch, as a pandas.Series of arrays."""
    return rows[rows["matrix"] == matrix].set_index("epoch")["singular_values"].sort_index()


def spread_layers(layers, wanted):
    """Layers to show: the `wanted` ones; or, of a model that lacks one of them, as many spread over those it has.

    Parameters
    ----------
    layers : int
        How many the model has.
    wanted : list of int
        From 0, ascending.

    Returns
    -------
    list of int
        As long as `wanted`; a layer occurs more than once where there are too few.
    """
    if wanted[-1] < layers:
        return wanted
    return np.linspace(0, layers - 1, len(wanted)).round().astype(int).tolist()


def choose_heads(rows, wanted, seed):
    """Heads to show, drawn at random as in the paper, not for what they show; a list of (layer, head), none twice.

    Parameters
    ----------
    rows : pandas.DataFrame
        Columns `layer`, `head` with all that the model has.
    wanted : list of int
        Layers, as for `spread_layers`.
    seed : int
        Of the draw.
    """
    layers, heads = rows["layer"].max() + 1, rows["head"].max() + 1
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(heads), (layers, 1)), axis=1)
    shown = spread_layers(layers, wanted)
    places = [shown[:place].count(layer) for place, layer in enumerate(shown)]
    chosen = [(layer, int(orders[layer, place % heads])) for layer, place in zip(shown, places, strict=True)]
    return list(dict.fromkeys(chosen))


def head_name(layer, head):
    """A head as a title says it."""
    return f"layer {layer + 1}, head {head + 1}"


def stage_epochs(epochs, count=6):
    """Up to `count` epochs from the first after initialization to the last, evenly spaced on a logarithmic axis."""
    epochs = np.unique(epochs)
    epochs = epochs[epochs > 0]
    targets = np.geomspace(epochs[0], epochs[-1], count)
    return sorted({float(epochs[np.abs(np.log(epochs / target)).argmin()]) for target in targets})


def stage_colors(epochs):
    """Greens, darker the later; a dict epoch -> RGBA."""
    return dict(zip(epochs, matplotlib.colormaps["Greens"](np.linspace(0.35, 1, len(epochs))), strict=True))


def draw_stages(axes, rows, colors):
    """Normalized spectra of a product: at initialization in red, of its change at several epochs in greens.

    In gray, random changes as large as the last one.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    rows : pandas.DataFrame
        Of one head and product (`of_head`).
    colors : dict
        Of `stage_colors`.
    """
    delta = of_matrix(rows, "delta")
    _draw_normalized(axes, of_matrix(rows, "initial").iloc[0], **INITIAL)
    for epoch, color in colors.items():
        _draw_normalized(axes, delta[epoch], color=color, label=f"change, epoch {epoch:g}")
    for baseline, style in BASELINES.items():
        _draw_normalized(axes, of_matrix(rows, baseline).iloc[-1], **style)
    axes.set(xlim=(1, len(delta.iloc[-1])), ylim=(0, 1.02), xlabel=INDEX)


def _draw_normalized(axes, values, **style):
    """A line that is named in the legend also where the values are zero, and there is nothing to see."""
    axes.plot(np.arange(1, len(values) + 1), values / (values[0] or np.nan), **style)


def draw_evolution(axes, delta, shown=20):
    """The largest singular values of the change of a product over training, the largest darkest.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    delta : pandas.Series
        Of `of_matrix`.
    shown : int
        How many of them.
    """
    values = pd.DataFrame(np.stack(delta)[:, :shown], delta.index)
    values = values.melt(ignore_index=False, var_name="index").reset_index()
    # Negative, as seaborn draws in ascending order; the lightest colors, which are hard to see on white, are left out.
    hues = {"hue": -values["index"], "hue_norm": (-values["index"].max() / 0.85, 0), "palette": "viridis_r"}
    lineplot(values, x="epoch", y="value", **hues, estimator=None, legend=False, ax=axes)
    axes.set(xlim=(0, delta.index[-1]), xlabel="epoch", ylabel="")
    axes.set_ylim(bottom=0)


def draw_perturbation(axes, rows):
    """Spectra of a product at initialization, of its change by training, and of random changes as large as that.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    rows : pandas.DataFrame
        Of one head and product (`of_head`).
    """
    delta = {"color": matplotlib.colormaps["Greens"](0.8), "lw": 1.6, "zorder": 2, "label": "change by training"}
    for matrix, style in {"initial": INITIAL, "delta": delta, **BASELINES}.items():
        values = of_matrix(rows, matrix).iloc[-1]
        axes.plot(np.arange(1, len(values) + 1), values, **style)
    axes.set(xlim=(1, len(values)), xlabel=INDEX)
    axes.set_ylim(bottom=0)


def seed_colors(seeds):
    """A color for each seed; a dict."""
    seeds = sorted(set(seeds))
    return dict(zip(seeds, matplotlib.colormaps["viridis"](np.linspace(0.1, 0.8, len(seeds))), strict=True))


def draw_scales(axes, ranks, colors):
    """Stable rank after training against init scale: mean and standard deviation over heads, a series for each seed.

    In gray, the means for random changes, over heads and seeds.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With a linear axis of ranks; see `scale_to_ranks`.
    ranks : pandas.DataFrame
        Of `read_stable_ranks`: one layer, product and epoch.
    colors : dict
        Seed -> color.
    """
    series = partial(lineplot, x="scale", y="stable_rank", legend=False, ax=axes)
    bars = {"errorbar": _deviation, "err_style": "bars", "err_kws": {"capsize": 2}, "marker": "o", "ms": 3}
    ranks = ranks.assign(scale=ranks["alpha"].astype(float))
    for number, (seed, color) in enumerate(colors.items()):
        rows = ranks[(ranks["seed"] == seed) & (ranks["matrix"] == "delta")]
        # Side by side, where bars at the same place would hide each other.
        rows = rows.assign(scale=rows["scale"] * 1.06 ** (number - (len(colors) - 1) / 2))
        series(rows, **bars, color=color, mec=color, label=f"seed {seed}")
    for baseline, style in BASELINES.items():
        series(ranks[ranks["matrix"] == baseline], errorbar=None, **style)
    alphas = sort_alphas(ranks["alpha"])
    axes.set(xscale="log", xlabel="init scale", ylabel="")
    axes.set_xticks([float(alpha) for alpha in alphas], alphas, rotation=0 if len(alphas) < 5 else 90)
    axes.set_xticks([], minor=True)


def draw_rank_increase(axes, ranks):
    """Stable rank of the changes of all products over training: mean over heads, with a band of one deviation.

    In gray, the means for random changes, over heads and products.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With a linear axis of ranks; see `scale_to_ranks`.
    ranks : pandas.DataFrame
        Of `read_stable_ranks`: one layer of one run.
    """
    series = partial(lineplot, x="epoch", y="stable_rank", legend=False, ax=axes)
    for product, color in zip(products_of(ranks), cycle(COLORS), strict=False):
        rows = ranks[(ranks["product"] == product) & (ranks["matrix"] == "delta")]
        series(rows, errorbar=_deviation, err_kws={"lw": 0}, color=color, label=delta_label(product))
    for baseline, style in BASELINES.items():
        series(ranks[ranks["matrix"] == baseline], errorbar=None, **style)
    axes.set(xlim=(0, ranks["epoch"].max()), xlabel="epoch", ylabel="")


def _deviation(values):
    """One standard deviation to both sides of the mean: of all heads that there are, where seaborn's is of a sample."""
    return values.mean() - values.std(ddof=0), values.mean() + values.std(ddof=0)


def scale_to_ranks(axes):
    """A logarithmic axis of stable ranks with numbers at 1, 2, 5, 10, ..., and not much below 1, as they are not.

    For panels that are complete: on a logarithmic axis, which panels may share, seaborn takes geometric means, and
    limits that are set no longer follow the data.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        One of those that share the axis.
    """
    axes.set(yscale="log")
    axes.set_ylim(bottom=0.9)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def add_legend(figure, axes):
    """The legend of one of the panels below a figure, with the random changes at its end."""
    handles, labels = axes.get_legend_handles_labels()
    at_random = [style["label"] for style in BASELINES.values()]
    order = sorted(range(len(labels)), key=lambda entry: labels[entry] in at_random)
    handles, labels = ([entries[entry] for entry in order] for entries in (handles, labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
