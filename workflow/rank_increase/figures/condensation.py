"""Panels of condensation: rows that align, and norms and ranks of single matrices against steps."""

import numpy as np

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
