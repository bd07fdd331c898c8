"""Panels of transformers, other losses and weight decay: products of each head over their limit."""

import matplotlib
import numpy as np

from rank_increase.figures.style import PRODUCT_LABELS, RESCALED_TIME, new_panels
from rank_increase.figures.toy import (
    INACTIVE,
    LimitLoss,
    draw_limit,
    draw_losses,
    read_losses,
    read_stages,
    stage_scale,
)
from rank_increase.notation import COORDINATE, alpha_label, sort_alphas

LIMIT_LINE = {"lw": 3.5, "alpha": 0.35, "solid_capstyle": "butt"}


def read_smallest(tables, variant, seed):
    """The run of a variant at its smallest init scale: that scale, and its rows of the table "trajectory"."""
    columns = ["alpha", "rescaled_time", *COORDINATE, "value"]
    rows = tables.read("trajectory", columns, variant=variant, seed=seed).astype({"alpha": str, "product": str})
    alpha = sort_alphas(rows["alpha"])[-1]
    return alpha, rows[rows["alpha"] == alpha]


def coordinate_colors(run, stages):
    """A color for each coordinate of a run; a dict (layer, head, product, index) -> color.

    Coordinates have the color of the stage of Algorithm 1 in which they first become active, gray if in none. Without
    stages, equal entries of all heads have the same color.
    """
    coordinates = run[COORDINATE].drop_duplicates()
    if stages.empty:
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, coordinates["index"].max() + 1))
        return {place: shades[place[-1]] for place in coordinates.itertuples(index=False, name=None)}
    firsts = stages.sort_values("stage").astype({"product": str}).drop_duplicates(COORDINATE)
    shades = stage_scale(stages).to_rgba(firsts["stage"])
    known = dict(zip(firsts[COORDINATE].itertuples(index=False, name=None), shades, strict=True))
    return {place: known.get(place, INACTIVE) for place in coordinates.itertuples(index=False, name=None)}


def draw_head(axes, run, stages, place, colors):
    """Entries of one product of one head over rescaled time, over the staircases of Algorithm 1, pale and broad.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    run : pandas.DataFrame
        Of `read_smallest`.
    stages : pandas.DataFrame
        Table "stages" of the problem; without rows there is no staircase.
    place : tuple
        (layer, head, product).
    colors : dict
        Of `coordinate_colors`.
    """
    layer, head, product = place
    of_head = (run["layer"] == layer) & (run["head"] == head) & (run["product"] == product)
    lines = run[of_head].pivot(index="rescaled_time", columns="index", values="value")
    end, dim = lines.index[-1], lines.shape[1]
    first = (layer * (run["head"].max() + 1) + head) * dim  # place of the head's entries in the lists of the stages
    stages = stages.sort_values("stage")
    for index in lines:
        color = colors[layer, head, product, index]
        steps = np.r_[0.0, [values[first + index] for values in stages[product]]]
        if steps.any():
            times = np.r_[0.0, stages["predicted_time"], end]
            axes.plot(times, np.r_[steps, steps[-1]], drawstyle="steps-post", color=color, zorder=1, **LIMIT_LINE)
        axes.plot(lines.index, lines[index], color=color, lw=0.9, zorder=2 if color is INACTIVE else 3)
    axes.set(xlim=(0, end))


def draw_transformers(tables, variants, seed):
    """A figure of the products of transformers: a row of panels for each head of each layer, two columns a variant.

    Parameters
    ----------
    tables : figures.job.StudyTables
    variants : dict of str to str
        Variant -> what to call it.
    seed : int
    """
    runs = {variant: read_smallest(tables, variant, seed) for variant in variants}
    places = max((run[["layer", "head"]].drop_duplicates() for _, run in runs.values()), key=len)
    figure, axes = new_panels(len(places), 2 * len(runs), 1.5 * len(places) + 0.2, sharex=True)
    for columns, (variant, (alpha, run)) in zip(axes.T.reshape(len(runs), 2, -1), runs.items(), strict=True):
        stages = read_stages(tables, seed, variant)
        colors = coordinate_colors(run, stages)
        for panels, product in zip(columns, ("VO", "KQ"), strict=True):
            for panel, (layer, head) in zip(panels, places.itertuples(index=False, name=None), strict=True):
                draw_head(panel, run, stages, (layer, head, product), colors)
                heading = f"{variants[variant]}, {alpha_label(alpha)}\n" if panel is columns[0, 0] else ""
                panel.set_title(f"{heading}layer {layer + 1}, head {head + 1}: {PRODUCT_LABELS[product]}", fontsize=7)
            panels[-1].set_xlabel(RESCALED_TIME)
    return figure


def draw_loss_variants(tables, variants, seed):
    """A figure of variants of the loss, a column for each: the loss, and the entries of both products.

    Parameters
    ----------
    tables : figures.job.StudyTables
    variants : dict of str to str
        Variant -> what to call it.
    seed : int
    """
    figure, axes = new_panels(3, len(variants), 4.8, sharex="col")
    for panels, (variant, name) in zip(axes.T, variants.items(), strict=True):
        alpha, run = read_smallest(tables, variant, seed)
        stages, losses = read_stages(tables, seed, variant), read_losses(tables, variant, [alpha], seed)
        if not stages.empty:
            draw_limit(panels[0], LimitLoss.of(stages, losses), losses["rescaled_time"].max())
        draw_losses(panels[0], losses, {alpha: "black"})
        panels[0].set(title=f"{name},\n{alpha_label(alpha)}", xlabel="", ylabel="")
        panels[0].autoscale(axis="y")  # cross-entropy with soft labels falls to their entropy, not to zero
        for panel, product in zip(panels[1:], ("VO", "KQ"), strict=True):
            draw_head(panel, run, stages, (0, 0, product), coordinate_colors(run, stages))
        panels[-1].set_xlabel(RESCALED_TIME)
    for panel, label in zip(
        axes[:, 0], ("training loss", *(PRODUCT_LABELS[name] for name in ("VO", "KQ"))), strict=True
    ):
        panel.set_ylabel(label)
    return figure
