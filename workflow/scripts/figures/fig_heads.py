"""Products of every head of transformers with diagonal weights, over the limit (Examples 3.2 and 4.6)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.structures import draw_transformers
from rank_increase.options import Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure(
    "fig_heads",
    title="Ours: heads",
    category="Toy model",
    tables=["trajectory", "stages"],
    optional=True,
    variants={"heads": "told apart", "identical_heads": "identical"},
)
@register.figure(
    "fig_layers",
    title="Ours: layers",
    category="Toy model",
    tables=["trajectory", "stages"],
    optional=True,
    variants={"layers": "two layers"},
)
def main(tables, *, variants: dict, seed: Seed | None = None):
    """Diagonal entries of both products of every head of a transformer (not in the paper).

    Entries over rescaled time, at the smallest α, in the color of the stage in which Algorithm 1 activates them, and
    over its staircases, pale and broad. fig_heads: one layer of two heads; where a fixed attention bias tells them
    apart, one entry of one head rises at a time. Identical heads have no such limit: there, equal entries of both heads
    have one color, and rise together. fig_layers: two layers of two heads.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    """
    return draw_transformers(tables, variants, seed)


if __name__ == "__main__":
    draw(main, snakemake)
