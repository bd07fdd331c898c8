"""Panels of networks: the data that they show, and one function per kind of panel.

Panels take rows of the tables "spectra" and "measures" and fill an Axes. Layers and heads count from 0 in tables and
from 1 in figures. Means and standard deviations are over the heads of one layer of one run, never over seeds; these are
all heads of the layer, so the deviation is that of a population. Before the first step a change is zero and has neither
rank nor normalized spectrum, so such panels begin with the first snapshot after it.
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
    "turned_factors": {"color": "0.55", "ls": (0, (5, 1, 1, 1)), "zorder": 1, "label": "change with turned factors"},
}
COLORS = ("#1f5fb4", "#c00000", "#2e8b57", "#b8860b")  # of a network's products, in order
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
    """Stable ranks of the changes by training and of random changes, with the same columns and `seed`."""
    columns = ["epoch", "step", "layer", "head", "product", "matrix", "stable_rank", "alpha", "seed"]
    return tables.read("measures", columns, network=network, matrix=["delta", *BASELINES], **wanted)


def products_of(rows):
    """Names of the products in these rows, in the network's order; a list."""
    return list(dict.fromkeys(rows["product"]))


def delta_label(product):
    """Label of the change of a product in figures."""
    return rf"$\Delta {PRODUCT_LABELS[product][1:]}" if product in PRODUCT_LABELS else f"Δ{product}"


def of_head(rows, layer, head, product):
    """The rows of one product of one head."""
    return rows[(rows["layer"] == layer) & (rows["head"] == head) & (rows["product"] == product)]


def of_matrix(rows, matrix, by="epoch"):
    """Singular values of one product of one head by epoch or step, as a pandas.Series of arrays."""
    return rows[rows["matrix"] == matrix].set_index(by)["singular_values"].sort_index()


def training_axis(rows):
    """What the axis of training shows: "step" if there are rows of steps within epochs, else "epoch"."""
    return "epoch" if (rows["epoch"] % 1 == 0).all() else "step"


def scale_to_training(panels, rows, axis):
    """Scale and name the axis of training of panels: steps on a logarithmic axis with epochs above, or epochs.

    Parameters
    ----------
    panels : iterable of matplotlib.axes.Axes
        Complete panels of a figure.
    rows : pandas.DataFrame
        With `step` and `epoch` of all that is shown.
    axis : str
        "step" or "epoch".
    """
    first, last = rows.loc[rows["step"] > 0, "step"].min(), rows[axis].max()
    in_epoch = rows["step"].max() / rows["epoch"].max()
    for panel in panels:
        if panel.get_subplotspec().is_last_row():
            panel.set_xlabel(axis)
        if axis == "epoch":
            panel.set_xlim(0, last)
            continue
        panel.set(xscale="log", xlim=(first, last))
        if panel.get_subplotspec().is_first_row():
            functions = partial(np.multiply, 1 / in_epoch), partial(np.multiply, in_epoch)
            above = panel.secondary_xaxis("top", functions=functions)
            above.set_xlabel("epoch", fontsize=6, labelpad=2)
            above.tick_params(labelsize=5.5, which="both", pad=1)
            above.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            above.xaxis.set_minor_formatter(NullFormatter())


def spread_layers(layers, wanted):
    """Layers to show: the `wanted` ones, or as many spread evenly over the model if it lacks one of them.

    Parameters
    ----------
    layers : int
        Number of layers of the model.
    wanted : list of int
        From 0, ascending.

    Returns
    -------
    list of int
        As long as `wanted`; layers repeat if there are too few.
    """
    if wanted[-1] < layers:
        return wanted
    return np.linspace(0, layers - 1, len(wanted)).round().astype(int).tolist()


def choose_heads(rows, wanted, seed):
    """Heads to show, drawn at random as in the paper, not selected; a list of (layer, head) without duplicates.

    Parameters
    ----------
    rows : pandas.DataFrame
        Columns `layer`, `head` with all heads of the model.
    wanted : list of int
        Layers, as for `spread_layers`.
    seed : int
        Seed of the draw.
    """
    layers, heads = rows["layer"].max() + 1, rows["head"].max() + 1
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(heads), (layers, 1)), axis=1)
    shown = spread_layers(layers, wanted)
    places = [shown[:place].count(layer) for place, layer in enumerate(shown)]
    chosen = [(layer, int(orders[layer, place % heads])) for layer, place in zip(shown, places, strict=True)]
    return list(dict.fromkeys(chosen))


def head_name(layer, head):
    """A head, as named in titles."""
    return f"layer {layer + 1}, head {head + 1}"


def stage_epochs(epochs, count=6):
    """Up to `count` epochs, from the first after initialization to the last, evenly spaced on a logarithmic axis."""
    epochs = np.unique(epochs)
    epochs = epochs[epochs > 0]
    targets = np.geomspace(epochs[0], epochs[-1], count)
    return sorted({float(epochs[np.abs(np.log(epochs / target)).argmin()]) for target in targets})


def stage_colors(epochs):
    """Shades of green, darker for later epochs; a dict epoch -> RGBA."""
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
    """Draw a line that is in the legend even if all values are zero and it is invisible."""
    axes.plot(np.arange(1, len(values) + 1), values / (values[0] or np.nan), **style)


def draw_evolution(axes, rows, axis, shown=20):
    """The largest singular values of the change of a product over training; the largest is darkest.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Without limits and name of its axis of training; see `scale_to_training`.
    rows : pandas.DataFrame
        Of one product of one head (`of_head`), at one init scale.
    axis : str
        "step" or "epoch".
    shown : int
        Number of singular values.
    """
    delta = of_matrix(rows, "delta", axis)
    values = pd.DataFrame(np.stack(delta)[:, :shown], delta.index)
    values = values.melt(ignore_index=False, var_name="index").reset_index()
    # Negative, as seaborn draws in ascending order. The lightest colors, hard to see on white, are not used.
    hues = {"hue": -values["index"], "hue_norm": (-values["index"].max() / 0.85, 0), "palette": "viridis_r"}
    lineplot(values, x=axis, y="value", **hues, estimator=None, legend=False, ax=axes)
    axes.set(xlabel="", ylabel="")
    axes.set_ylim(bottom=0)


def draw_perturbation(axes, rows):
    """Spectra of a product at initialization, of its change by training, and of random changes of equal size.

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
        # Side by side, because bars at the same place would hide each other.
        rows = rows.assign(scale=rows["scale"] * 1.06 ** (number - (len(colors) - 1) / 2))
        series(rows, **bars, color=color, mec=color, label=f"seed {seed}")
    for baseline, style in BASELINES.items():
        series(ranks[ranks["matrix"] == baseline], errorbar=None, **style)
    alphas = sort_alphas(ranks["alpha"])
    axes.set(xscale="log", xlabel="init scale", ylabel="")
    axes.set_xticks([float(alpha) for alpha in alphas], alphas, rotation=0 if len(alphas) < 5 else 90)
    axes.set_xticks([], minor=True)


def draw_rank_increase(axes, ranks, axis):
    """Stable rank of the changes of all products over training: mean over heads, with a band of one deviation.

    A dot marks the minimum of the mean. In the same color, thin, the means for random changes of that product.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Without limits and name of its axis of training; with a linear axis of ranks. See `scale_to_training` and
        `scale_to_ranks`.
    ranks : pandas.DataFrame
        Of `read_stable_ranks`: one layer of one run.
    axis : str
        "step" or "epoch".
    """
    series = partial(lineplot, x=axis, y="stable_rank", legend=False, ax=axes)
    for product, color in zip(products_of(ranks), cycle(COLORS), strict=False):
        of_product = ranks[ranks["product"] == product]
        delta = of_product[of_product["matrix"] == "delta"]
        series(delta, errorbar=_deviation, err_kws={"lw": 0}, color=color, label=delta_label(product))
        means = delta.groupby(axis)["stable_rank"].mean().dropna()
        axes.plot([means.idxmin()], [means.min()], "o", color=color, ms=3.5, label="_minimum")
        for baseline, style in BASELINES.items():
            rows = of_product[of_product["matrix"] == baseline]
            series(rows, errorbar=None, **{**style, "color": color, "lw": 0.7, "label": f"_{baseline}"})
    for style in BASELINES.values():
        axes.plot([], [], **style)  # for the legend
    axes.set(xlabel="", ylabel="")


def _deviation(values):
    """One standard deviation on both sides of the mean: that of a population, whereas seaborn's is that of a sample."""
    return values.mean() - values.std(ddof=0), values.mean() + values.std(ddof=0)


def scale_to_ranks(axes):
    """A logarithmic axis of stable ranks with ticks at 1, 2, 5, 10, ..., and little room below 1, the least rank.

    Call this on complete panels: on a logarithmic axis, which panels may share, seaborn takes geometric means, and
    fixed limits no longer follow the data.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        One of the panels that share the axis.
    """
    axes.set(yscale="log")
    axes.set_ylim(bottom=0.9)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def add_legend(figure, axes):
    """Put the legend of a panel below the figure, with the random changes at the end."""
    handles, labels = axes.get_legend_handles_labels()
    at_random = [style["label"] for style in BASELINES.values()]
    order = sorted(range(len(labels)), key=lambda entry: labels[entry] in at_random)
    handles, labels = ([entries[entry] for entry in order] for entries in (handles, labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
