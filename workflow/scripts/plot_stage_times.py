"""Rule `fig_stage_times`: stage times that Algorithm 1 predicts against measured ones, for every seed (Theorem 4.5)."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import (
    NothingToDraw,
    add_error_legend,
    alpha_colors,
    draw_stage_errors,
    draw_stage_times,
    new_panels,
    paper_style,
    save_figure,
    says_what_is_missing,
    stage_note,
)
from rank_increase.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(theorem, pdf, png, *, max_time, dpi, provenance):
    """Draw two panels, one above the other, for each seed; three seeds stand side by side."""
    theorem = read_table(theorem)
    if theorem.empty:
        raise NothingToDraw(f"Algorithm 1 activates no coordinate before rescaled time {max_time:g}.")
    seeds, colors = sorted(theorem["seed"].unique()), alpha_colors(theorem["alpha"])
    columns, blocks = min(len(seeds), 3), -(-len(seeds) // 3)
    with paper_style():
        figure, axes = new_panels(2 * blocks, columns, 4.6 * blocks + 0.6, sharex="row", sharey="row")
        axes = axes.reshape(blocks, 2, columns).swapaxes(1, 2).reshape(-1, 2)
        for (times, errors), seed in zip(axes, seeds, strict=False):
            rows = theorem[theorem["seed"] == seed]
            draw_stage_times(times, rows, colors, max_time)
            draw_stage_errors(errors, rows, colors)
            times.set_title(f"seed {seed}, {stage_note(rows)}", fontsize=7)
        for panel in axes[len(seeds) :].flat:
            panel.set_visible(False)
        add_error_legend(figure, colors)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.theorem,
        snakemake.output.pdf,
        snakemake.output.png,
        max_time=snakemake.params.max_time,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
