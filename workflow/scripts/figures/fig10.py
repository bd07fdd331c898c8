"""Figure 10: perturbed and unperturbed paths at activations, a row of panels for each run."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.toy import draw_windows
from rank_increase.options import Count, Positive, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig10", title="Figure 10", category="Toy model", tables=["perturbations", "stages"])
def main(tables, *, seed: Seed | None = None, movement: Positive = 0.05, follow: Positive = 6.1, rows: Count = 5):
    """Perturbation runs that test Assumption 4.4 (paper, Figure 10).

    Every run: perturbed where a weight becomes nonnegligible, followed until it is active and then halfway to the next.
    Color: perturbed path; dashed: the path without the perturbation. Distances are the largest difference between the
    two over the entries of both products. The assumption is about where paths end, so rows are shaded where the
    unperturbed path is still moving when the window ends: over its last tenth, faster than `movement` in `follow` units
    of rescaled time, the bound for a plateau in Figure 9. A weight that has just passed the threshold gets noise far
    larger than itself, so that its entry may rise too soon. The last number is the ratio for the same noise on active
    weights and the new one alone, which is what the assumption speaks of.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    movement, follow : float
        A path that moves by more than the first in the second, units of rescaled time, is not at rest.
    rows : int
        Runs to show at most, evenly from the first to the last.
    """
    return draw_windows(
        tables, "activations", seed, rows, lambda window: window.rest_note(movement / follow), with_speed=True
    )


if __name__ == "__main__":
    draw(main, snakemake)
