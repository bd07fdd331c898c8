"""Condensation to rank collapse: rows align, outer weights grow first, ranks fall and rise (not in the paper)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.condensation import draw_cosine_rows, draw_over_steps, draw_ranks
from rank_increase.figures.job import draw
from rank_increase.figures.style import new_panels
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

STEPS, NETWORKS = 4, 4  # of heat maps, and whose norms are shown


@register.figure(
    "fig_condensation",
    title="Condensation to rank collapse",
    category="Neighbours",
    tables=["matrices", "cosines"],
)
def main(
    tables,
    *,
    network: Name | None = None,
    networks: list[Name] | None = None,
    alpha: Alpha = "1",
    seed: Seed = 0,
):
    """Rows of weights align, outer weights grow before keys and queries, and ranks fall and rise (arXiv 2510.06954).

    First two rows: |cos| of each two rows of W_V and of W_Q at four steps of one run, in the order of the leading
    eigenvector; white is 0, dark is 1. Third row: Frobenius norms over their initial values; dashed: twice the initial
    one. Last row: effective and stable rank of the weights W and of their changes ΔW, each rank with one axis. Lines
    are means over all runs, heads and layers, bands their range.

    Parameters
    ----------
    network : str
        Whose rows and ranks are shown; the first with these tables if not given.
    networks : list of str
        Whose norms are shown, up to four; the first ones if not given.
    alpha : str
        Init scale.
    seed : int
        Of the run in the heat maps.
    """
    cosines = tables.read("cosines", network=network, alpha=alpha, seed=seed, layer=0, head=0)
    figure, panels = new_panels(4, STEPS, 7.2)
    letters = iter(ascii_lowercase)
    draw_cosine_rows(figure, panels[:2], cosines, letters)
    shown = networks[:NETWORKS]
    for axes, name in zip(panels[2], shown, strict=False):
        rows = tables.read("matrices", network=name, alpha=alpha, matrix="trained")
        draw_over_steps(axes, rows, "relative_norm")
        axes.axhline(2, color="0.6", ls="--", lw=0.8)
        axes.set(yscale="log")
        axes.set_title(f"({next(letters)}) {tables.labels[name]}", wrap=True)
    for axes in panels[2][len(shown) :]:
        axes.set_visible(False)
    panels[2][0].set_ylabel("norm / initial norm")
    draw_ranks(panels[3], tables.read("matrices", network=network, alpha=alpha).astype({"matrix": str}), letters)
    figure.legend(*panels[3][0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
