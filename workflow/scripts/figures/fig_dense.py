"""Full weights under a teacher with spread and one with crowded singular values (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_runs
from rank_increase.options import Alpha, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure(
    "fig_dense", title="Ours: dense teacher", category="Toy model", tables=["trajectory", "losses", "stages"]
)
def main(tables, *, seed: Seed | None = None, alpha: Alpha | None = None):
    """Full weights under a teacher with spread and one with crowded singular values (not in the paper).

    As Figure 2 (d) to (f), for teachers with different spectra. A teacher with diagonal weights has spread singular
    values, and the student's rise one after another; those of a dense Gaussian teacher are close together, the
    student's rise in a crowd, and the loss has no visible plateaus.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    alpha : str
        Init scale; the smallest of each variant if not given.
    """
    return draw_runs(tables, {"full": alpha, "full_dense": alpha}, seed)


if __name__ == "__main__":
    draw(main, snakemake)
