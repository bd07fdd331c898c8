"""Claims about networks: the rank of what training adds to the products of every head, such as W_K W_Q^T and W_V W_O^T.

Each is tested for every network and product. A run (a seed) counts as one experiment, its heads do not: the value of a
run is a median over the heads of all layers. The value of a claim is an end of the 95 % interval of the mean over runs,
the one that is nearer to the threshold or beyond it, so a claim needs `MIN_SEEDS` runs. Intervals are Student's t, of
the logarithms where values are ratios. The default init scale is 1.
"""

import math

import numpy as np
import pandas as pd

from rank_increase.evidence.claim import NotTested, counted
from rank_increase.notation import RANDOM_CHANGES
from rank_increase.options import Alpha
from rank_increase.registry import register

RUN = ["alpha", "seed"]
HEAD = [*RUN, "layer", "head"]
MIN_SEEDS = 3  # of two values, the interval of the mean is wider than any effect
MIN_SCALES = 3  # the rank correlation of two values is always 1 or -1
MIN_STEPS = 3  # after the warm-up: growth from a minimum needs more than two
GROWN = 1.25  # a head grows if its rank does by this factor
APART = 3  # the number of the singular value whose growth is compared with that of the largest


@register.claim(
    "vit.delta_low_rank",
    source="Section 5, Figures 1, 5 and 11 to 16",
    statement="{network}, {product}: what training adds has a far lower stable rank than the initial product.",
    measure="stable rank of the change at the end over that of the initial product, median over all heads of a run with"
    " init scale {alpha}; upper end of the 95 % interval of the geometric mean over seeds",
    relation="<",
    threshold=0.5,
    reason="Far lower is half, which a figure shows at a glance. It says more of widths than of training: the initial"
    " product has nearly the rank that the head dimension allows, and one step of training passes as well (see the"
    " details), as does training on shuffled labels (see a network with `shuffled_labels`).",
    tables=["measures"],
    data="measures, delta and initial, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def low_rank(measures, *, alpha: Alpha):
    """The delta has a lower stable rank than the product had at initialization."""
    initial = _ranks(measures, alpha, "initial").set_index(HEAD)["stable_rank"]
    deltas = _ranks(measures, alpha, "delta")
    value, n, details = _ratio(_last(deltas), initial, alpha, "the initial product")
    first = _by_run(deltas[deltas["step"] == deltas["step"].min()].set_index(HEAD)["stable_rank"] / initial)
    return value, n, f"{details}; after step {deltas['step'].min()}: {_mean(first):.2g}"


@register.claim(
    "vit.delta_not_random",
    source="implied by Figures 5 and 11 to 16; the comparison is ours",
    statement="{network}, {product}: what training adds has a far lower stable rank than a random change of the product"
    " or of its factors.",
    measure="stable rank of the change at the end over the lower one of two random changes (of the product, with the"
    " norm of its change; of the factors, each with the norm of its own change), median over all heads of a run with"
    " init scale {alpha}; upper end of the 95 % interval of the geometric mean over seeds",
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
    random = _last(_ranks(measures, alpha, "random_product", "noisy_factors"))
    lower = random.groupby(HEAD)["stable_rank"].min()
    return _ratio(_last(_ranks(measures, alpha, "delta")), lower, alpha, "both random changes")


@register.claim(
    "vit.delta_not_turned",
    source="a fairer comparison than the paper's, ours",
    statement="{network}, {product}: what training adds has a lower stable rank than it would have if the changes of"
    " both factors had their singular values and random singular vectors.",
    measure="stable rank of the change at the end over that with turned factors, median over all heads of a run with"
    " init scale {alpha}; upper end of the 95 % interval of the geometric mean over seeds",
    relation="<",
    threshold=0.8,
    reason="A fifth lower. The changes of the factors are of low rank themselves, so half is not to be expected: only"
    " how they fit to the factors and to each other is compared. A pilot had 1.63 against 2.80.",
    tables=["measures"],
    data="measures, delta and turned_factors, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def lower_than_turned(measures, *, alpha: Alpha):
    """The delta has a lower stable rank than with random directions of the changes of its factors."""
    turned = _last(_ranks(measures, alpha, "turned_factors")).set_index(HEAD)["stable_rank"]
    return _ratio(_last(_ranks(measures, alpha, "delta")), turned, alpha, "turned factors")


def _ratio(deltas, reference, alpha, what):
    """Compare stable ranks with those of `reference`, indexed by HEAD."""
    ratios = (deltas.set_index(HEAD)["stable_rank"] / reference).dropna()
    runs = _by_run(ratios)
    value = _interval(runs, alpha)[1]
    details = _seeds(runs) + f"; {(ratios < 1).mean():.0%} of the heads are below {what}"
    return value, _count(ratios), details


@register.claim(
    "vit.rank_grows",
    source="Section 5, Figures 3, 12, 14 and 16",
    statement="{network}, {product}: the stable rank of what training adds grows through training, from a minimum that"
    " it reaches early.",
    measure="stable rank of the change at the end over its minimum after the warm-up, median over all heads of a run"
    " with init scale {alpha}; lower end of the 95 % interval of the geometric mean over seeds",
    relation=">",
    threshold=1.25,
    reason="A quarter more, which a figure shows. A ratio to a minimum is never below 1, so the same ratio for random"
    " changes of the same size stands in the details. The rank falls in the first steps, in which the change is nearly"
    " a gradient, or with Adam its signs.",
    tables=["measures"],
    data="measures, delta, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
def rank_grows(measures, *, alpha: Alpha, warmups: dict | None = None):
    """The stable rank of the delta grows from its minimum."""
    found = {name: _growth(_ranks(measures, alpha, name), warmups or {}) for name in ("delta", *RANDOM_CHANGES)}
    growth, overall = found["delta"]["growth"], _growth(_ranks(measures, alpha, "delta"), {})
    runs = _by_run(growth)
    value = _interval(runs, alpha)[0]
    layers = growth.groupby("layer")
    details = [
        _seeds(runs),
        f"{(growth > GROWN).mean():.0%} of the heads grow by a quarter",
        "by layer " + ", ".join(f"{median:.2f}" for median in layers.median()),
        f"minimum at step {found['delta']['step'].median():.0f}",
        f"rank correlation with the step from there on {found['delta']['rho'].median():.2f}",
        *(f"{_named(name)} {_mean(_by_run(found[name]['growth'])):.2f}" for name in RANDOM_CHANGES if len(found[name])),
        f"from the minimum over all steps, at step {overall['step'].median():.0f}:"
        f" {_mean(_by_run(overall['growth'])):.2f}",
    ]
    return value, _count(growth), "; ".join(details)


def _growth(rows, warmups):
    """The growth of each head from its minimum: `growth`, the `step` of the minimum, and `rho` from there on."""
    if len(rows):
        rows = rows[rows["epoch"] >= rows["network"].astype(str).map(warmups).fillna(0)]
    if rows["step"].nunique() < MIN_STEPS:
        raise NotTested(f"{MIN_STEPS} snapshots after the warm-up")
    return rows.sort_values("step").groupby(HEAD)[["step", "stable_rank"]].apply(_growth_of_head)


def _growth_of_head(head):
    lowest = head["stable_rank"].to_numpy().argmin()
    after = head.iloc[lowest:]
    growth = head["stable_rank"].iloc[-1] / head["stable_rank"].iloc[lowest]
    rho = spearman(after["step"], after["stable_rank"]) if len(after) >= MIN_STEPS else 0.0
    return pd.Series({"growth": growth, "step": head["step"].iloc[lowest], "rho": rho})


@register.claim(
    "vit.values_in_turn",
    source="Section 5, Figure 3",
    statement="{network}, {product}: singular values of what training adds leave zero one after the other.",
    measure="step at which the third singular value of the change has half of its final size over that of the first,"
    " median over all heads of a run with init scale {alpha}; lower end of the 95 % interval of the geometric mean over"
    " seeds",
    relation=">",
    threshold=1.25,
    reason="If all grew in proportion, the ratio would be 1, as it is for a random change of equal norm. Four"
    " snapshots per doubling of the step, with lines between them, tell times apart that differ by a tenth; a quarter"
    " is clear of that.",
    tables=["spectra"],
    data="spectra, delta, init scale {alpha}",
    each=["network", "product"],
    alpha="1",
)
@register.claim(
    "vit.values_in_turn_small_scale",
    source="Section 5, Figure 3",
    statement="{network}, {product}: from a small init scale, singular values of what training adds leave zero one"
    " after the other.",
    measure="step at which the third singular value of the change has half of its final size over that of the first,"
    " median over all heads of a run with init scale {alpha}; lower end of the 95 % interval of the geometric mean over"
    " seeds",
    relation=">",
    threshold=1.25,
    reason="As at init scale 1. If only one singular value grows, the others are noise and their times say nothing: the"
    " details have their sizes.",
    tables=["spectra"],
    data="spectra, delta, init scale {alpha}",
    each=["network", "product"],
    alpha="0.1",
)
def values_in_turn(spectra, *, alpha: Alpha):
    """Singular values of the delta leave zero one after the other."""
    rows = spectra[(spectra["alpha"].astype(str) == alpha) & (spectra["matrix"] == "delta")].sort_values("step")
    if rows["step"].nunique() < MIN_STEPS:
        raise NotTested(f"{MIN_STEPS} snapshots of a run with init scale {alpha}")
    heads = [(key, head["step"].to_numpy(), np.stack(head["singular_values"])) for key, head in rows.groupby(HEAD)]
    if min(values.shape[1] for *_, values in heads) < APART:
        raise NotTested(f"changes with {APART} singular values")
    index = pd.MultiIndex.from_tuples([key for key, *_ in heads], names=HEAD)
    times = pd.DataFrame([half_times(steps, values[:, :APART]) for _, steps, values in heads], index).dropna()
    ratios = times[APART - 1] / times[0]
    runs = _by_run(ratios)
    value = _interval(runs, alpha)[0]
    last = np.median([values[-1, :APART] / values[-1, 0] for *_, values in heads], axis=0)
    counts = np.median([[(row > values[-1, 0] / 10).sum() for row in values] for *_, values in heads], axis=0)
    steps = heads[0][1]
    seen = [np.abs(np.log(np.maximum(steps, 1) / at)).argmin() for at in np.geomspace(steps[-1] / 64, steps[-1], 4)]
    details = [
        _seeds(runs),
        "median steps to half of the final size " + ", ".join(f"{time:.0f}" for time in times.median()),
        "final sizes over the largest " + ", ".join(f"{size:.2f}" for size in last),
        "singular values above a tenth of the final largest: "
        + ", ".join(f"{counts[place]:g} at step {steps[place]}" for place in dict.fromkeys(seen)),
    ]
    return value, _count(ratios), "; ".join(details)


def half_times(steps, values):
    """Steps at which singular values first have half of their final size, linear in log(step) between snapshots.

    Parameters
    ----------
    steps : array, shape (snapshots,)
        Ascending.
    values : array, shape (snapshots, n)

    Returns
    -------
    array, shape (n,)
        NaN where a value is zero at the end, or has its half at step 0 already.
    """
    found = np.full(values.shape[1], np.nan)
    for number, of_number in enumerate(values.T):
        reached = np.flatnonzero(of_number >= of_number[-1] / 2)
        if not of_number[-1] > 0 or reached[0] == 0:
            continue
        at = reached[0]
        before, after = of_number[at - 1 : at + 1]
        share = (of_number[-1] / 2 - before) / (after - before)
        start, end = np.log(max(steps[at - 1], 0.5)), np.log(steps[at])  # step 0 as if half a step
        found[number] = math.exp(start + share * (end - start))
    return found


@register.claim(
    "vit.rank_grows_with_scale",
    source="Section 5, Figures 3 and 4",
    statement="{network}, {product}: smaller init scales give changes of lower stable rank.",
    measure="Spearman's rank correlation of init scale and stable rank at the end, mean over the heads of a layer;"
    " median over the layers of a seed; lower end of the 95 % interval of the mean over seeds",
    relation=">",
    threshold=0.5,
    reason="What Cohen (1988) calls a large correlation.",
    tables=["measures"],
    data="measures, delta, all init scales",
    each=["network", "product"],
)
def rank_grows_with_scale(measures):
    """The stable rank of the trained delta grows with the init scale."""
    means = _last(_ranks(measures, None, "delta")).groupby(["seed", "layer", "alpha"])["stable_rank"].mean()
    means = means.dropna().reset_index()
    means["scale"] = means["alpha"].astype(float)
    means = means.sort_values("scale").groupby(["seed", "layer"]).filter(lambda layer: len(layer) >= MIN_SCALES)
    if means.empty:
        raise NotTested(f"{MIN_SCALES} init scales with the same seed")
    layers = means.groupby(["seed", "layer"])
    rhos = layers.apply(lambda layer: spearman(layer["scale"], layer["stable_rank"]), include_groups=False)
    monotone = layers["stable_rank"].apply(lambda ranks: ranks.is_monotonic_increasing and ranks.is_unique)
    effect = layers["stable_rank"].apply(lambda ranks: ranks.iloc[-1] / ranks.iloc[0])
    runs = rhos.groupby("seed").median()
    value = _interval(runs, "1, for example,", ratios=False)[0]
    details = (
        f"{_seeds(runs)}; monotone in {monotone.sum()} of {len(monotone)} layers; stable rank at the largest"
        f" scale over that at the smallest {_mean(effect):.2f}"
    )
    n = f"{counted(len(runs), 'seed')}, {means['alpha'].nunique()} init scales, {len(rhos)} layers"
    return value, n, details


def spearman(x, y):
    """Spearman's rank correlation of two pandas.Series, with mean ranks for ties; 0 if one of them is constant."""
    ranks = np.stack([x.rank().to_numpy(), y.rank().to_numpy()])
    return np.corrcoef(ranks)[0, 1] if (np.ptp(ranks, axis=1) > 0).all() else 0.0


def _ranks(measures, alpha, *matrices):
    """Stable ranks of these matrices after step 0, or at it for initial ones, of an init scale, as a plain string."""
    rows = measures[measures["matrix"].isin(matrices)].astype({"alpha": str}).dropna(subset="stable_rank")
    if alpha is not None:
        rows = rows[rows["alpha"] == alpha]
    return rows if "initial" in matrices else rows[rows["step"] > 0]


def _last(rows):
    """The rows of the last step."""
    return rows[rows["step"] == rows["step"].max()]


def _by_run(of_heads):
    """Medians over the heads of each seed."""
    return of_heads.groupby("seed").median()


def _mean(values):
    """Geometric mean."""
    return math.exp(np.log(values).mean())


def _interval(runs, alpha, ratios=True):
    """Both ends of the 95 % interval of the mean over runs; of the geometric one for `ratios`.

    Raises
    ------
    NotTested
        If there are fewer than `MIN_SEEDS`.
    """
    from scipy.stats import t  # takes longer to import than all claims to test

    if len(runs) < MIN_SEEDS:
        raise NotTested(f"{MIN_SEEDS} seeds with init scale {alpha}")
    values = np.log(runs) if ratios else runs
    half = t.ppf(0.975, len(runs) - 1) * values.std(ddof=1) / math.sqrt(len(runs))
    ends = values.mean() - half, values.mean() + half
    return tuple(map(math.exp, ends)) if ratios else ends


def _seeds(runs):
    return "median of seed " + ", ".join(f"{seed}: {value:.2f}" for seed, value in runs.items())


def _named(matrix):
    return matrix.replace("_", " ")


def _count(by_head):
    seeds = by_head.index.get_level_values("seed").nunique()
    return f"{counted(seeds, 'seed')}, {len(by_head) // seeds} heads each"
