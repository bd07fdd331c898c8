"""Linear attention beside its known loss levels and jump times (not in the paper)."""

from string import ascii_lowercase
from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.style import RESCALED_TIME, panel_grid
from rank_increase.figures.toy import alpha_colors
from rank_increase.notation import alpha_label, log_alpha, sort_alphas
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
    stages = tables.read("linear_attention").astype({"alpha": str, "key_query": str})
    problem = stages["seed"].iloc[0] if problem is None else problem
    losses = tables.read("linear_attention_losses", seed=problem).astype({"alpha": str, "key_query": str})
    shown, colors = stages[stages["seed"] == problem], alpha_colors(stages["alpha"])
    kinds = list(shown.groupby(["key_query", "rank"]))
    figure, panels = panel_grid(len(kinds) + 1, 2.2)
    for panel, (kind, of_kind), letter in zip(panels, kinds, ascii_lowercase, strict=False):
        title, label = draw_losses(panel, kind, of_kind, losses, colors)
        panel.set(title=f"({letter}) {title}", xlabel=label, ylabel="loss", xscale="log")
    separate = stages[stages["key_query"] == "separate"].dropna(subset=["predicted_time", "measured_time"])
    for alpha, color in colors.items():
        rows = separate[separate["alpha"] == alpha]
        panels[-1].plot(
            float(alpha) * rows["predicted_time"], float(alpha) * rows["measured_time"], "o", ms=2.5, color=color
        )
    panels[-1].axline((1, 1), (10, 10), color="0.5", lw=0.8, zorder=1)
    panels[-1].set(
        title=f"({ascii_lowercase[len(kinds)]}) times of stages",
        xlabel=r"predicted, $\times\,\alpha$",
        ylabel=r"measured, $\times\,\alpha$",
        xscale="log",
        yscale="log",
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def draw_losses(panel, kind, stages, losses, colors):
    """Losses of a parametrisation for every alpha, over its levels; returns its name and that of its time axis."""
    key_query, rank = kind
    dim = stages["stage"].max()
    for level in stages["level"].unique():
        panel.axhline(level, color="0.6", lw=0.6, ls=(0, (5, 4)))
    for alpha in sort_alphas(stages["alpha"]):
        run = losses[(losses["key_query"] == key_query) & (losses["rank"] == rank) & (losses["alpha"] == alpha)]
        if key_query == "merged":
            time, name, label = run["time"] / -log_alpha(alpha), "merged key and query", RESCALED_TIME
        elif rank == dim:
            since = run["time"] - stages.loc[stages["alpha"] == alpha, "measured_time"].min()
            run = run[since > 0]
            time, name = since[since > 0] / -log_alpha(alpha), "one head of full rank"
            label = r"(time - $T_1$) / $\ln(1/\alpha)$"
        else:
            time, name, label = float(alpha) * run["time"], f"heads of rank {rank}", r"$\alpha$ time"
        panel.plot(time, run["loss"], color=colors[alpha], label=alpha_label(alpha))
    return name, label


if __name__ == "__main__":
    draw(main, snakemake)
