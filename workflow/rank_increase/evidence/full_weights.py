"""Claims about full weights at any init scale, beside diagonal ones at the same scale. No theorem covers them.

The greedy limit is Algorithm 1 for full weights (toy/greedy.py), which is not proved: these claims test it.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested
from rank_increase.evidence.toy import PAPER
from rank_increase.notation import log_alpha, sort_alphas
from rank_increase.options import Name, Share
from rank_increase.registry import register
from rank_increase.toy.theorem import ordered_pairs

FULL = {"full": "full", "full_dense": "full, dense teacher"}
SIZE = ("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO", "max_time")


@register.claim(
    "full_weights.one_at_a_time",
    source="Section 5, Figure 2 (d), (e)",
    statement="With full weights and a diagonal teacher, singular values of the products become active one at a time"
    " as α falls.",
    measure="share of passages at which all other products that are not active, of both matrices, are at least ten"
    " times smaller; at the smallest α, over all problems",
    relation=">",
    threshold=0.9,
    reason="Nine in ten: as a rule, at the smallest α that the study has.",
    tables=["events"],
    data="events, variant full",
    variant="full",
)
@register.claim(
    "full_weights.dense.one_at_a_time",
    source="not in the paper",
    statement="With full weights and a dense teacher, singular values of the products become active one at a time as α"
    " falls.",
    measure="share of passages at which all other products that are not active, of both matrices, are at least ten"
    " times smaller; at the smallest α, over all problems",
    relation=">",
    threshold=0.9,
    reason="Nine in ten: as a rule, at the smallest α that the study has.",
    tables=["events"],
    data="events, variant full_dense",
    variant="full_dense",
)
def one_at_a_time(events, *, variant: Name):
    """Singular values of the products become active one at a time at the smallest alpha."""
    shares = passages(events, [variant])
    if variant not in shares.index:
        raise NotTested(f"a run of variant {variant} in which a singular value becomes active")
    smallest = sort_alphas(shares.loc[variant].index)[-1]
    share, count, problems = shares.loc[(variant, smallest)]
    return share, f"{count:.0f} passages in {problems:.0f} problems, α = {smallest}", _by_variant(shares["share"])


@register.claim(
    "full_weights.rises",
    source="not in the paper",
    statement="The smaller α is, the more singular values of full weights become active one at a time.",
    measure="increase of that share from one α to the next smaller one, over all problems; the smallest, over both"
    " teachers",
    relation=">",
    threshold=0,
    reason="An increase is above 0.",
    tables=["events"],
    data="events, variants full and full_dense",
)
def rises(events):
    """The share of passages one at a time grows as alpha falls."""
    shares = passages(events, FULL)["share"]
    steps = [
        np.diff(shares[variant][sort_alphas(shares[variant].index)]) for variant in FULL if variant in shares.index
    ]
    steps = np.concatenate([[], *steps])
    if not len(steps):
        raise NotTested("full weights at two init scales")
    return steps.min(), f"{len(steps)} steps of α", _by_variant(shares)


@register.claim(
    "full_weights.as_diagonal",
    source="Section 5, Figure 2",
    statement="At equal α, products of full weights separate as well as those of diagonal weights.",
    measure="share of passages one at a time with full weights, over all problems, less that with diagonal weights; the"
    " smallest over the α that both have, and over both teachers",
    relation=">",
    threshold=-0.1,
    reason="The same share, up to a tenth: with some 70 passages a run, twice the standard error of a share is 0.1.",
    tables=["events"],
    data="events, variants full and full_dense, and the one with diagonal weights whose problems are of their size",
)
def as_diagonal(events, *, variants: dict):
    """Full weights separate as well as diagonal ones at the same alpha."""
    partners = {variant: _diagonal_variant(variants, variant) for variant in FULL if variant in variants}
    shares = passages(events, {*partners, *partners.values()})["share"]
    differences = [
        shares[variant, alpha] - shares[partners[variant], alpha]
        for variant, alpha in shares.index
        if variant in partners and (partners[variant], alpha) in shares.index
    ]
    if not differences:
        raise NotTested("full and diagonal weights at one α, in problems of one size")
    return min(differences), f"{len(differences)} pairs of runs at one α", _by_variant(shares)


def _diagonal_variant(variants, full):
    """The variant with diagonal weights and teacher, under gradient flow, whose problems are of the size of `full`."""
    wanted = PAPER | {"teacher": "diagonal"} | {key: variants[full][key] for key in SIZE}
    fitting = (name for name, form in variants.items() if all(form[key] == value for key, value in wanted.items()))
    return next(fitting, None)


@register.claim(
    "full_weights.stage_times",
    source="not in the paper",
    statement="Stage times of full weights tend to those of the greedy limit like 1 / ln(1/α).",
    measure="median |T - T_k| ln(1/α) over stages at the smallest α, over the same at the next larger one; the largest"
    " over problems and both teachers",
    relation="<",
    threshold=1.5,
    reason="Delays of C_k / ln(1/α) give 1; if times did not converge, the ratio would be that of the logarithms, which"
    " is 2 or more from 1e-16 to 1e-32 and 3 from 1e-100 to 1e-300.",
    tables=["theorem"],
    data="theorem, variants full and full_dense",
)
def stage_times(theorem):
    """Measured stage times approach the predicted ones as 1 / ln(1/alpha)."""
    ratios, details = [], []
    for (variant, seed), rows in _full(theorem).groupby(["variant", "seed"], observed=True):
        medians = rows["scaled_delay"].abs().groupby(rows["alpha"].astype(str)).median()
        alphas = sort_alphas(medians.index)
        if len(alphas) > 1:
            ratios.append(medians[alphas[-1]] / medians[alphas[-2]])
            listed = ", ".join(f"{medians[alpha] / -log_alpha(alpha):.3g} ({alpha})" for alpha in alphas)
            details.append(f"{FULL[variant]}, seed {seed}: median |T - T_k| {listed}")
    if not ratios:
        raise NotTested("full weights at two init scales")
    return max(ratios), f"{len(ratios)} problems", "; ".join(details)


@register.claim(
    "full_weights.order",
    source="not in the paper",
    statement="Singular values of full weights become active in the order of the greedy limit.",
    measure="share of pairs of stages, predicted at least {apart} apart, whose order is the predicted one, at the"
    " smallest α; the smallest over problems and both teachers",
    relation=">",
    threshold=0.95,
    reason="Nineteen pairs in twenty; by chance it would be half of them. Stages closer than that can change places at"
    " any α of a study.",
    tables=["theorem"],
    data="theorem, variants full and full_dense, the smallest α of each",
    apart=1.0,
)
def order(theorem, *, apart: float):
    """Stages come in the predicted order."""
    shares, details = [], []
    for (variant, seed), rows in _full(theorem).groupby(["variant", "seed"], observed=True):
        alpha = sort_alphas(rows["alpha"].astype(str))[-1]
        pairs = ordered_pairs(rows[rows["alpha"].astype(str) == alpha], apart)
        if len(pairs):
            shares.append(pairs.mean())
            details.append(f"{FULL[variant]}, seed {seed}: {shares[-1]:.3g} of {len(pairs)} pairs ({alpha})")
    if not shares:
        raise NotTested("two stages of full weights that far apart")
    return min(shares), f"{len(shares)} problems", "; ".join(details)


def passages(events, variants, *, smaller: Share = 0.1):
    """Passages one at a time, by variant and alpha.

    Parameters
    ----------
    events : pandas.DataFrame
        Table "events".
    variants : collection of str
    smaller : float
        How much smaller all others must be.

    Returns
    -------
    pandas.DataFrame
        Indexed by variant and alpha: `share`, the `count` of passages and the number of `problems`.
    """
    rows = events[(events["direction"] > 0) & events["variant"].astype(str).isin(variants)]
    rows = rows.assign(alone=rows["log_next"] <= np.log(smaller))
    groups = rows.groupby([rows["variant"].astype(str), rows["alpha"].astype(str)])
    return groups.agg(share=("alone", "mean"), count=("alone", "size"), problems=("seed", "nunique"))


def _full(theorem):
    rows = theorem[theorem["variant"].astype(str).isin(FULL)]
    return rows.astype({"variant": str})


def _by_variant(shares):
    """In words, a Series indexed by variant and alpha."""
    parts = []
    for variant in shares.index.unique("variant"):
        of_variant = shares[variant]
        listed = ", ".join(f"{of_variant[alpha]:.2g} ({alpha})" for alpha in sort_alphas(of_variant.index))
        parts.append(f"{FULL.get(variant, 'diagonal')}: {listed}")
    return "; ".join(parts)
