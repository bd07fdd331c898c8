"""Rule `fig06`: loss against rescaled time for every alpha (paper, Figure 6)."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import (
    alpha_colors,
    draw_losses,
    new_panels,
    paper_style,
    read_losses,
    save_figure,
    says_what_is_missing,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(trajectory, pdf, png, *, alphas, seed, dpi, provenance):
    """Draw the losses of the diagonal structure."""
    losses = read_losses(trajectory, "diagonal", alphas, seed)
    with paper_style():
        figure, [[panel]] = new_panels(1, 1, 4.0)
        draw_losses(panel, losses, alpha_colors(alphas))
        panel.set_title("Training loss vs. rescaled time, for various alpha", fontsize=9)
        panel.legend(fontsize=8)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.trajectory,
        snakemake.output.pdf,
        snakemake.output.png,
        alphas=snakemake.params.alphas,
        seed=snakemake.params.seed,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
