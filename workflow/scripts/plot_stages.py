"""Rules `fig11`, `fig13`, `fig15`: normalized spectra at stages of training (paper, Figures 11, 13, 15)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.notation import PRODUCTS
from rank_increase.plotting import new_panels, paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import (
    DELTA_LABELS,
    NORMALIZED,
    add_legend,
    choose_heads,
    draw_stages,
    head_name,
    of_head,
    read_head_spectra,
    stage_colors,
    stage_epochs,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, baselines, pdf, png, *, name, layers, draw, alpha, seed, dpi, provenance):
    """Draw a row of panels for each product, of heads in different layers."""
    rows = read_head_spectra(spectra, baselines, alpha=alpha, seed=seed)
    heads = choose_heads(rows, layers, draw)
    colors = stage_colors(stage_epochs(rows["epoch"]))
    with paper_style():
        figure, axes = new_panels(len(PRODUCTS), len(heads), 4.8, sharey=True)
        letters = iter(ascii_lowercase)
        for product, panels in zip(PRODUCTS, axes, strict=True):
            for panel, head in zip(panels, heads, strict=True):
                draw_stages(panel, of_head(rows, *head, product), colors)
                panel.set_title(f"({next(letters)}) {DELTA_LABELS[product]}, {head_name(*head)}")
            panels[0].set_ylabel(NORMALIZED)
        figure.suptitle(name, fontsize=9)
        add_legend(figure, axes[0, 0])
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params = snakemake.params
    main(
        snakemake.input.spectra[0],
        snakemake.input.baselines[0],
        snakemake.output.pdf,
        snakemake.output.png,
        name=params.names[0],
        layers=params.layers,
        draw=params.draw,
        alpha=params.alpha,
        seed=params.seed,
        dpi=params.dpi,
        provenance=provenance,
    )
