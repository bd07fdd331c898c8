"""Rules `fig09` and `fig10`: perturbed and unperturbed paths, a row of panels for each run (paper, Figures 9, 10)."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plotting import (
    add_stage_bar,
    add_window_legend,
    draw_window,
    entry_colors,
    new_panels,
    note_window,
    paper_style,
    read_perturbed_runs,
    save_figure,
    says_what_is_missing,
)
from rank_increase.tables import read_table
from rank_increase.windows import Window

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@says_what_is_missing
def main(perturbations, stages, pdf, png, *, assumption, seed, movement, follow, dpi, provenance):
    """Draw every run; those whose path moves by more than `movement` in a time of `follow` are marked."""
    runs = read_perturbed_runs(perturbations, assumption, seed)
    stages = read_table(stages, filters=[("seed", "==", seed)])
    plateau = assumption == "plateaus"
    with paper_style():
        figure, axes = new_panels(len(runs), 2, 1.65 * len(runs) + 0.7)
        for panels, choices in zip(axes, runs, strict=True):
            run, on_support = (choices[choices["noise_on"] == noise_on] for noise_on in ("nonnegligible", "support"))
            window = Window.of(run)
            note, marked = window.plateau_note(movement) if plateau else window.rest_note(movement / follow)
            for panel, product in zip(panels, ("VO", "KQ"), strict=True):
                draw_window(panel, run, product, entry_colors(stages), shaded=marked)
            panels[0].set_ylabel("coordinate value")
            note_window(panels[0], window.distances(Window.of(on_support)))
            note_window(panels[1], note, marked)
        add_stage_bar(figure, axes, stages, "bottom", fraction=0.015, pad=0.02)
        add_window_legend(figure, with_speed=not plateau)
        save_figure(figure, pdf, png, dpi=dpi, provenance=provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.perturbations,
        snakemake.input.stages,
        snakemake.output.pdf,
        snakemake.output.png,
        assumption=snakemake.params.assumption,
        seed=snakemake.params.seed,
        movement=snakemake.params.movement,
        follow=snakemake.params.follow,
        dpi=snakemake.params.dpi,
        provenance=provenance,
    )
