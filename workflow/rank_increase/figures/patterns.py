"""Panels of networks of patterns: spectra of what training adds, and what is left after truncation and pruning."""

import numpy as np

from rank_increase.figures.condensation import WEIGHT_LABELS

COLORS = {"W_K": "#c00000", "W_Q": "#7b3294", "W_V": "#1f5fb4", "W_O": "#2e8b57"}
PRUNED = {"smallest": "#1f5fb4", "random": "0.45", "largest": "#c00000"}
INDICES = 14  # singular values shown


def draw_changes(axes, rows):
    """Singular values of the changes over the largest, of all runs, layers and heads; dashed: a tenth.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    rows : pandas.DataFrame
        Of the table "matrices": changes of one network at the last step.
    """
    for weight, color in COLORS.items():
        values = rows.loc[rows["weight"].astype(str) == weight, "singular_values"]
        for number, of_run in enumerate(values):
            shown = of_run[:INDICES] / of_run[0]
            label = WEIGHT_LABELS[weight] if number == 0 else None
            axes.plot(np.arange(1, len(shown) + 1), shown, color=color, lw=0.7, label=label)
    axes.axhline(0.1, color="0.6", ls="--", lw=0.8)
    axes.set(yscale="log", ylim=(1e-4, 1.5), xlim=(1, INDICES), xlabel="index of singular value")


def draw_truncated(axes, rows):
    """Test accuracy against the rank to which all changes are cut, a line for each run; dotted: the whole network's."""
    for _, run in rows.groupby("seed"):
        cut = run[run["ablation"] == "truncated"].sort_values("amount")
        axes.plot(cut["amount"], cut["accuracy"], color="#1f5fb4", lw=0.7)
        axes.axhline(run.loc[run["ablation"] == "whole", "accuracy"].item(), color="0.6", ls=":", lw=0.7)
    axes.set(xlabel="rank of all changes", ylim=(0, 1.03), xlim=(1, rows["amount"].max()))


def draw_pruned(axes, rows):
    """Test accuracy against the share of neurons that are pruned, by three orders; a line for each run."""
    for ablation, color in PRUNED.items():
        for number, (_, run) in enumerate(rows[rows["ablation"] == ablation].groupby("seed")):
            run = run.sort_values("amount")
            axes.plot(run["amount"], run["accuracy"], color=color, lw=0.7, label=None if number else ablation)
    axes.set(xlabel="share of neurons pruned", ylim=(0, 1.03))
