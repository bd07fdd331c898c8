"""How the loss of every alpha approaches the limit that Algorithm 1 predicts (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.style import new_panels
from rank_increase.figures.toy import (
    alpha_colors,
    draw_limit,
    draw_limit_distance,
    draw_losses,
    read_limit,
    read_losses,
    read_stages,
    zoom_on_fall,
)
from rank_increase.options import Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_limit", title="Ours: limit of the loss", category="Toy model", tables=["losses", "stages"])
def main(tables, *, seed: Seed | None = None):
    """Loss for every alpha against the limit that Algorithm 1 predicts (not in the paper).

    The limit α → 0 of the loss, a step function with the heights and times of the stages of Algorithm 1, and the loss
    for every α over it; (b) enlarges the steepest part of (a). (c) Mean absolute distance to the limit over rescaled
    time; dashed, slope -1, the rate that Theorem 4.5 implies: stages are late by C_k / ln(1/α).

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    """
    losses = read_losses(tables, "diagonal", None, seed)
    limit = read_limit(losses, read_stages(tables, seed))
    colors, end = alpha_colors(losses["alpha"]), losses["rescaled_time"].max()
    figure, [[curves, detail, distances]] = new_panels(1, 3, 2.9, width_ratios=[1.2, 1, 1])
    for panel in (curves, detail):
        draw_limit(panel, limit, end)
        draw_losses(panel, losses, colors, width=0.7)
    draw_limit_distance(distances, losses, limit, colors)
    zoom_on_fall(detail, limit, 0.75, 0.4)
    for panel, title in zip((curves, detail, distances), ("(a) loss", "(b) detail", "(c) distance"), strict=True):
        panel.set_title(title)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
