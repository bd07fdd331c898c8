"""A claim: what training adds has a low energy rank, by the measure of the extension `measure.py`."""

from rank_increase.evidence.claim import NotTested
from rank_increase.options import Alpha
from rank_increase.registry import register


@register.claim(
    "energy_rank.below_initial",
    source="ours",
    statement="{network}, {product}: fewer singular values carry what training adds than carry the initial product.",
    measure="energy rank of the change by the last epoch over that of the initial product, mean over all heads of a run"
    " with init scale {alpha}; the largest over runs",
    relation="<",
    threshold=1,
    reason="Fewer is below one; by how much is for the value to say.",
    tables=["measures"],
    data="measures, delta and initial, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def below_initial(measures, *, alpha: Alpha):
    """The change has a lower energy rank than the initial product."""
    rows = measures[measures["alpha"] == alpha]
    if rows.empty:
        raise NotTested(f"a run with init scale {alpha}")
    last = rows[(rows["matrix"] == "delta") & (rows["epoch"] == rows["epoch"].max())]
    initial = rows[rows["matrix"] == "initial"]
    ratios = last.groupby("seed")["energy_rank"].mean() / initial.groupby("seed")["energy_rank"].mean()
    return ratios.max(), f"runs: {len(ratios)}", f"by seed: {', '.join(f'{ratio:.2g}' for ratio in ratios)}"
