"""Trainings other than gradient flow: products and loss over the optimizer's time (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.style import PRODUCT_LABELS, new_panels
from rank_increase.figures.toy import (
    draw_losses,
    draw_products,
    entry_colors,
    rank_colors,
    read_losses,
    read_products,
    read_stages,
)
from rank_increase.options import Alpha, Name, Seed, Text
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

COLUMNS = 4


@register.figure(
    "fig_trainings",
    title="Ours: other trainings",
    category="Toy model",
    tables=["trajectory", "losses", "stages"],
    optional=True,
)
def main(tables, *, shown: dict[Name, Text], alpha: Alpha, full: list[Name] = (), seed: Seed | None = None):
    """Products and loss under gradient flow and other trainings (not in the paper).

    Above, diagonal entries, or singular values, of W_V W_O^T; below, the loss. Time is the learning rate times the
    number of steps, in units of ln(1/α). Entries have the color of the stage in which Algorithm 1 activates them, gray
    if in none; singular values are the darker the larger. Sign descent with a step longer than α keeps entries at zero
    whose products start with the wrong sign: both weights change sign in each step.

    Parameters
    ----------
    shown : dict of str to str
        Toy variants of the same problem, and their titles; the first is that of which Algorithm 1 says the stages.
    alpha : str
        Init scale, the same for all.
    full : list of str
        Those of them with full weights, whose lines are singular values.
    seed : int
        Of the problem; the headline seed of the study if not given.
    """
    colors = entry_colors(read_stages(tables, seed, next(iter(shown))))
    rows = -(-len(shown) // COLUMNS)
    figure, axes = new_panels(2 * rows, COLUMNS, 2.7 * rows)
    for number, (variant, title) in enumerate(shown.items()):
        row, column = divmod(number, COLUMNS)
        products, loss = axes[2 * row, column], axes[2 * row + 1, column]
        run = read_products(tables, variant, [alpha], seed)
        draw_products(products, run, "VO", rank_colors(run["index"].max() + 1) if variant in full else colors)
        draw_losses(loss, read_losses(tables, variant, [alpha], seed), {alpha: "black"})
        products.set(title=title, xlabel="")
        products.set_ylabel("" if column else PRODUCT_LABELS["VO"])
        loss.set_ylabel("" if column else "training loss")
    for panel in axes[-2:, len(shown) - COLUMNS * (rows - 1) :].flat:
        panel.set_visible(False)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
