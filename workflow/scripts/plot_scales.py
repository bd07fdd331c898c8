"""Rule `fig04`: stable rank of what training adds to W_K W_Q^T, against init scale (paper, Figure 4)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import (
    DELTA_LABELS,
    add_legend,
    draw_scales,
    panel_grid,
    read_stable_ranks,
    seed_colors,
    spread_layers,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, baselines, pdf, png, *, name, layers, dpi, provenance):
    """Draw a panel for each layer, with all init scales and seeds of the dataset at their last epoch."""
    ranks = read_stable_ranks(spectra, baselines, product="KQ")
    ranks = ranks[ranks["epoch"] == ranks["epoch"].max()]
    colors = seed_colors(ranks["seed"])
    layers = sorted(set(spread_layers(ranks["layer"].max() + 1, layers)))
    with paper_style():
        figure, panels = panel_grid(len(layers), 2.4, sharey=True)
        for panel, letter, layer in zip(panels, ascii_lowercase, layers, strict=False):
            draw_scales(panel, ranks[ranks["layer"] == layer], colors)
            panel.set_title(f"({letter}) layer {layer + 1}")
        panels[0].set_ylabel(f"stable rank of {DELTA_LABELS['KQ']}")
        figure.suptitle(name, fontsize=9)
        add_legend(figure, panels[0])
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.spectra[0],
        snakemake.input.baselines[0],
        snakemake.output.pdf,
        snakemake.output.png,
        name=snakemake.params.names[0],
        layers=snakemake.params.layers,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
