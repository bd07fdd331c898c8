"""Claims of "Learning on Transformers is Provable Low-Rank and Sparse" (Li et al., arXiv 2406.17167) about patterns.

The full text was not available to us: statements are those of its abstract and of summaries, dimensions are ours
(docs/patterns.md). A run (a seed) counts as one experiment, and the worst run decides. The rank of a change or of a
gradient is the number of its singular values above a tenth of the largest.
"""

import pandas as pd

from rank_increase.evidence.claim import NotTested, counted
from rank_increase.registry import register

SHARE = 0.1  # of the largest singular value
INNER, OUTER = ["W_K", "W_Q"], ["W_V", "W_O"]
PRUNED = 0.4  # share of the neurons


def rank(values):
    """Number of singular values above `SHARE` of the largest."""
    return int((values > SHARE * values[0]).sum())


@register.claim(
    "patterns.rank",
    source="arXiv 2406.17167: updates have the rank of the label-relevant patterns",
    statement="{network}: what training adds to each of W_K, W_Q, W_V and W_O has as many directions as there are"
    " patterns with a label.",
    measure="|rank of the change of a matrix - number of patterns with a label|, of all heads together in a layer; the"
    " largest over the four matrices, layers and runs",
    relation="==",
    threshold=0,
    reason="A rank is a whole number.",
    tables=["ablations", "matrices"],
    data="matrices, delta at the last step",
    each=["network"],
)
def change_rank(ablations, matrices):
    """All four changes have the rank of the patterns."""
    return _off(_ranks(matrices, INNER + OUTER), _of(ablations, "patterns"))


@register.claim(
    "patterns.key_query_rank",
    source="ours: the same for two of the matrices",
    statement="{network}: what training adds to W_K and W_Q has as many directions as there are patterns with a label.",
    measure="|rank of the change of a matrix - number of patterns with a label|; the largest over both matrices, layers"
    " and runs",
    relation="==",
    threshold=0,
    reason="A rank is a whole number.",
    tables=["ablations", "matrices"],
    data="matrices, delta at the last step",
    each=["network"],
)
def key_query_rank(ablations, matrices):
    """The changes of keys and queries have the rank of the patterns."""
    return _off(_ranks(matrices, INNER), _of(ablations, "patterns"))


@register.claim(
    "patterns.value_rank",
    source="ours: with two labels for many patterns, values separate labels, not patterns",
    statement="{network}: what training adds to W_V and W_O has as many directions as there are labels.",
    measure="|rank of the change of a matrix - number of labels|; the largest over both matrices, layers and runs",
    relation="==",
    threshold=0,
    reason="A rank is a whole number.",
    tables=["ablations", "matrices"],
    data="matrices, delta at the last step",
    each=["network"],
)
def value_rank(ablations, matrices):
    """The changes of values and outputs have the rank of the labels."""
    return _off(_ranks(matrices, OUTER), _of(ablations, "classes"))


@register.claim(
    "patterns.gap",
    source="arXiv 2406.17167: low rank, up to noise",
    statement="{network}: behind the patterns with a label, singular values of the changes fall by far.",
    measure="K-th over (K+1)-th singular value of the change of W_K and W_Q, with K patterns with a label; the smallest"
    " over both matrices, layers and runs",
    relation=">",
    threshold=8,
    reason="What a first run, with another seed and size, had shown.",
    tables=["ablations", "matrices"],
    data="matrices, delta at the last step",
    each=["network"],
)
def gap(ablations, matrices):
    """Singular values behind the patterns are small."""
    count, rows = _of(ablations, "patterns"), _last(matrices, INNER)
    if count >= len(rows["singular_values"].iloc[0]):
        raise NotTested("matrices with more directions than patterns")
    gaps = rows["singular_values"].map(lambda values: values[count - 1] / values[count])
    by_seed = gaps.groupby(rows["seed"]).min()
    return gaps.min(), _count(rows), f"by seed: {', '.join(f'{value:.3g}' for value in by_seed)}"


@register.claim(
    "patterns.gradient_rank",
    source="arXiv 2406.17167: single gradient updates have the rank of the label-relevant patterns",
    statement="{network}: the gradient of a batch by each of W_K, W_Q, W_V and W_O has, at the first step, as many"
    " directions as there are patterns with a label.",
    measure="|rank of the gradient - number of patterns with a label|; the largest over the four matrices and runs",
    relation="==",
    threshold=0,
    reason="A rank is a whole number.",
    tables=["ablations", "gradients"],
    data="gradients, of a batch at step 0",
    each=["network"],
)
def gradient_rank(ablations, gradients):
    """Single gradients have the rank of the patterns."""
    first = gradients[(gradients["step"] == 0) & (gradients["samples"] > 0)].astype({"weight": str})
    ranks = first.assign(rank=first["singular_values"].map(rank))
    return _off(ranks, _of(ablations, "patterns"))


@register.claim(
    "patterns.rank_two",
    source="arXiv 2406.17167: approximations of rank 2 keep the accuracy",
    statement="{network}: with each matrix changed in its two largest directions alone, the network is as good.",
    measure="test accuracy with changes of rank 2 over that of the whole network; the smallest over runs",
    relation=">",
    threshold=0.98,
    reason="A loss of 2 % would be seen in a figure.",
    tables=["ablations"],
    data="ablations, truncated",
    each=["network"],
)
def rank_two(ablations):
    """Two directions suffice."""
    return _kept(ablations, "truncated", 2)


@register.claim(
    "patterns.rank_less_one",
    source="ours: outputs of K classes need K - 1 directions",
    statement="{network}: with each matrix changed in K - 1 directions for K labels alone, the network is as good.",
    measure="test accuracy with changes of rank K - 1 over that of the whole network; the smallest over runs",
    relation=">",
    threshold=0.98,
    reason="As for rank 2.",
    tables=["ablations"],
    data="ablations, truncated",
    each=["network"],
)
def rank_less_one(ablations):
    """One direction less than labels suffices."""
    return _kept(ablations, "truncated", _of(ablations, "classes") - 1)


@register.claim(
    "patterns.prune_small",
    source="arXiv 2406.17167: pruning up to 40 % of small neurons costs little",
    statement="{network}: without the 40 % smallest neurons, the network is as good.",
    measure="test accuracy without the 40 % of the neurons with the smallest rows of W_O over that of the whole"
    " network; the smallest over runs",
    relation=">",
    threshold=0.98,
    reason="As for rank 2.",
    tables=["ablations"],
    data="ablations, smallest",
    each=["network"],
)
def prune_small(ablations):
    """Small neurons can go."""
    return _kept(ablations, "smallest", PRUNED)


@register.claim(
    "patterns.prune_large",
    source="arXiv 2406.17167: pruning large neurons hurts",
    statement="{network}: without the 40 % largest neurons, the network is worse.",
    measure="test accuracy without the 40 % of the neurons with the largest rows of W_O over that of the whole network;"
    " the largest over runs",
    relation="<",
    threshold=0.98,
    reason="The other side of the threshold for small neurons.",
    tables=["ablations"],
    data="ablations, largest",
    each=["network"],
)
def prune_large(ablations):
    """Large neurons cannot."""
    return _kept(ablations, "largest", PRUNED, worst=max)


@register.claim(
    "patterns.small_before_random",
    source="ours: is size the right order of pruning?",
    statement="{network}: pruning the smallest neurons costs no more than pruning random ones.",
    measure="test accuracy without the 40 % smallest neurons less that without 40 % random ones (mean of ten draws);"
    " the smallest over runs",
    relation=">=",
    threshold=-0.01,
    reason="No more, up to the standard error of an accuracy on a thousand samples, about 0.01.",
    tables=["ablations"],
    data="ablations, smallest and random",
    each=["network"],
)
def small_before_random(ablations):
    """Small neurons matter less than others."""
    rows = _accuracies(ablations)
    differences = rows["smallest", PRUNED] - rows["random", PRUNED]
    return differences.min(), _count(ablations), f"by seed: {', '.join(f'{value:.3f}' for value in differences)}"


def _last(matrices, names):
    """Changes of these weights at the last step."""
    rows = matrices.astype({"weight": str})
    last = rows["step"] == rows["step"].max()
    return rows[last & (rows["matrix"] == "delta") & rows["weight"].isin(names)]


def _ranks(matrices, names):
    rows = _last(matrices, names)
    return rows.assign(rank=rows["singular_values"].map(rank))


def _of(ablations, column):
    """Number of labels or of patterns with a label."""
    number = ablations[column].iloc[0]
    if pd.isna(number):
        raise NotTested("data that is made of patterns")
    return int(number)


def _off(rows, wanted):
    """The largest difference of a rank from the wanted one."""
    found = rows.groupby("weight")["rank"].agg(["min", "max"])
    details = ", ".join(f"{weight}: {low} to {high}" for weight, (low, high) in found.iterrows())
    return (rows["rank"] - wanted).abs().max(), _count(rows), f"ranks, of {wanted} expected: {details}"


def _accuracies(ablations):
    """Accuracy by ablation, amount and seed, a pandas.Series."""
    rows = ablations.astype({"ablation": str})
    return rows.set_index(["ablation", "amount", "seed"])["accuracy"].sort_index()


def _kept(ablations, ablation, amount, worst=min):
    """Share of the accuracy that is left after an ablation."""
    rows = _accuracies(ablations)
    if (ablation, amount) not in rows.index.droplevel("seed"):
        raise NotTested(f"the ablation {ablation} with {amount:g}")
    kept = rows[ablation, amount] / rows["whole", 0.0]
    return worst(kept), _count(ablations), f"by seed: {', '.join(f'{value:.3f}' for value in kept)}"


def _count(rows):
    return counted(rows["seed"].nunique(), "seed")
