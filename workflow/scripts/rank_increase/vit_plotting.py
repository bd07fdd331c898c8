"""Figures of the vision transformer: what is shown of a run, and one function per kind of panel.

Panels take rows of the tables "spectra" and "baselines" and fill an Axes. Layers and heads count from 0 in tables and
from 1 in what a figure says. Means and standard deviations are over the heads of one layer of one run, never over
seeds; the heads are all that the layer has, so the deviation is that of the population. At epoch 0 a delta is zero and
has neither rank nor normalized spectrum: panels of these begin with the first epoch after it.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from rank_increase.plotting import PRODUCT_LABELS, NothingToDraw, new_panels
from rank_increase.tables import read_table

INITIAL = {"color": "#c00000", "lw": 1.6, "zorder": 3, "label": "initial product"}
BASELINES = {
    "random_product": {"color": "0.55", "ls": (0, (4, 2)), "zorder": 1, "label": "random change of equal norm"},
    "noisy_factors": {"color": "0.55", "ls": (0, (1, 1)), "zorder": 1, "label": "random change of the factors"},
}
PRODUCT_COLORS = {"KQ": "#1f5fb4", "VO": "#c00000"}
DELTA_LABELS = {product: rf"$\Delta {label[1:]}" for product, label in PRODUCT_LABELS.items()}
INDEX = "index of singular value"
NORMALIZED = "singular value / largest"


def read_runs(path, columns, **wanted):
    """Rows of a table of the study, with columns that say which head they are of and those asked for.

    Parameters
    ----------
    path : str
    columns : list of str
    wanted : dict
        Column -> the value that rows must have, or a list of such values, for a column asked for.

    Raises
    ------
    NothingToDraw
        If there is no such row, or none with one of the values of a list.
    """
    filters = [(key, "in" if isinstance(value, list) else "==", value) for key, value in wanted.items()]
    rows = read_table(path, columns=["epoch", "layer", "head", "product", *columns], filters=filters)
    missing = {key: set(value) - set(rows[key]) for key, value in wanted.items() if isinstance(value, list)}
    if rows.empty or any(missing.values()):
        raise NothingToDraw(f"{path} has no rows with {', '.join(f'{key} {value}' for key, value in wanted.items())}")
    return rows


def read_head_spectra(spectra, baselines, **wanted):
    """Rows of both tables with singular values, those of the baselines under their names as `matrix`.

    Returns
    -------
    pandas.DataFrame
        Columns `epoch`, `layer`, `head`, `product`, `matrix` (`initial`, `delta` or a key of `BASELINES`),
        `singular_values`.
    """
    of_training = read_runs(spectra, ["matrix", "singular_values"], matrix=["initial", "delta"], **wanted)
    at_random = read_runs(baselines, ["baseline", "singular_values"], baseline=list(BASELINES), **wanted)
    return pd.concat([of_training, at_random.rename(columns={"baseline": "matrix"})])


def read_stable_ranks(spectra, baselines, **wanted):
    """As `read_head_spectra`, but stable ranks, without the initial products, and with columns `alpha` and `seed`."""
    columns = ["alpha", "seed", "stable_rank"]
    of_training = read_runs(spectra, [*columns, "matrix"], matrix="delta", **wanted)
    at_random = read_runs(baselines, [*columns, "baseline"], baseline=list(BASELINES), **wanted)
    return pd.concat([of_training, at_random.rename(columns={"baseline": "matrix"})])


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
    return sorted({int(epochs[np.abs(np.log(epochs / target)).argmin()]) for target in targets})


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
        _draw_normalized(axes, delta[epoch], color=color, label=f"change, epoch {epoch}")
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
    values = np.stack(delta)[:, :shown]
    for index, color in enumerate(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, values.shape[1]))):
        axes.plot(delta.index, values[:, index], color=color, zorder=shown - index)
    axes.set(xlim=(0, delta.index[-1]), xlabel="epoch")
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
    ranks : pandas.DataFrame
        Of `read_stable_ranks`: one layer, product and epoch.
    colors : dict
        Seed -> color.
    """
    for number, (seed, color) in enumerate(colors.items()):
        spread = _over_heads(ranks[(ranks["seed"] == seed) & (ranks["matrix"] == "delta")], "alpha")
        # Side by side, where bars at the same place would hide each other.
        scale = spread.index.to_numpy(float) * 1.06 ** (number - (len(colors) - 1) / 2)
        mean, std = spread.to_numpy().T
        axes.errorbar(scale, mean, std, color=color, marker="o", ms=3, capsize=2, label=f"seed {seed}")
    for baseline, style in BASELINES.items():
        mean = _over_heads(ranks[ranks["matrix"] == baseline], "alpha")["mean"]
        axes.plot(mean.index.to_numpy(float), mean, **style)
    axes.set(xscale="log", xlabel="init scale")
    axes.set_xticks(mean.index.to_numpy(float), mean.index, rotation=0 if len(mean) < 5 else 90)
    axes.set_xticks([], minor=True)
    _scale_to_ranks(axes)


def draw_rank_increase(axes, ranks):
    """Stable rank of the changes of both products over training: mean over heads, with a band of one deviation.

    In gray, the means for random changes, over heads and products.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    ranks : pandas.DataFrame
        Of `read_stable_ranks`: one layer of one run.
    """
    for product, color in PRODUCT_COLORS.items():
        spread = _over_heads(ranks[(ranks["product"] == product) & (ranks["matrix"] == "delta")], "epoch")
        axes.plot(spread.index, spread["mean"], color=color, label=DELTA_LABELS[product])
        band = spread["mean"] - spread["std"], spread["mean"] + spread["std"]
        axes.fill_between(spread.index, *band, color=color, alpha=0.2, lw=0)
    for baseline, style in BASELINES.items():
        mean = _over_heads(ranks[ranks["matrix"] == baseline], "epoch")["mean"]
        axes.plot(mean.index, mean, **style)
    axes.set(xlim=(0, ranks["epoch"].max()), xlabel="epoch")
    _scale_to_ranks(axes)


def _over_heads(rows, by):
    """Mean and standard deviation of stable ranks by epoch or by alpha, ascending; zero deltas have none."""
    rows = rows.dropna(subset="stable_rank").astype({by: str} if by == "alpha" else {})
    spread = rows.groupby(by)["stable_rank"].agg(mean="mean", std=lambda values: values.std(ddof=0))
    return spread.sort_index(key=lambda index: index.astype(float))


def _scale_to_ranks(axes):
    """A logarithmic axis of stable ranks with numbers at 1, 2, 5, 10, ..., and not much below 1, as they are not."""
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


def panel_grid(count, height, columns=3, **options):
    """A figure with `count` panels of a height in inches, in rows of `columns`, and the list of their Axes."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = new_panels(rows, columns, height * rows + 0.4, **options)
    for panel in axes.flat[count:]:
        panel.set_visible(False)
    return figure, list(axes.flat[:count])
