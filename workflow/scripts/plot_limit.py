"""Rule `fig_limit`: how the loss of every alpha approaches the limit that Algorithm 1 predicts (paper, Figure 6)."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import (
    LimitLoss,
    alpha_colors,
    draw_limit,
    draw_limit_distance,
    draw_losses,
    new_panels,
    paper_style,
    read_losses,
    save_figure,
    says_what_is_missing,
    zoom_on_fall,
)
from rank_increase.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(trajectory, stages, pdf, png, *, seed, dpi, provenance):
    """Draw the losses of all alphas over their limit, and their distance from it."""
    losses = read_losses(trajectory, "diagonal", None, seed)
    limit = LimitLoss.of(read_table(stages, filters=[("seed", "==", seed)]), losses)
    colors, end = alpha_colors(losses["alpha"]), losses["rescaled_time"].max()
    with paper_style():
        figure, [[curves, detail, distances]] = new_panels(1, 3, 2.9, width_ratios=[1.2, 1, 1])
        for panel in (curves, detail):
            draw_limit(panel, limit, end)
            draw_losses(panel, losses, colors, width=0.7)
        draw_limit_distance(distances, losses, limit, colors)
        zoom_on_fall(detail, limit, 0.75, 0.4)
        for panel, title in zip((curves, detail, distances), ("(a) loss", "(b) detail", "(c) distance"), strict=True):
            panel.set_title(title)
        figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=5)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.trajectory,
        snakemake.input.stages,
        snakemake.output.pdf,
        snakemake.output.png,
        seed=snakemake.params.seed,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
