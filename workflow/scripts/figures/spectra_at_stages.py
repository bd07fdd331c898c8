"""Figures 11, 13 and 15: normalized spectra at stages of training, for heads in different layers."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    BASELINES,
    NORMALIZED,
    add_legend,
    choose_heads,
    delta_label,
    draw_stages,
    head_name,
    of_head,
    products_of,
    read_spectra,
    stage_colors,
    stage_epochs,
)
from rank_increase.figures.style import new_panels
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig11", title="Figure 11", category="Networks", tables=["spectra"])
@register.figure("fig13", title="Figure 13", category="Networks", tables=["spectra"], optional=True)
@register.figure("fig15", title="Figure 15", category="Networks", tables=["spectra"], optional=True)
def main(tables, *, network: Name | None = None, alpha: Alpha = "1", seed: Seed = 0, draw_seed: Seed = 0):
    """Normalized spectra at stages of training (paper, Figures 11, 13 and 15).

    Singular values of W_K W_Q^T (top) and W_V W_O^T (bottom) at initialization (red), and of what training has added to
    them by several epochs (green, the later the darker), each divided by the largest, for heads drawn at random.
    Dashed: a random change with the norm of the last one. Dotted: the change when random noise is added to both
    factors, to each as much as training has changed it. Dash-dotted: the change when the changes of both factors keep
    their singular values and get random singular vectors.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    alpha : str
        Init scale.
    seed : int
        Of the run.
    draw_seed : int
        Heads are drawn at random where not all are shown, as in the paper; another number draws others.
    """
    rows = read_spectra(tables, network, ["initial", "delta", *BASELINES], alpha=alpha, seed=seed)
    products = products_of(rows)
    heads = choose_heads(rows, [0, 2, 4], draw_seed)
    colors = stage_colors(stage_epochs(rows["epoch"]))
    figure, axes = new_panels(len(products), len(heads), 4.8, sharey=True)
    letters = iter(ascii_lowercase)
    for product, panels in zip(products, axes, strict=True):
        for panel, head in zip(panels, heads, strict=True):
            draw_stages(panel, of_head(rows, *head, product), colors)
            panel.set_title(f"({next(letters)}) {delta_label(product)}, {head_name(*head)}")
        panels[0].set_ylabel(NORMALIZED)
    figure.suptitle(tables.labels[network], fontsize=9)
    add_legend(figure, axes[0, 0])
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
