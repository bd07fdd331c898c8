"""Claims about linear attention, whose answer is known (Zhang, Singh, Latham and Saxe 2025, arXiv 2501.16265).

They test the method as much as that paper: what finds stages of the toy model must find these. A problem is a seed: its
eigenvalues and theta_0. Every problem counts, and the worst one decides; a missing stage is an infinite error.

Thresholds are orders of magnitude, or conventions. They follow from the wording of a claim, not from results.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested, counted
from rank_increase.notation import alpha_label, sort_alphas
from rank_increase.registry import register


@register.claim(
    "linear_attention.levels",
    source="arXiv 2501.16265: loss of heads with key-query rank 1",
    statement="Linear attention with heads of rank one: the loss rests at"
    " tr(Λ) - Σ λ_d / (1 + (1 + tr(Λ)/λ_d) / N), the sum over d ≤ k, for k = 0, 1, ....",
    measure="difference between the loss halfway through the k-th measured plateau and the k-th level, over the smaller"
    " of the falls that end at this level and begin there, at the smallest α of the study; the largest over levels and"
    " problems",
    relation="<",
    threshold=0.01,
    reason="A hundredth of a fall: no other level, nor a point within a fall, would pass.",
    tables=["linear_attention"],
)
def levels(linear_attention):
    """Heads of rank one rest at the levels of the closed form."""

    def error(run):
        falls = -np.diff(run["level"])
        smaller = np.minimum(np.append(np.inf, falls), np.append(falls, np.inf))
        return _worst(abs(run["loss"] - run["level"]) / smaller)

    return _at_smallest_alpha(_by_run(_rank_one(linear_attention), error), max)


@register.claim(
    "linear_attention.one_rank",
    source="arXiv 2501.16265: saddles of heads with key-query rank 1",
    statement="Linear attention with heads of rank one: each stage adds one direction, by one head.",
    measure="share of the predicted plateaus at the middle of which k directions are learned and k heads are active,"
    " at the smallest α of the study; the smallest over problems",
    relation=">=",
    threshold=1,
    reason='"Each": all stages.',
    tables=["linear_attention"],
)
def one_rank(linear_attention):
    """The k-th plateau of heads of rank one has k learned directions and k active heads."""

    def share(run):
        return ((run["directions"] == run["stage"]) & (run["heads"] == run["stage"])).mean()

    return _at_smallest_alpha(_by_run(_rank_one(linear_attention), share), min)


@register.claim(
    "linear_attention.jump_times",
    source="arXiv 2501.16265: times of the falls for key-query rank 1, proportional to 1/α",
    statement="Linear attention with heads of rank one: falls of the loss come at s_k / α, with s_k the times at which"
    " the heads diverge in the limit.",
    measure="|T - s_k / α| over s_k / α at the smallest α of the study; the largest over stages and problems",
    relation="<",
    threshold=0.01,
    reason="A hundredth: the theory is for α → 0, and corrections vanish with α.",
    tables=["linear_attention"],
)
def jump_times(linear_attention):
    """Heads of rank one learn their directions at the predicted times."""

    def error(run):
        times = run[run["stage"] > 0]
        return _worst(abs(times["measured_time"] / times["predicted_time"] - 1))

    return _at_smallest_alpha(_by_run(_rank_one(linear_attention), error), max)


@register.claim(
    "linear_attention.times_within_a_head",
    source="our limit of the flow of arXiv 2501.16265 (docs/linear-attention.md)",
    statement="Linear attention with one head of full rank: the stages come ln(1/α) (1/λ² - 1/λ'²) / v + O(1)"
    " apart, with λ' and λ the eigenvalues learned before and after, and v the head's value between.",
    measure="growth of the time between neighbouring stages from the second smallest to the smallest α of the study,"
    " over the predicted growth; the largest distance from 1, over stages and problems",
    relation="<",
    threshold=0.1,
    reason="A tenth: a law with another power of α, or without the 1/v, is further away. Constants cancel in a growth.",
    tables=["linear_attention"],
)
def times_within_a_head(linear_attention):
    """The gaps between stages of one head grow with ln(1/alpha) as predicted."""
    rows = _separate(linear_attention)
    rows = rows[rows["rank"] == rows["stage"].max()]

    def error(larger, smaller):
        measured, predicted = (
            np.diff(smaller[column].iloc[1:]) - np.diff(larger[column].iloc[1:])
            for column in ("measured_time", "predicted_time")
        )
        return _worst(abs(measured / predicted - 1))

    return _from_two_alphas(rows, error)


@register.claim(
    "linear_attention.low_rank",
    source="arXiv 2501.16265: loss of heads with key-query rank R",
    statement="Linear attention with heads of rank R, 1 < R < dim: the loss rests long at every R-th level only.",
    measure="time between neighbouring stages of different heads, the shortest, over that between stages of one head,"
    " the longest, at the smallest α of the study; the smallest over ranks and problems",
    relation=">",
    threshold=10,
    reason='"Long" is an order of magnitude.',
    tables=["linear_attention"],
)
def low_rank(linear_attention):
    """Heads of rank R wait long only between one head and the next."""
    rows = _separate(linear_attention)
    rows = rows[(rows["rank"] > 1) & (rows["rank"] < rows["stage"].max())]

    def ratio(run):
        gaps, stages = np.diff(run["measured_time"].iloc[1:]), run["stage"].to_numpy()[1:-1]
        ends = stages % run["rank"].iloc[0] == 0
        return 0.0 if np.isnan(gaps).any() else gaps[ends].min() / gaps[~ends].max()

    ratios = [_by_run(of_rank, ratio) for _, of_rank in rows.groupby("rank")]
    together = {run: min(of_rank[run] for of_rank in ratios) for run in (ratios[0] if ratios else {})}
    return _at_smallest_alpha(together, min)


@register.claim(
    "linear_attention.merged_at_once",
    source="arXiv 2501.16265: one abrupt fall for merged key and query",
    statement="Linear attention with merged key and query: all directions are learned in one fall, not in stages.",
    measure="growth of the time between the first and the last direction from the second smallest to the smallest α of"
    " the study, over that of the time of the first; the largest over problems",
    relation="<",
    threshold=0.1,
    reason="In stages it would grow like the first time itself, a ratio of order 1; in one fall it stays. A tenth is an"
    " order of magnitude below 1.",
    tables=["linear_attention"],
)
def merged_at_once(linear_attention):
    """The time between the directions of a merged head does not grow as alpha falls."""

    def ratio(larger, smaller):
        first, last = (smaller["measured_time"].iloc[k] - larger["measured_time"].iloc[k] for k in (1, -1))
        return _worst([abs((last - first) / first)])

    return _from_two_alphas(_merged(linear_attention), ratio)


@register.claim(
    "linear_attention.merged_time",
    source="arXiv 2501.16265: time of the fall for merged key and query",
    statement="Linear attention with merged key and query: the fall comes at ln(1/α) / ‖Λ²‖ + O(1).",
    measure="growth of the time of the first direction from the second smallest to the smallest α of the study, over"
    " the predicted growth; the largest distance from 1, over problems",
    relation="<",
    threshold=0.01,
    reason="A hundredth: the theory is for α → 0, and the O(1) cancels in a growth.",
    tables=["linear_attention"],
)
def merged_time(linear_attention):
    """A merged head learns its first direction when predicted."""

    def error(larger, smaller):
        measured, predicted = (
            smaller[column].iloc[1] - larger[column].iloc[1] for column in ("measured_time", "predicted_time")
        )
        return _worst([abs(measured / predicted - 1)])

    return _from_two_alphas(_merged(linear_attention), error)


def _separate(rows):
    return rows[rows["key_query"] == "separate"]


def _merged(rows):
    return rows[rows["key_query"] == "merged"]


def _rank_one(rows):
    return _separate(rows[rows["rank"] == 1])


def _worst(errors):
    """The largest of these; infinite if one is missing."""
    errors = np.asarray(errors, float)
    return np.inf if np.isnan(errors).any() else errors.max()


def _by_run(rows, measure):
    """{(alpha, seed): measure of its rows in the order of the stages}."""
    return {run: measure(of_run.sort_values("stage")) for run, of_run in rows.groupby(["alpha", "seed"])}


def _at_smallest_alpha(values, worst):
    """A claim's result: the worst value at the smallest alpha; in the details, that at every alpha."""
    if not values:
        raise NotTested("linear attention of this parametrisation")
    by_alpha = {
        alpha: [value for (a, _), value in values.items() if a == alpha] for alpha in sort_alphas(a for a, _ in values)
    }
    smallest = list(by_alpha)[-1]
    details = ", ".join(f"{worst(of_alpha):.3g} ({alpha})" for alpha, of_alpha in by_alpha.items())
    return worst(by_alpha[smallest]), f"{counted(len(by_alpha[smallest]), 'problem')}, {alpha_label(smallest)}", details


def _from_two_alphas(rows, measure):
    """A claim's result: the largest `measure` of the rows of a problem at the two smallest alphas."""
    runs, alphas = _by_run(rows, lambda run: run), sort_alphas(rows["alpha"])[-2:]
    if len(alphas) < 2:
        raise NotTested("linear attention of this parametrisation from two init scales")
    values = [measure(*(runs[alpha, seed] for alpha in alphas)) for seed in sorted(rows["seed"].unique())]
    n = f"{counted(len(values), 'problem')}, {' and '.join(map(alpha_label, alphas))}"
    return max(values), n, f"median over problems: {np.median(values):.3g}"
