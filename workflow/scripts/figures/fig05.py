"""Figure 5: spectra of what training adds to W_K W_Q^T and of the initial product, for several heads."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    BASELINES,
    add_legend,
    choose_heads,
    draw_perturbation,
    head_name,
    of_head,
    read_spectra,
)
from rank_increase.figures.style import PRODUCT_LABELS, panel_grid
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig05", title="Figure 05", category="Networks", tables=["spectra"])
def main(tables, *, network: Name | None = None, alpha: Alpha = "1", seed: Seed = 0, draw_seed: Seed = 0):
    """Spectra of the change and of the initial product, for several heads (paper, Figure 5).

    Singular values of W_K W_Q^T at initialization (red) and of what training has added to it (green), for heads drawn
    at random. Dashed: a random change of equal norm. Dotted: the change when random noise is added to both factors, to
    each as much as training has changed it. Dash-dotted: the change when the changes of both factors keep their
    singular values and get random singular vectors.

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
    rows = read_spectra(tables, network, ["initial", "delta", *BASELINES], product="KQ", alpha=alpha, seed=seed)
    heads = choose_heads(rows, [0, 1, 2, 3, 4, 5], draw_seed)
    figure, panels = panel_grid(len(heads), 2.2)
    for panel, letter, head in zip(panels, ascii_lowercase, heads, strict=False):
        draw_perturbation(panel, of_head(rows, *head, "KQ"))
        panel.set_title(f"({letter}) {head_name(*head)}")
    for panel in panels[::3]:
        panel.set_ylabel("singular values")
    figure.suptitle(f"{tables.labels[network]}: {PRODUCT_LABELS['KQ']}", fontsize=9)
    add_legend(figure, panels[0])
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
