"""Claims about networks: the rank of what training adds to the products of every head, such as W_K W_Q^T and W_V W_O^T.

Each is tested for every network and product. A run (a seed) counts as one experiment, its heads do not: the value of a
run is a median over the heads of all layers, and the worst run counts. The default init scale is 1.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested
from rank_increase.options import Alpha
from rank_increase.registry import register

HEAD = ["alpha", "seed", "layer", "head"]
MIN_SCALES = 3  # the rank correlation of two values is always 1 or -1


@register.claim(
    "vit.delta_low_rank",
    source="Section 5, Figures 1, 5 and 11 to 16",
    statement="{network}, {product}: what training adds has a far lower stable rank than the initial product.",
    measure="stable rank of the change by the last epoch over that of the initial product, median over all heads of"
    " a run with init scale {alpha}; the largest over runs",
    relation="<",
    threshold=0.5,
    reason="Far lower is half, which a figure shows at a glance.",
    tables=["measures"],
    data="measures, delta and initial, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def low_rank(measures, *, alpha: Alpha):
    """The delta has a lower stable rank than the product had at initialization."""
    initial = _matrix(measures, "initial").set_index(HEAD)["stable_rank"]
    return _rank_ratio(_matrix(measures, "delta"), initial, alpha, "the initial product")


@register.claim(
    "vit.delta_not_random",
    source="implied by Figures 5 and 11 to 16; the comparison is ours",
    statement="{network}, {product}: what training adds has a far lower stable rank than a random change of the product"
    " or of its factors.",
    measure="stable rank of the change by the last epoch over the lower one of two random changes (of the product,"
    " with the norm of its change; of the factors, each with the norm of its own change), median over all heads of"
    " a run with init scale {alpha}; the largest over runs",
    relation="<",
    threshold=0.5,
    reason="Far lower is half, which a figure shows at a glance.",
    tables=["measures"],
    data="measures, delta, random_product and noisy_factors, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def lower_than_random(measures, *, alpha: Alpha):
    """The delta has a lower stable rank than random changes of the product and of its factors."""
    random = _matrix(measures, "random_product", "noisy_factors")
    last = random[random["epoch"] == random["epoch"].max()]
    lower = last.groupby(HEAD)["stable_rank"].min()
    return _rank_ratio(_matrix(measures, "delta"), lower, alpha, "both random changes")


def _rank_ratio(deltas, reference, alpha, what):
    """Compare stable ranks at the last epoch with those of `reference`, indexed by HEAD."""
    last = deltas[(deltas["epoch"] == deltas["epoch"].max()) & (deltas["epoch"] > 0)]
    ratios = (last.set_index(HEAD)["stable_rank"] / reference).dropna()
    ratios = ratios[ratios.index.get_level_values("alpha") == alpha]
    if ratios.empty:
        raise NotTested(f"a run with init scale {alpha}")
    runs = ratios.groupby("seed")
    medians = runs.median()
    details = "; ".join(
        f"seed {seed}: median {median:.2g}, heads {runs.get_group(seed).min():.2g} to {runs.get_group(seed).max():.2g},"
        f" {(runs.get_group(seed) < 1).mean():.0%} of them below {what}"
        for seed, median in medians.items()
    )
    return medians.max(), _count(ratios), details


@register.claim(
    "vit.rank_grows",
    source="Section 5, Figures 3, 12, 14 and 16",
    statement="{network}, {product}: the stable rank of what training adds grows through training.",
    measure="Spearman's rank correlation of epoch and stable rank of a head, over the epochs kept but 0, median"
    " over all heads of a run with init scale {alpha}; the smallest over runs. 0 for a rank that does not change",
    relation=">",
    threshold=0.5,
    reason="What Cohen (1988) calls a large correlation.",
    tables=["measures"],
    data="measures, delta, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def rank_grows(measures, *, alpha: Alpha):
    """The stable rank of the delta grows through training."""
    deltas = _matrix(measures, "delta")
    rows = deltas[(deltas["alpha"] == alpha) & (deltas["epoch"] > 0)].dropna(subset="stable_rank")
    if rows["epoch"].nunique() < MIN_SCALES:
        raise NotTested(f"three epochs of a run with init scale {alpha}")
    rhos = rows.groupby(HEAD).apply(lambda head: spearman(head["epoch"], head["stable_rank"]))
    runs = rhos.groupby("seed")
    medians = runs.median()
    ends = {seed: of_run.groupby("epoch")["stable_rank"].median() for seed, of_run in rows.groupby("seed")}
    details = "; ".join(
        f"seed {seed}: median {median:.2g}, {(runs.get_group(seed) > 0).mean():.0%} of the heads above 0; median stable"
        f" rank {ends[seed].iloc[0]:.2f} after epoch {ends[seed].index[0]:g}, {ends[seed].iloc[-1]:.2f} after epoch"
        f" {ends[seed].index[-1]:g}"
        for seed, median in medians.items()
    )
    return medians.min(), _count(rhos), details


@register.claim(
    "vit.rank_grows_with_scale",
    source="Section 5, Figures 3 and 4",
    statement="{network}, {product}: smaller init scales give changes of lower stable rank.",
    measure="Spearman's rank correlation of init scale and stable rank after the last epoch, mean over the heads of"
    " a layer; median over the layers of a seed, the smallest over seeds",
    relation=">",
    threshold=0.5,
    reason="What Cohen (1988) calls a large correlation.",
    tables=["measures"],
    data="measures, delta, all init scales",
    each=["network", "product"],
)
def rank_grows_with_scale(measures):
    """The stable rank of the trained delta grows with the init scale."""
    deltas = _matrix(measures, "delta")
    last = deltas[(deltas["epoch"] == deltas["epoch"].max()) & (deltas["epoch"] > 0)]
    means = last.groupby(["seed", "layer", "alpha"])["stable_rank"].mean().dropna().reset_index()
    means["scale"] = means["alpha"].astype(float)
    means = means.sort_values("scale").groupby(["seed", "layer"]).filter(lambda layer: len(layer) >= MIN_SCALES)
    if means.empty:
        raise NotTested(f"{MIN_SCALES} init scales with the same seed")
    layers = means.groupby(["seed", "layer"])
    rhos = layers.apply(lambda layer: spearman(layer["scale"], layer["stable_rank"]))
    monotone = layers["stable_rank"].apply(lambda ranks: ranks.is_monotonic_increasing and ranks.is_unique)
    details = "; ".join(
        f"seed {seed}: {', '.join(f'{rho:.2g}' for rho in of_seed)} in layers 1 to {len(of_seed)},"
        f" monotone in {monotone[seed].sum()} of {len(of_seed)}"
        for seed, of_seed in rhos.groupby("seed")
    )
    seeds = rhos.groupby("seed").median()
    n = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, {means['alpha'].nunique()} init scales, {len(rhos)} layers"
    return seeds.min(), n, details


def spearman(x, y):
    """Spearman's rank correlation of two pandas.Series, with mean ranks for ties; 0 if one of them is constant."""
    ranks = np.stack([x.rank().to_numpy(), y.rank().to_numpy()])
    return np.corrcoef(ranks)[0, 1] if (np.ptp(ranks, axis=1) > 0).all() else 0.0


def _matrix(measures, *names):
    """Rows of these matrices, with plain strings for init scales."""
    return measures[measures["matrix"].isin(names)].astype({"alpha": str})


def _count(by_head):
    seeds = by_head.index.get_level_values("seed").nunique()
    return f"{seeds} seed{'s' if seeds > 1 else ''}, {len(by_head) // seeds} heads each"
