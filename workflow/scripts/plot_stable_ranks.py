"""Rules `fig12`, `fig14`, `fig16`: stable rank of what training adds to both products (paper, Figures 12, 14, 16)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import add_legend, draw_rank_increase, panel_grid, read_stable_ranks

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, baselines, pdf, png, *, name, alpha, seed, dpi, provenance):
    """Draw a panel for each layer."""
    ranks = read_stable_ranks(spectra, baselines, alpha=alpha, seed=seed)
    layers = ranks["layer"].max() + 1
    with paper_style():
        figure, panels = panel_grid(layers, 2.1, columns=3 if layers <= 6 else 4, sharex=True, sharey=True)
        for layer, (panel, letter) in enumerate(zip(panels, ascii_lowercase, strict=False)):
            draw_rank_increase(panel, ranks[ranks["layer"] == layer])
            panel.set_title(f"({letter}) layer {layer + 1}")
            panel.label_outer()
        figure.supylabel("stable rank", fontsize=8)
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
        alpha=snakemake.params.alpha,
        seed=snakemake.params.seed,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
