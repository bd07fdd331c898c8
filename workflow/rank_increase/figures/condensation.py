"""Panels of condensation: rows that align, and norms and ranks of single matrices against steps."""

import numpy as np

SHOWN = ("W_V", "W_Q")  # in heat maps
WEIGHT_COLORS = {"W_V": "#1f5fb4", "W_1": "#2e8b57", "W_2": "#b8860b", "W_K": "#c00000", "W_Q": "#7b3294"}
WEIGHT_LABELS = {"W_V": "$W_V$", "W_1": "$W_1$", "W_2": "$W_2$", "W_K": "$W_K$", "W_Q": "$W_Q$", "W_O": "$W_O$"}


def draw_cosines(axes, cosines):
    """|cos| of each two rows of a matrix as a heat map, white for 0 and dark for 1; returns the image.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    cosines : numpy.ndarray
        Row by row, of shape (rows * rows,).
    """
    side = round(len(cosines) ** 0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes.imshow(np.asarray(cosines).reshape(side, side), cmap="Greens", vmin=0, vmax=1, rasterized=True)


def draw_over_steps(axes, rows, column):
    """A measure of each weight against the step, mean over all runs, layers and heads, with the range in a band.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    rows : pandas.DataFrame
        Of the table "matrices": one network and one matrix (trained or delta).
    column : str
        The measure.
    """
    for weight, color in WEIGHT_COLORS.items():
        of_weight = rows[(rows["weight"].astype(str) == weight) & (rows["step"] > 0)].groupby("step")[column]
        mean = of_weight.mean()
        axes.plot(mean.index, mean, color=color, label=WEIGHT_LABELS[weight])
        axes.fill_between(mean.index, of_weight.min(), of_weight.max(), color=color, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="step")


def draw_cosine_rows(figure, panels, cosines, letters):
    """Heat maps of the weights `SHOWN`, a row of panels each and a column for each step of the table "cosines"."""
    for row, weight in zip(panels, SHOWN, strict=True):
        of_weight = cosines[cosines["weight"].astype(str) == weight].sort_values("step")
        for axes, (_, one) in zip(row, of_weight.iterrows(), strict=False):
            image = draw_cosines(axes, one["cosines"])
            axes.set_title(f"({next(letters)}) {WEIGHT_LABELS[weight]}, step {one['step']}")
        for axes in row[len(of_weight) :]:
            axes.set_visible(False)
    figure.colorbar(image, ax=panels.ravel().tolist(), shrink=0.6, label="|cos| of rows")


def draw_ranks(panels, rows, letters):
    """Effective and stable rank of the weights and of their changes: four panels, two to an axis."""
    kinds = [(column, matrix) for column in ("effective_rank", "stable_rank") for matrix in ("trained", "delta")]
    for axes, (column, matrix) in zip(panels, kinds, strict=True):
        draw_over_steps(axes, rows[rows["matrix"] == matrix], column)
        of = "weights" if matrix == "trained" else "changes"
        axes.set_title(f"({next(letters)}) {column.replace('_', ' ')}, {of}")
        axes.set_ylim(bottom=0.9)
    for left, right in (panels[:2], panels[2:]):
        top = max(left.get_ylim()[1], right.get_ylim()[1])
        left.set_ylim(top=top)
        right.set_ylim(top=top)
