"""Rule `fig05`: spectra of what training adds to W_K W_Q^T and of the initial product (paper, Figure 5)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import PRODUCT_LABELS, paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import (
    add_legend,
    choose_heads,
    draw_perturbation,
    head_name,
    of_head,
    panel_grid,
    read_head_spectra,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, baselines, pdf, png, *, name, layers, draw, alpha, seed, dpi, provenance):
    """Draw a panel for each of some heads, in different layers as far as there are enough."""
    rows = read_head_spectra(spectra, baselines, product="KQ", alpha=alpha, seed=seed)
    heads = choose_heads(rows, layers, draw)
    with paper_style():
        figure, panels = panel_grid(len(heads), 2.2)
        for panel, letter, head in zip(panels, ascii_lowercase, heads, strict=False):
            draw_perturbation(panel, of_head(rows, *head, "KQ"))
            panel.set_title(f"({letter}) {head_name(*head)}")
        for panel in panels[::3]:
            panel.set_ylabel("singular values")
        figure.suptitle(f"{name}: {PRODUCT_LABELS['KQ']}", fontsize=9)
        add_legend(figure, panels[0])
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
