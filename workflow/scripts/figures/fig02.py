"""Figure 2: products and loss of diagonal and of full weights."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_runs
from rank_increase.options import Alpha, Alphas, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig02", title="Figure 02", category="Toy model", tables=["trajectory", "losses", "stages"])
def main(tables, *, seed: Seed | None = None, diagonal_alpha: Alpha | None = None, full_alphas: Alphas | None = None):
    """Products and loss of diagonal and of full weights (paper, Figure 2).

    Diagonal entries, or singular values, of W_V W_O^T and W_K W_Q^T, and the loss. (a) to (c): diagonal weights,
    entries colored by the stage in which Algorithm 1 activates them, dark first. (d) to (f) and below: full weights,
    singular values colored by rank, dark first. The paper states neither α nor the teacher; ours has diagonal weights
    in all rows.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    diagonal_alpha : str
        Init scale of the first row; the smallest of the study if not given. The paper does not say.
    full_alphas : list of str
        Init scales of the rows below; the smallest of the study if not given.
    """
    rows = [("diagonal", diagonal_alpha), *(("full", alpha) for alpha in full_alphas or [None])]
    return draw_runs(tables, rows, seed)


if __name__ == "__main__":
    draw(main, snakemake)
