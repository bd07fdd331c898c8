"""Figure 1: normalized spectra of a head, a panel for each network."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    BASELINES,
    NORMALIZED,
    choose_heads,
    draw_stages,
    head_name,
    of_head,
    read_spectra,
    stage_colors,
    stage_epochs,
)
from rank_increase.figures.style import panel_grid
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig01", title="Figure 01", category="Networks", tables=["spectra"])
def main(tables, *, networks: list[Name] | None = None, alpha: Alpha = "1", seed: Seed = 0, draw_seed: Seed = 0):
    """Normalized spectra of a head, initially and of the change by training (paper, Figure 1).

    Singular values of W_K W_Q^T of a head at initialization (red), and of what training has added to it by several
    epochs (green, the later the darker), each divided by the largest. Dashed: a random change with the norm of the last
    one. Dotted: the change when random noise is added to both factors, to each as much as training has changed it.
    Dash-dotted: the change when the changes of both factors keep their singular values and get random singular vectors.
    The head is drawn at random.

    Parameters
    ----------
    networks : list of str
        A panel each; all of the study if not given. Paper: CIFAR-10 and ImageNet.
    alpha : str
        Init scale.
    seed : int
        Of the run.
    draw_seed : int
        Heads are drawn at random, as in the paper; another number draws others.
    """
    figure, panels = panel_grid(len(networks), 2.8)
    for panel, letter, network in zip(panels, ascii_lowercase, networks, strict=False):
        matrices = ["initial", "delta", *BASELINES]
        rows = read_spectra(tables, network, matrices, product="KQ", alpha=alpha, seed=seed)
        [head] = choose_heads(rows, [1], draw_seed)
        draw_stages(panel, of_head(rows, *head, "KQ"), stage_colors(stage_epochs(rows["epoch"])))
        panel.set_title(f"({letter}) {tables.labels[network]}: {head_name(*head)}")
        panel.set_ylabel(NORMALIZED)
        panel.legend(fontsize=6.5, labelspacing=0.3, handlelength=1.4)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
