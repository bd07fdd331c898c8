"""Claims of "From Condensation to Rank Collapse" (Chen and Luo, arXiv 2510.06954) about decoders.

A run (a seed) counts as one experiment, and the worst run decides. `GROWN`: a weight has grown once its Frobenius norm
is twice the initial one, a relative change of 1. Steps are interpolated between snapshots, linearly in the logarithm of
the norm.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested, counted
from rank_increase.registry import register

OUTER = ["W_V", "W_1", "W_2"]
INNER = ["W_K", "W_Q"]
GROWN = 2.0


@register.claim(
    "condensation.outer_first",
    source="arXiv 2510.06954: two stages, Figure 1b",
    statement="{network}: W_V, W_1 and W_2 grow before W_K and W_Q.",
    measure="step at which the first of W_K and W_Q has twice its initial norm over that at which the last of W_V, W_1"
    " and W_2 has, over all heads of a layer; the smallest over layers and runs",
    relation=">",
    threshold=1.1,
    reason="Before: above 1, by more than the distance of two snapshots, 9 % in the study `neighbours`.",
    tables=["cosines", "matrices"],
    data="matrices, trained",
    each=["network"],
)
def outer_first(cosines, matrices):
    """The outer weights grow before keys and queries."""
    rows = matrices[matrices["matrix"] == "trained"].astype({"weight": str})
    keys = ["seed", "layer", "head", "weight"]
    steps = {place: crossing(one["step"], one["relative_norm"]) for place, one in rows.groupby(keys)}
    ratios, details = {}, []
    for seed, layer in sorted({place[:2] for place in steps}):
        of_layer = {place: step for place, step in steps.items() if place[:2] == (seed, layer)}
        outer = max(step for place, step in of_layer.items() if place[3] in OUTER)
        inner = min(step for place, step in of_layer.items() if place[3] in INNER)
        ratios[seed, layer] = inner / outer if np.isfinite(outer) else 0.0
        details.append(f"seed {seed}, layer {layer + 1}: step {outer:.0f}, then {inner:.0f}")
    return min(ratios.values()), _count(rows), "; ".join(details)


def crossing(steps, norms, level=GROWN):
    """Step at which a norm first reaches `level`; infinity if never.

    Parameters
    ----------
    steps, norms : pandas.Series
        Of one weight, in any order.
    """
    order = np.argsort(steps.to_numpy())
    steps, logs = steps.to_numpy()[order], np.log(norms.to_numpy()[order] / level)
    above = np.flatnonzero(logs >= 0)
    if not len(above):
        return np.inf
    after = above[0]
    if after == 0:
        return float(steps[0])
    share = logs[after - 1] / (logs[after - 1] - logs[after])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


@register.claim(
    "condensation.rank_falls",
    source="arXiv 2510.06954: Figure 1c",
    statement="{network}: the effective rank of each matrix falls far below its initial value.",
    measure="smallest effective rank of a matrix through training over its initial one; the largest over matrices and"
    " runs",
    relation="<",
    threshold=0.5,
    reason="Far below is half, as in the claims about stable ranks.",
    tables=["cosines", "matrices"],
    data="matrices, trained",
    each=["network"],
)
def rank_falls(cosines, matrices):
    """The effective rank of every weight falls."""
    rows = matrices[matrices["matrix"] == "trained"].astype({"weight": str})
    found = rows.groupby(["seed", "layer", "head", "weight"]).apply(
        lambda one: one["effective_rank"].min() / one.loc[one["step"].idxmin(), "effective_rank"]
    )
    worst = found.groupby("weight").max()
    return found.max(), _count(rows), ", ".join(f"{weight}: {value:.2g}" for weight, value in worst.items())


@register.claim(
    "condensation.rows_align",
    source="arXiv 2510.06954: condensation, Figure 1a",
    statement="{network}: at some step, the rows of W_V, W_1 and W_2 point along one line.",
    measure="largest mean |cos| of two rows of a matrix through training; the smallest over W_V, W_1, W_2 and runs",
    relation=">",
    threshold=0.5,
    reason="Halfway from orthogonal to parallel; random rows of 32 entries have 0.14.",
    tables=["cosines", "matrices"],
    data="matrices, trained",
    each=["network"],
)
def rows_align(cosines, matrices):
    """The rows of the outer weights condense."""
    rows = matrices[(matrices["matrix"] == "trained") & matrices["weight"].astype(str).isin(OUTER)]
    rows = rows.astype({"weight": str})
    found = rows.groupby(["seed", "layer", "head", "weight"])["row_cosine"].max()
    worst = found.groupby("weight").min()
    return found.min(), _count(rows), ", ".join(f"{weight}: {value:.2g}" for weight, value in worst.items())


@register.claim(
    "condensation.both_ranks_turn",
    source="ours: which rank falls, and which rises",
    statement="{network}: the effective ranks of W_V and of its change by training both fall and rise again.",
    measure="the smaller of two ratios, the first value over the smallest and the last over the smallest, of the"
    " effective rank of W_V and of its change from step 1; the smallest over both and runs",
    relation=">",
    threshold=1.2,
    reason="A fifth is more than what ranks move between neighbouring snapshots on the way.",
    tables=["cosines", "matrices"],
    data="matrices, trained and delta",
    each=["network"],
)
def both_ranks_turn(cosines, matrices):
    """Both effective ranks are U-shaped, so neither falls while the other rises but in a window."""
    rows = matrices[(matrices["weight"].astype(str) == "W_V") & (matrices["step"] > 0)].astype({"matrix": str})
    found = {}
    for place, one in rows.groupby(["seed", "layer", "head", "matrix"]):
        ranks = one.sort_values("step")["effective_rank"].to_numpy()
        found[place] = min(ranks[0], ranks[-1]) / ranks.min()
    worst = {name: min(v for place, v in found.items() if place[3] == name) for name in ("trained", "delta")}
    details = f"of W_V: {worst['trained']:.2g}, of its change: {worst['delta']:.2g}"
    return min(found.values()), _count(rows), details


def _window_end(key_query, network):
    """Rows at the end of the window of each run."""
    if key_query.empty:
        raise NotTested("a run of one layer with one head, by SGD at one learning rate, whose W_K and W_Q grow")
    return key_query[key_query["step"] == key_query.groupby("seed")["step"].transform("max")]


@register.claim(
    "condensation.rank_one",
    source="arXiv 2510.06954: rank collapse of the normalised W_Q and W_K",
    statement="{network}: W_K and W_Q are nearly of rank one once they have grown.",
    measure="stable rank at the first snapshot at which both have four times their initial norm; the largest over both"
    " and runs",
    relation="<",
    threshold=1.1,
    reason="Below 1.1, nine tenths of the squared norm lie in one direction.",
    tables=["cosines", "key_query"],
    data="key_query",
    each=["network"],
)
def rank_one(cosines, key_query):
    """Keys and queries become of rank one."""
    rows = _window_end(key_query, cosines)
    ranks = rows.groupby("seed")["stable_rank"].max()
    return ranks.max(), _count(rows), f"by seed: {', '.join(f'{rank:.3f}' for rank in ranks)}"


@register.claim(
    "condensation.linear_system",
    source="arXiv 2510.06954: dW_Q/dt = F W_K, dW_K/dt = Fᵀ W_Q",
    statement="{network}: W_K and W_Q follow the linear system with the F of each snapshot.",
    measure="cosine of a trained matrix and the one that the linear system makes of the weights at the start of the"
    " window, at its end; the smallest over both and runs",
    relation=">",
    threshold=0.95,
    reason="Within 18 degrees; two random matrices of this size are within a few degrees of 90.",
    tables=["cosines", "key_query"],
    data="key_query, F measured",
    each=["network"],
)
def linear_system(cosines, key_query):
    """Keys and queries follow the linear system with the measured F."""
    return _followed(_window_end(key_query, cosines), "measured")


@register.claim(
    "condensation.frozen_system",
    source="arXiv 2510.06954: the second stage has an F that stays",
    statement="{network}: W_K and W_Q follow the linear system with the F of the start of the window.",
    measure="cosine of a trained matrix and the one that the linear system makes of the weights at the start of the"
    " window, at its end; the smallest over both and runs",
    relation=">",
    threshold=0.95,
    reason="As for the measured F, so that the two can be compared.",
    tables=["cosines", "key_query"],
    data="key_query, F frozen",
    each=["network"],
)
def frozen_system(cosines, key_query):
    """Keys and queries follow the linear system with one F."""
    return _followed(_window_end(key_query, cosines), "frozen")


def _followed(end, system):
    rows = end[end["system"] == system]
    cosines = rows.groupby("seed")["cosine"].min()
    norms = (rows["predicted_norm"] / rows["relative_norm"]).groupby(rows["seed"]).median()
    details = (
        f"by seed: {', '.join(f'{cosine:.3f}' for cosine in cosines)}; predicted norm over that of the trained matrix:"
        f" {norms.min():.2g} to {norms.max():.2g}"
    )
    return cosines.min(), _count(rows), details


@register.claim(
    "condensation.one_direction",
    source="arXiv 2510.06954: F has a unique largest singular value",
    statement="{network}: one singular value of F stands out while W_K and W_Q grow.",
    measure="largest singular value of F over the second; the smallest over the window and runs",
    relation=">",
    threshold=2,
    reason="Then the second direction grows at half the rate, and its share vanishes.",
    tables=["cosines", "key_query"],
    data="key_query",
    each=["network"],
)
def one_direction(cosines, key_query):
    """F has a largest singular value apart from the others."""
    if key_query.empty:
        _window_end(key_query, cosines)
    gaps = key_query.groupby("seed")["gap"].min()
    return gaps.min(), _count(key_query), f"by seed: {', '.join(f'{gap:.2g}' for gap in gaps)}"


def _count(rows):
    return counted(rows["seed"].nunique(), "seed")
