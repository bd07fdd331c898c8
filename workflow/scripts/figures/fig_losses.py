"""Stages under other losses and weight decay (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.structures import draw_loss_variants
from rank_increase.options import Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

VARIANTS = {
    "no_decay": "squared error",
    "decay": "weight decay",
    "soft_labels": "soft labels",
    "hard_labels": "hard labels",
}


@register.figure(
    "fig_losses",
    title="Ours: losses",
    category="Toy model",
    tables=["trajectory", "losses", "stages"],
    optional=True,
)
def main(tables, *, seed: Seed | None = None):
    """Loss and products under squared error, weight decay, and cross-entropy (not in the paper).

    Above, the loss at the smallest α over the limit that Algorithm 1 predicts, in gray; below, diagonal entries of both
    products in the color of their stage, over their limits, pale and broad. With hard labels there is no limit: the
    products grow without end; equal entries of both products have one color there.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    """
    return draw_loss_variants(tables, VARIANTS, seed)


if __name__ == "__main__":
    draw(main, snakemake)
