"""The constants C_k of Theorem 4.5 and the alpha_0 of stages, predicted and measured, for all problems."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import NothingToShow, draw
from rank_increase.figures.style import new_panels
from rank_increase.figures.toy import alpha_colors, draw_constants, draw_resolved
from rank_increase.notation import alpha_label
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_constants", title="Ours: constants C_k", category="Toy model", tables=["theorem", "orbits"])
def main(tables):
    """The constants C_k of Theorem 4.5 and the α_0 of stages, predicted and measured (not in the paper).

    For all problems of a head with diagonal weights. (a) Measured delay of a stage behind Algorithm 1, times ln(1/α),
    against C_k as computed from θ_0 and from the orbits between stages, without a fit: a point for each stage and α.
    (b) Share of the stages in whose middle the active coordinates are the support of θ_k, at each α (dots), and the
    share that follows from the C_k and the gaps between stages (gray).
    """
    theorem, orbits = (tables.read(name, may_be_empty=True) for name in ("theorem", "orbits"))
    theorem = theorem.merge(orbits, on=["variant", "seed", "stage"])
    if theorem.empty:
        raise NothingToShow("Algorithm 1 activates no coordinate in the time of the runs.")
    colors = alpha_colors(theorem["alpha"])
    figure, [[constants, resolved]] = new_panels(1, 2, 3.2)
    draw_constants(constants, theorem, colors)
    draw_resolved(resolved, theorem, orbits, colors)
    constants.set_title("(a) constants")
    resolved.set_title("(b) stages told apart")
    figure.legend(resolved.lines[1:], map(alpha_label, colors), loc="outside lower center", ncols=6)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
