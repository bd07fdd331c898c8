"""Figure 9: perturbed and unperturbed paths at random moments, a row of panels for each run."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_windows
from rank_increase.options import Count, Positive, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig09", title="Figure 09", category="Toy model", tables=["perturbations", "stages"])
def main(tables, *, seed: Seed | None = None, movement: Positive = 0.05, rows: Count = 5):
    """Perturbation runs that test Assumption 4.3 (paper, Figure 9).

    Every run: at random moments the nonnegligible weights are perturbed. Color: perturbed path; dashed: the path
    without the perturbation. Distances are the largest difference between the two over the entries of both products.
    The moments are not chosen to lie on plateaus: where the unperturbed path itself moves by more than `movement` in
    the window, the row is shaded. A weight that has passed the threshold but has yet to grow gets noise far larger than
    itself: its entry rises too soon and does not return. The last number is the ratio for the same noise on active
    weights alone, which is what the assumption speaks of. Windows end halfway to the next activation, often before the
    slowest mode has decayed.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    movement : float
        Entries that move more than this within a window, unperturbed, mark the run as not on a plateau.
    rows : int
        Runs to show at most, evenly from the first to the last.
    """
    return draw_windows(tables, "plateaus", seed, rows, lambda window: window.plateau_note(movement))


if __name__ == "__main__":
    draw(main, snakemake)
