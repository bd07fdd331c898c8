"""Rules `fig07` and `fig08`: diagonal entries of a product over time, a panel for each alpha (Figures 7 and 8)."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.notation import alpha_label
from rank_increase.plotting import (
    DIAGONAL_LABELS,
    PRODUCT_LABELS,
    add_stage_bar,
    draw_products,
    entry_colors,
    new_panels,
    paper_style,
    read_products,
    save_figure,
    says_what_is_missing,
)
from rank_increase.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(trajectory, stages, pdf, png, *, product, alphas, seed, dpi, provenance):
    """Draw a panel for each of `alphas`, two in a row, in this order."""
    runs = read_products(trajectory, "diagonal", alphas, seed)
    stages = read_table(stages, filters=[("seed", "==", seed)])
    rows = -(-len(alphas) // 2)
    with paper_style():
        figure, axes = new_panels(rows, 2, 2.2 * rows, sharex=True, sharey=True)
        for panel, alpha in zip(axes.flat, alphas, strict=False):
            draw_products(panel, runs[runs["alpha"] == alpha], product, entry_colors(stages))
            panel.set_title(f"Entries of {DIAGONAL_LABELS[product]}, for {alpha_label(alpha)}")
            panel.label_outer()
        for panel in axes[:, 0]:
            panel.set_ylabel(f"diagonal entries of {PRODUCT_LABELS[product]}")
        for panel in axes.flat[len(alphas) :]:
            panel.set_visible(False)
        add_stage_bar(figure, axes, stages, "right", fraction=0.03, pad=0.01)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.trajectory,
        snakemake.input.stages,
        snakemake.output.pdf,
        snakemake.output.png,
        product=snakemake.params.product,
        alphas=snakemake.params.alphas,
        seed=snakemake.params.seed,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
