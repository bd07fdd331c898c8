"""Rules `fig02` and `fig_dense`: products and loss of single runs, a row of panels for each (paper, Figure 2)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import (
    PRODUCT_LABELS,
    draw_losses,
    draw_products,
    entry_colors,
    new_panels,
    paper_style,
    rank_colors,
    read_losses,
    read_products,
    row_label,
    save_figure,
    says_what_is_missing,
)
from rank_increase.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(trajectory, stages, pdf, png, *, rows, seed, dpi, provenance):
    """Draw a row for each dict of `rows`, with keys `structure`, `alpha`, `weights`, `teacher`."""
    stages = read_table(stages, filters=[("seed", "==", seed)])
    with paper_style():
        figure, axes = new_panels(len(rows), 3, 1.95 * len(rows))
        letters = iter(ascii_lowercase)
        for panels, row in zip(axes, rows, strict=True):
            run = read_products(trajectory, row["structure"], [row["alpha"]], seed)
            diagonal = row["weights"] == "diagonal"
            colors = entry_colors(stages) if diagonal else rank_colors(run["index"].max() + 1)
            for panel, product in zip(panels, ("VO", "KQ"), strict=False):
                draw_products(panel, run, product, colors)
                what = "diagonal entries" if diagonal else "singular values"
                panel.set_title(f"({next(letters)}) {what} of {PRODUCT_LABELS[product]}")
            losses = read_losses(trajectory, row["structure"], [row["alpha"]], seed)
            draw_losses(panels[2], losses, {row["alpha"]: "black"})
            panels[2].set_title(f"({next(letters)}) loss")
            panels[0].set_ylabel(row_label(row["weights"], row["teacher"], row["alpha"]))
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.trajectory,
        snakemake.input.stages,
        snakemake.output.pdf,
        snakemake.output.png,
        rows=snakemake.params.rows,
        seed=snakemake.params.seed,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
