"""Full weights at every init scale against their greedy limit (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_full_weights
from rank_increase.options import Alphas, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure(
    "fig_full_weights", title="Ours: full weights", category="Toy model", tables=["trajectory", "losses", "stages"]
)
def main(tables, *, seed: Seed | None = None, alphas: Alphas | None = None):
    """Full weights at every α against their greedy limit (not in the paper).

    First row: a teacher with diagonal weights; second row: one with dense weights. (a), (e) The loss for every α over
    the limit α → 0 that Algorithm 1 for full weights predicts. Other panels: the singular values of W_V W_O^T for three
    of the α, colored by rank, dark first, over those of the limit, in gray.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    alphas : list of str
        Init scales whose singular values are shown, at most three; the largest, the smallest and one between them if
        not given.
    """
    return draw_full_weights(tables, seed, alphas)


if __name__ == "__main__":
    draw(main, snakemake)
