"""Claims about vision transformers: the rank of what training adds to W_K W_Q^T and W_V W_O^T of every head.

A row for each dataset and product. A run (a seed) is one experiment; its heads, of all layers, are not: the value of a
run is a median over heads, and over runs the worst counts. "The default init scale" is that of the figures.
"""

import numpy as np

from rank_increase.claims import Claim
from rank_increase.notation import PRODUCTS

PRODUCT_NAMES = {"KQ": "W_K W_Qᵀ", "VO": "W_V W_Oᵀ"}
HEAD = ["alpha", "seed", "layer", "head"]
COLUMNS = ["dataset", "epoch", "product", "stable_rank", *HEAD]  # that both tables are asked for
MIN_SCALES = 3  # a rank correlation of two is always 1 or -1


def vit_claims(spectra, baselines, thresholds, *, alpha, names):
    """The claims about vision transformers, each tested or said not to be.

    Parameters
    ----------
    spectra, baselines : pandas.DataFrame
        Tables of the study: `COLUMNS`, and `matrix` or `baseline`.
    thresholds : dict
        `claims` in the configuration.
    alpha : str
        The default init scale.
    names : dict
        Dataset -> what to call it, for all datasets that the study trains on.

    Returns
    -------
    list of Claim
    """
    claims = []
    for dataset, name in names.items():
        for product in PRODUCTS:
            deltas = _heads(spectra, dataset=dataset, product=product, matrix="delta")
            initial = _heads(spectra, dataset=dataset, product=product, matrix="initial")
            random = _heads(baselines, dataset=dataset, product=product)
            where = f"{dataset}.{product}", f"{name}, {PRODUCT_NAMES[product]}"
            claims += [
                low_rank(deltas, initial, where, alpha, thresholds),
                lower_than_random(deltas, random, where, alpha, thresholds),
                rank_grows(deltas, where, alpha, thresholds),
                rank_grows_with_scale(deltas, where, thresholds),
            ]
    return claims


def low_rank(deltas, initial, where, alpha, thresholds):
    """The delta has a lower stable rank than the product had at initialization."""
    claim = Claim(
        id=f"vit.delta_low_rank.{where[0]}",
        source="Section 5, Figures 1, 5 and 11 to 16",
        statement=f"{where[1]}: what training adds has a far lower stable rank than the initial product.",
        measure="stable rank of the change by the last epoch over that of the initial product, median over all heads of"
        f" a run with init scale {alpha}; the largest over runs",
        relation="<",
        threshold=thresholds["rank_ratio"],
        data=f"spectra, delta and initial, init scale {alpha}",
    )
    return _rank_ratio(claim, deltas, initial.set_index(HEAD)["stable_rank"], alpha, "the initial product")


def lower_than_random(deltas, random, where, alpha, thresholds):
    """The delta has a lower stable rank than random changes of the product and of its factors."""
    claim = Claim(
        id=f"vit.delta_not_random.{where[0]}",
        source="implied by Figures 5 and 11 to 16; the comparison is ours",
        statement=f"{where[1]}: what training adds has a far lower stable rank than a random change of the product or"
        " of its factors.",
        measure="stable rank of the change by the last epoch over the lower one of two random changes (of the product,"
        " with the norm of its change; of the factors, each with the norm of its own change), median over all heads of"
        f" a run with init scale {alpha}; the largest over runs",
        relation="<",
        threshold=thresholds["rank_ratio"],
        data=f"spectra, delta, and baselines, init scale {alpha}",
    )
    last = random[random["epoch"] == random["epoch"].max()]
    return _rank_ratio(claim, deltas, last.groupby(HEAD)["stable_rank"].min(), alpha, "both random changes")


def _rank_ratio(claim, deltas, reference, alpha, what):
    """Compare stable ranks at the last epoch with those of `reference`, indexed by HEAD."""
    last = deltas[(deltas["epoch"] == deltas["epoch"].max()) & (deltas["epoch"] > 0)]
    ratios = (last.set_index(HEAD)["stable_rank"] / reference).dropna()
    ratios = ratios[ratios.index.get_level_values("alpha") == alpha]
    if ratios.empty:
        return claim.untested(f"a run with init scale {alpha}")
    runs = ratios.groupby("seed")
    medians = runs.median()
    details = "; ".join(
        f"seed {seed}: median {median:.2g}, heads {runs.get_group(seed).min():.2g} to {runs.get_group(seed).max():.2g},"
        f" {(runs.get_group(seed) < 1).mean():.0%} of them below {what}"
        for seed, median in medians.items()
    )
    return claim.tested(medians.max(), _count(ratios), details)


def rank_grows(deltas, where, alpha, thresholds):
    """The stable rank of the delta grows through training."""
    claim = Claim(
        id=f"vit.rank_grows.{where[0]}",
        source="Section 5, Figures 3, 12, 14 and 16",
        statement=f"{where[1]}: the stable rank of what training adds grows through training.",
        measure="Spearman's rank correlation of epoch and stable rank of a head, over the epochs kept but 0, median"
        f" over all heads of a run with init scale {alpha}; the smallest over runs. 0 for a rank that does not change",
        relation=">",
        threshold=thresholds["rank_correlation"],
        data=f"spectra, delta, init scale {alpha}",
    )
    rows = deltas[(deltas["alpha"] == alpha) & (deltas["epoch"] > 0)].dropna(subset="stable_rank")
    if rows["epoch"].nunique() < MIN_SCALES:
        return claim.untested(f"three epochs of a run with init scale {alpha}")
    rhos = rows.groupby(HEAD).apply(lambda head: spearman(head["epoch"], head["stable_rank"]))
    runs = rhos.groupby("seed")
    medians = runs.median()
    ends = {seed: of_run.groupby("epoch")["stable_rank"].median() for seed, of_run in rows.groupby("seed")}
    details = "; ".join(
        f"seed {seed}: median {median:.2g}, {(runs.get_group(seed) > 0).mean():.0%} of the heads above 0; median stable"
        f" rank {ends[seed].iloc[0]:.2f} after epoch {ends[seed].index[0]}, {ends[seed].iloc[-1]:.2f} after epoch"
        f" {ends[seed].index[-1]}"
        for seed, median in medians.items()
    )
    return claim.tested(medians.min(), _count(rhos), details)


def rank_grows_with_scale(deltas, where, thresholds):
    """The stable rank of the trained delta grows with the init scale."""
    claim = Claim(
        id=f"vit.rank_grows_with_scale.{where[0]}",
        source="Section 5, Figures 3 and 4",
        statement=f"{where[1]}: smaller init scales give changes of lower stable rank.",
        measure="Spearman's rank correlation of init scale and stable rank after the last epoch, mean over the heads of"
        " a layer; median over the layers of a seed, the smallest over seeds",
        relation=">",
        threshold=thresholds["rank_correlation"],
        data="spectra, delta, all init scales",
    )
    last = deltas[(deltas["epoch"] == deltas["epoch"].max()) & (deltas["epoch"] > 0)]
    means = last.groupby(["seed", "layer", "alpha"])["stable_rank"].mean().dropna().reset_index()
    means["scale"] = means["alpha"].astype(float)
    means = means.sort_values("scale").groupby(["seed", "layer"]).filter(lambda layer: len(layer) >= MIN_SCALES)
    if means.empty:
        return claim.untested(f"{MIN_SCALES} init scales with the same seed")
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
    return claim.tested(seeds.min(), n, details)


def spearman(x, y):
    """Spearman's rank correlation of two pandas.Series, ties by their mean rank; 0 if one of them is constant."""
    ranks = np.stack([x.rank().to_numpy(), y.rank().to_numpy()])
    return np.corrcoef(ranks)[0, 1] if (np.ptp(ranks, axis=1) > 0).all() else 0.0


def _heads(table, **wanted):
    """Rows of one dataset, product and so on, with plain strings for init scales."""
    rows = table
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows.astype({"alpha": str})


def _count(by_head):
    seeds = by_head.index.get_level_values("seed").nunique()
    return f"{seeds} seed{'s' if seeds > 1 else ''}, {len(by_head) // seeds} heads each"
