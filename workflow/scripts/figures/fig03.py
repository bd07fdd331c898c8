"""Figure 3: singular values of what training adds to both products, for several init scales."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.networks import (
    choose_heads,
    delta_label,
    draw_evolution,
    head_name,
    of_head,
    products_of,
    read_spectra,
    scale_to_training,
    training_axis,
)
from rank_increase.figures.style import new_panels
from rank_increase.notation import sort_alphas
from rank_increase.options import Alphas, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig03", title="Figure 03", category="Networks", tables=["spectra"])
def main(tables, *, network: Name | None = None, alphas: Alphas | None = None, seed: Seed = 0, draw_seed: Seed = 0):
    """Singular values of the change of a head over training, for several init scales (paper, Figure 3).

    The 20 largest singular values of what training adds to W_K W_Q^T (top) and W_V W_O^T (bottom) of one head, drawn at
    random.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    alphas : list of str
        Init scales, a column each; the three smallest of the network if not given. The paper does not say.
    seed : int
        Of the runs.
    draw_seed : int
        Heads are drawn at random where not all are shown, as in the paper; another number draws others.
    """
    rows = read_spectra(tables, network, ["delta"], alpha=alphas, seed=seed).astype({"alpha": str})
    alphas = alphas or sort_alphas(rows["alpha"])[::-1][:3]
    products, axis = products_of(rows), training_axis(rows)
    [head] = choose_heads(rows, [1], draw_seed)
    figure, axes = new_panels(len(products), len(alphas), 4.4, sharex=True)
    letters = iter(ascii_lowercase)
    for product, panels in zip(products, axes, strict=True):
        for panel, alpha in zip(panels, alphas, strict=True):
            draw_evolution(panel, of_head(rows[rows["alpha"] == alpha], *head, product), axis)
            panel.set_title(f"({next(letters)}) {delta_label(product)}, init scale {alpha}")
        panels[0].set_ylabel("singular values")
    scale_to_training(axes.flat, rows, axis)
    figure.suptitle(f"{tables.labels[network]}: {head_name(*head)}", fontsize=9)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
