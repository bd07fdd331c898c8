"""Low-rank and sparse: spectra of what training adds, truncated and pruned networks (not in the paper)."""

from typing import TYPE_CHECKING

from rank_increase.figures.job import draw
from rank_increase.figures.patterns import draw_changes, draw_pruned, draw_truncated
from rank_increase.figures.style import new_panels
from rank_increase.options import Alpha, Name
from rank_increase.registry import register

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


@register.figure("fig_patterns", title="Low-rank and sparse", category="Neighbours", tables=["ablations", "matrices"])
@register.figure(
    "fig_patterns_limits",
    title="Low-rank and sparse: limits",
    category="Neighbours",
    tables=["ablations", "matrices"],
    optional=True,
)
def main(tables, *, networks: list[Name] | None = None, alpha: Alpha = "1"):
    """Spectra of what training adds, and accuracy of truncated and pruned networks (arXiv 2406.17167).

    A column for each network, a line for each run. Top: singular values of the changes of W_K, W_Q, W_V and W_O, over
    the largest; dashed: a tenth. Middle: test accuracy if all changes are cut to a rank; dotted: of the whole network.
    Bottom: test accuracy without a share of the neurons: those with the smallest or largest rows of W_O, or random ones
    (mean of ten draws).

    Parameters
    ----------
    networks : list of str
        The ones shown; all with these tables if not given.
    alpha : str
        Init scale.
    """
    figure, panels = new_panels(3, len(networks), 5.4, sharey="row")
    for name, (changes, truncated, pruned) in zip(networks, panels.T, strict=True):
        rows = tables.read("matrices", network=name, alpha=alpha, matrix="delta")
        draw_changes(changes, rows[rows["step"] == rows["step"].max()])
        changes.set_title(tables.labels[name], wrap=True)
        ablations = tables.read("ablations", network=name, alpha=alpha).astype({"ablation": str})
        draw_truncated(truncated, ablations[ablations["ablation"].isin(["whole", "truncated"])])
        draw_pruned(pruned, ablations)
    for axes, label in zip(panels[:, 0], ("singular value / largest", "test accuracy", "test accuracy"), strict=True):
        axes.set_ylabel(label)
    panels[0, 0].legend(loc="lower left")
    panels[2, 0].legend(loc="lower left")
    return figure


if __name__ == "__main__":
    draw(main, snakemake)
