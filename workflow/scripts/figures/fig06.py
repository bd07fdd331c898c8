"""Figure 6: loss against rescaled time for every alpha."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.style import new_panels
from rank_increase.figures.toy import alpha_colors, draw_losses, read_losses
from rank_increase.options import Alphas, Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig06", title="Figure 06", category="Toy model", tables=["losses"])
def main(tables, *, seed: Seed | None = None, alphas: Alphas | None = None):
    """Loss for every alpha (paper, Figure 6).

    Training loss against rescaled time. The smaller α, the darker and wider the line. Gradient flow, with diagonal
    weights.

    Parameters
    ----------
    seed : int
        Of the problem; the headline seed of the study if not given.
    alphas : list of str
        Init scales; all of the problem if not given. Paper: 0.1, 0.01, 1e-4, 1e-8, 1e-16, 1e-32.
    """
    losses = read_losses(tables, "diagonal", alphas, seed)
    figure, [[panel]] = new_panels(1, 1, 4.0)
    draw_losses(panel, losses, alpha_colors(losses["alpha"]))
    panel.set_title("Training loss vs. rescaled time, for various alpha", fontsize=9)
    panel.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
