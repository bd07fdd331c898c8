"""Stage times that Algorithm 1 predicts against measured ones, for every seed (Theorem 4.5)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import NothingToShow, draw
from rank_increase.figures.style import new_panels
from rank_increase.figures.toy import (
    add_error_legend,
    alpha_colors,
    draw_stage_errors,
    draw_stage_times,
    stage_note,
)
from rank_increase.options import Seeds
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_stage_times", title="Ours: stage times", category="Toy model", tables=["theorem"])
def main(tables, *, seeds: Seeds | None = None):
    """Predicted and measured stage times for every alpha and seed (not in the paper).

    Above: the rescaled time at which a coordinate becomes active against the one that Algorithm 1 predicts, a point for
    each stage and α, a column for each problem. Below: their absolute difference against ln(1/α) over all stages with a
    measured time: median (dot), 10th to 90th percentile (bar) and largest (triangle). The dashed line has slope -1.
    Titles count the stages that have no measured time: the coordinate did not pass the threshold in the time of the
    run, or began above it.

    Parameters
    ----------
    seeds : list of int
        Problems to show; the first six if not given.
    """
    theorem = tables.read("theorem", variant="diagonal", seed=seeds, may_be_empty=True)
    if theorem.empty:
        raise NothingToShow("Algorithm 1 activates no coordinate in the time of the runs.")
    seeds = seeds or sorted(theorem["seed"].unique())[:6]
    theorem = theorem[theorem["seed"].isin(seeds)]
    colors = alpha_colors(theorem["alpha"])
    end = 1.02 * theorem[["predicted_time", "measured_time"]].max().max()
    columns, blocks = min(len(seeds), 3), -(-len(seeds) // 3)
    figure, axes = new_panels(2 * blocks, columns, 4.6 * blocks + 0.6, sharex="row", sharey="row")
    axes = axes.reshape(blocks, 2, columns).swapaxes(1, 2).reshape(-1, 2)
    for (times, errors), seed in zip(axes, seeds, strict=False):
        rows = theorem[theorem["seed"] == seed]
        draw_stage_times(times, rows, colors, end)
        draw_stage_errors(errors, rows, colors)
        times.set_title(f"seed {seed}, {stage_note(rows)}", fontsize=7)
    for panel in axes[len(seeds) :].flat:
        panel.set_visible(False)
    add_error_legend(figure, colors)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
