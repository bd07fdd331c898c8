"""Rule `fig03`: singular values of what training adds to both products, for several init scales (paper, Figure 3)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.notation import PRODUCTS
from rank_increase.plotting import new_panels, paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import (
    DELTA_LABELS,
    choose_heads,
    draw_evolution,
    head_name,
    of_head,
    of_matrix,
    read_runs,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, pdf, png, *, name, layers, draw, alphas, seed, dpi, provenance):
    """Draw a row of panels for each product, a column for each of `alphas`."""
    columns = ["alpha", "matrix", "singular_values"]
    rows = read_runs(spectra, columns, matrix="delta", alpha=alphas, seed=seed)
    [head] = choose_heads(rows, layers, draw)
    with paper_style():
        figure, axes = new_panels(len(PRODUCTS), len(alphas), 4.4, sharex=True)
        letters = iter(ascii_lowercase)
        for product, panels in zip(PRODUCTS, axes, strict=True):
            for panel, alpha in zip(panels, alphas, strict=True):
                draw_evolution(panel, of_matrix(of_head(rows[rows["alpha"] == alpha], *head, product), "delta"))
                panel.set_title(f"({next(letters)}) {DELTA_LABELS[product]}, init scale {alpha}")
            panels[0].set_ylabel("singular values")
        for panel in axes[0]:
            panel.set_xlabel("")
        figure.suptitle(f"{name}: {head_name(*head)}", fontsize=9)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params = snakemake.params
    main(
        snakemake.input.spectra[0],
        snakemake.output.pdf,
        snakemake.output.png,
        name=params.names[0],
        layers=params.layers,
        draw=params.draw,
        alphas=params.alphas,
        seed=params.seed,
        dpi=params.dpi,
        provenance=provenance,
    )
