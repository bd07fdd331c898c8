"""Figure 4: stable rank of what training adds to W_K W_Q^T, against init scale."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    add_legend,
    delta_label,
    draw_scales,
    read_stable_ranks,
    scale_to_ranks,
    seed_colors,
    spread_layers,
)
from rank_increase.figures.style import panel_grid
from rank_increase.options import Name
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig04", title="Figure 04", category="Networks", tables=["measures"])
def main(tables, *, network: Name | None = None):
    """Stable rank of the change against init scale (paper, Figure 4).

    Stable rank of what training has added to W_K W_Q^T by the last epoch, against init scale: mean and standard
    deviation over the heads of a layer, a line for each seed. Dashed: the mean for random changes of equal norm.
    Dotted: the mean for the changes when random noise is added to both factors, to each as much as training has changed
    it. Dash-dotted: the same when the changes of both factors keep their singular values and get random singular
    vectors.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    """
    ranks = read_stable_ranks(tables, network, product="KQ")
    ranks = ranks[ranks["epoch"] == ranks["epoch"].max()]
    colors = seed_colors(ranks["seed"])
    layers = sorted(set(spread_layers(ranks["layer"].max() + 1, [0, 2, 4])))
    figure, panels = panel_grid(len(layers), 2.4, sharey=True)
    for panel, letter, layer in zip(panels, ascii_lowercase, layers, strict=False):
        draw_scales(panel, ranks[ranks["layer"] == layer], colors)
        panel.set_title(f"({letter}) layer {layer + 1}")
    scale_to_ranks(panels[0])
    panels[0].set_ylabel(f"stable rank of {delta_label('KQ')}")
    figure.suptitle(tables.labels[network], fontsize=9)
    add_legend(figure, panels[0])
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
