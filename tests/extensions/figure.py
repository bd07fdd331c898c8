"""A figure: the measure of the extension `measure.py` through training."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.style import new_panels
from rank_increase.options import Alpha, Name, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_energy_rank", title="Energy rank", category="Ours", tables=["measures"])
def main(tables, *, network: Name | None = None, alpha: Alpha = "1", seed: Seed = 0):
    """Energy rank of the change through training.

    How many singular values make up 90 % of the squared norm of what training has added to a product: mean over the
    heads of each layer.

    Parameters
    ----------
    network : str
        The one shown; the first of the study if not given.
    alpha : str
        Init scale.
    seed : int
        Of the run.
    """
    columns = ["epoch", "layer", "product", "energy_rank"]
    rows = tables.read("measures", columns, network=network, matrix="delta", alpha=alpha, seed=seed)
    figure, [[axes]] = new_panels(1, 1, 2.5)
    for (product, layer), ranks in rows.dropna().groupby(["product", "layer"], observed=True):
        mean = ranks.groupby("epoch")["energy_rank"].mean()
        axes.plot(mean.index, mean, marker="o", ms=3, label=f"{product}, layer {layer + 1}")
    axes.set(xlabel="epoch", ylabel="energy rank", title=tables.labels[network])
    axes.legend()
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
