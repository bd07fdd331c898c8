"""Rule `fig01`: normalized spectra of a head, a panel for each dataset (paper, Figure 1)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import paper_style, save_figure, says_what_is_missing
from rank_increase.vit_plotting import (
    NORMALIZED,
    choose_heads,
    draw_stages,
    head_name,
    of_head,
    panel_grid,
    read_head_spectra,
    stage_colors,
    stage_epochs,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(spectra, baselines, pdf, png, *, names, layers, draw, alpha, seed, dpi, provenance):
    """Draw a panel for each file of `spectra` and of `baselines`, of datasets called `names`."""
    with paper_style():
        figure, panels = panel_grid(len(names), 2.8)
        for panel, letter, name, *files in zip(panels, ascii_lowercase, names, spectra, baselines, strict=False):
            rows = read_head_spectra(*files, product="KQ", alpha=alpha, seed=seed)
            [head] = choose_heads(rows, layers, draw)
            colors = stage_colors(stage_epochs(rows["epoch"]))
            draw_stages(panel, of_head(rows, *head, "KQ"), colors)
            panel.set_title(f"({letter}) {name}: {head_name(*head)}")
            panel.set_ylabel(NORMALIZED)
            panel.legend(fontsize=6.5, labelspacing=0.3, handlelength=1.4)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params = snakemake.params
    main(
        snakemake.input.spectra,
        snakemake.input.baselines,
        snakemake.output.pdf,
        snakemake.output.png,
        names=params.names,
        layers=params.layers,
        draw=params.draw,
        alpha=params.alpha,
        seed=params.seed,
        dpi=params.dpi,
        provenance=provenance,
    )
