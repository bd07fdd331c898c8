"""Figures 7 and 8: diagonal entries of a product over time, a panel for each alpha."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_entries
from rank_increase.options import Alphas, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig07", title="Figure 07", category="Toy model", tables=["trajectory", "stages"], product="KQ")
@register.figure("fig08", title="Figure 08", category="Toy model", tables=["trajectory", "stages"], product="VO")
def main(tables, *, product: Name, seed: Seed | None = None, alphas: Alphas | None = None):
    """Diagonal entries of W_K W_Q^T (Figure 7) and W_V W_O^T (Figure 8) for every alpha.

    Diagonal entries against rescaled time, a panel for each α. An entry has the same color in all panels: that of the
    stage in which Algorithm 1 activates it, gray if in none.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    alphas : list of str
        Init scales; all of the problem if not given. Paper: 0.1, 0.01, 1e-4, 1e-8, 1e-16, 1e-32.
    """
    return draw_entries(tables, product, alphas, seed)


if __name__ == "__main__":
    draw(main, snakemake)
