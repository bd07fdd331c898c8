"""Our figure of networks from their first step: stable rank of what training adds, on a logarithmic axis of steps."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from matplotlib.ticker import NullLocator

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    BASELINES,
    COLORS,
    add_legend,
    delta_label,
    products_of,
    read_stable_ranks,
    scale_to_ranks,
)
from rank_increase.figures.style import panel_grid
from rank_increase.options import Alpha, Name
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_steps", title="Ranks from the first step", category="Networks", tables=["measures"])
def main(tables, *, network: Name | None = None, alpha: Alpha = "1"):
    """Stable rank of the change from the first step on (paper, version 2, Figure 4).

    Stable rank of what training has added to W_K W_Q^T (blue) and W_V W_O^T (red), mean over the heads of a layer, a
    line for each seed, on a logarithmic axis of steps. Dashed: the mean over heads and seeds for random changes of
    equal norm. Dotted: the mean for the changes when random noise is added to both factors, to each as much as training
    has changed it.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    alpha : str
        Init scale.
    """
    ranks = read_stable_ranks(tables, network, alpha=alpha)
    ranks = ranks[ranks["step"] > 0].astype({"matrix": str, "product": str})
    figure, panels = panel_grid(ranks["layer"].nunique(), 2.1, sharex=True, sharey=True)
    for layer, (panel, letter) in enumerate(zip(panels, ascii_lowercase, strict=False)):
        of_layer = ranks[ranks["layer"] == layer]
        delta = of_layer[of_layer["matrix"] == "delta"]
        for product, color in zip(products_of(delta), COLORS, strict=False):
            for number, (_, run) in enumerate(delta[delta["product"] == product].groupby("seed")):
                mean = run.groupby("step")["stable_rank"].mean()
                panel.plot(mean.index, mean, color=color, label=delta_label(product) if number == 0 else None)
        for matrix, style in BASELINES.items():
            mean = of_layer[of_layer["matrix"] == matrix].groupby("step")["stable_rank"].mean()
            panel.plot(mean.index, mean, **style)
        panel.set(xscale="log", xlabel="step", title=f"({letter}) layer {layer + 1}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.label_outer()
    scale_to_ranks(panels[0])
    figure.supylabel("stable rank", fontsize=8)
    figure.suptitle(tables.labels[network], fontsize=9)
    add_legend(figure, panels[0])
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
