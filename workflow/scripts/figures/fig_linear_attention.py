"""Linear attention beside its known loss levels and jump times (not in the paper)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.linear_attention import draw_jump_times, draw_linear_attention
from rank_increase.figures.style import panel_grid
from rank_increase.figures.toy import alpha_colors
from rank_increase.options import Seed
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure(
    "fig_linear_attention",
    title="Ours: linear attention",
    category="Toy model",
    tables=["linear_attention", "linear_attention_losses"],
)
def main(tables, *, problem: Seed | None = None):
    """Linear attention beside its known loss levels and jump times (not in the paper).

    Population loss of linear attention on in-context regression, a panel for each parametrisation; dashed, the levels
    of Zhang et al. (2025) in closed form. Heads of low key-query rank R rest at every R-th level for a time of order
    1/α; within a head, the time between levels is of order ln(1/α); with merged key and query there is one fall. Last
    panel: times at which heads with separate key and query learn a direction, measured against predicted, a point for
    each stage, problem, rank and α.

    Parameters
    ----------
    problem : int
        Seed of the problem whose losses are shown; the first of the study if not given.
    """
    kind = ["key_query", "rank"]
    stages = tables.read("linear_attention").astype({"alpha": str, "key_query": str})
    problem = stages["seed"].iloc[0] if problem is None else problem
    losses = tables.read("linear_attention_losses", seed=problem).astype({"alpha": str, "key_query": str})
    shown, colors = stages[stages["seed"] == problem].groupby(kind), alpha_colors(stages["alpha"])
    figure, panels = panel_grid(len(shown) + 1, 2.2)
    for panel, letter, (which, rows) in zip(panels, ascii_lowercase, shown, strict=False):
        name = draw_linear_attention(panel, rows, losses.groupby(kind).get_group(which), colors)
        panel.set_title(f"({letter}) {name}")
    draw_jump_times(panels[-1], stages, colors)
    panels[-1].set_title(f"({ascii_lowercase[len(shown)]}) times of stages")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
