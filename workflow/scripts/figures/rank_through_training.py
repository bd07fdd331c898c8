"""Figures 12, 14 and 16: stable rank of what training adds to both products, a panel for each layer."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    add_legend,
    draw_rank_increase,
    read_stable_ranks,
    scale_to_ranks,
    scale_to_training,
    training_axis,
)
from rank_increase.figures.style import panel_grid
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig12", title="Figure 12", category="Networks", tables=["measures"])
@register.figure("fig14", title="Figure 14", category="Networks", tables=["measures"], optional=True)
@register.figure("fig16", title="Figure 16", category="Networks", tables=["measures"], optional=True)
def main(tables, *, network: Name | None = None, alpha: Alpha = "1", seed: Seed = 0):
    """Stable rank of the change through training (paper, Figures 12, 14 and 16).

    Stable rank of what training has added to W_K W_Q^T (blue) and W_V W_O^T (red): mean over the heads of a layer, and
    one standard deviation to both sides; a dot marks the minimum. Thin, in the same color, means for random changes.
    Dashed: of equal norm. Dotted: when random noise is added to both factors, to each as much as training has changed
    it. Dash-dotted: when the changes of both factors keep their singular values and get random singular vectors.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    alpha : str
        Init scale.
    seed : int
        Of the run.
    """
    ranks = read_stable_ranks(tables, network, alpha=alpha, seed=seed)
    layers, axis = ranks["layer"].max() + 1, training_axis(ranks)
    figure, panels = panel_grid(layers, 2.1, columns=3 if layers <= 6 else 4, sharex=True, sharey=True)
    for layer, (panel, letter) in enumerate(zip(panels, ascii_lowercase, strict=False)):
        draw_rank_increase(panel, ranks[ranks["layer"] == layer], axis)
        panel.set_title(f"({letter}) layer {layer + 1}")
    scale_to_training(panels, ranks, axis)
    for panel in panels:
        panel.label_outer()
    scale_to_ranks(panels[0])
    figure.supylabel("stable rank", fontsize=8)
    figure.suptitle(tables.labels[network], fontsize=9)
    add_legend(figure, panels[0])
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
