"""Claims about other trainings of the toy model than gradient flow: finite steps, minibatches, and other update rules.

A run is compared with the gradient flow of the same problem from the same alpha. A problem is a seed and counts as one
trial, however many runs it has. A share of problems is given by the lower end of its 95 % Clopper-Pearson interval,
which 17 problems of 17 bring above 0.8; fewer problems are no test.
"""

import numpy as np

from rank_increase.evidence.claim import ENOUGH, NotTested, lower_end
from rank_increase.notation import COORDINATE, alpha_label, log_alpha, sort_alphas
from rank_increase.options import Name, Positive, Share
from rank_increase.registry import register
from rank_increase.toy.staircase import Staircase

# Settings that are not of the problem
OF_TRAINING = {"method", "step", "batch_size", "beta1", "beta2", "eps", "momentum", "max_time", "full_flow_tolerance"}


@register.claim(
    "trainings.gd.first_stage",
    source="not in the paper",
    statement="Gradient descent reaches its first stage later than gradient flow, by half a step η in rescaled time"
    " at every α.",
    measure="share of problems in which T / T_flow - 1, T the time of the first activation, differs by less than a"
    " tenth from η g / ln(1 + η g) - 1, g = 1 / T_1 of Algorithm 1, at every η and α; lower end of the interval",
    relation=">=",
    threshold=0.8,
    reason="A law for diagonal weights, not a tendency: the factor by which a step grows a weight is 1 + η g instead of"
    " exp(η g), and T_1 (η g / ln(1 + η g) - 1) is η/2 for short steps. A tenth, as g changes a little before a weight"
    " counts as active.",
    tables=["events", "stages"],
    data="events and stages, diagonal weights, methods flow and gd",
)
def gd_first_stage(events, stages, *, variants: dict):
    """Each step of gradient descent grows a weight by less than the flow does."""
    late = _first_stages(events, stages, variants)
    runs = {run for of_problem in late.values() for run in of_problem}
    right = {
        seed: all(run in found and abs(found[run][0] - found[run][1]) < 0.1 * found[run][1] for run in runs)
        for seed, found in late.items()
    }
    ratios = {}
    for of_problem in late.values():
        for (step, alpha), (found, expected, _) in of_problem.items():
            ratios.setdefault(f"step {step:g}, {alpha_label(alpha)}", []).append(found / expected)
    return _share(right, "median of found over predicted: " + _medians(ratios))


@register.claim(
    "trainings.gd.limit",
    source="not in the paper",
    statement="The delay of gradient descent does not vanish as α falls: its limit at a finite step is not that of"
    " Algorithm 1.",
    measure="share of problems in which the delay T - T_flow at the smallest α is more than half of that at the"
    " largest, at every step; lower end of the interval",
    relation=">=",
    threshold=0.8,
    reason="A delay that vanished like 1 / ln(1/α), as that of the flow does, would fall to less than half over any"
    " two α of which one is the square of the other, or smaller.",
    tables=["events", "stages"],
    data="events and stages, diagonal weights, methods flow and gd",
)
def gd_limit(events, stages, *, variants: dict):
    """The delay at the smallest alpha is that at the largest."""
    late, right, delays = _first_stages(events, stages, variants), {}, {}
    alphas = sort_alphas(alpha for of_problem in late.values() for _, alpha in of_problem)
    steps = {step for of_problem in late.values() for step, _ in of_problem}
    if len(alphas) < 2 or log_alpha(alphas[-1]) > 2 * log_alpha(alphas[0]):
        raise NotTested("two init scales of gradient descent, one at most the square of the other")
    for seed, of_problem in late.items():
        found = {run: delay for run, (*_, delay) in of_problem.items()}
        ends = [(found.get((step, alphas[0]), np.nan), found.get((step, alphas[-1]), np.nan)) for step in steps]
        right[seed] = all(at_smallest > at_largest / 2 for at_largest, at_smallest in ends)
        for (step, alpha), delay in found.items():
            delays.setdefault(f"step {step:g}, {alpha_label(alpha)}", []).append(delay)
    return _share(right, "median delay: " + _medians(delays))


def _first_stages(events, stages, variants):
    """Delay of the first activation of gradient descent behind that of the flow: {seed: {(step, alpha): numbers}}.

    The numbers are the delay over the time of the flow, what it should be, and the delay. A run without an activation
    is missing, which counts against what is claimed of all runs.
    """
    first = _by_run(events[events["direction"] > 0], lambda rows: rows["rescaled_time"].min())
    predicted = stages[stages["stage"] == 1].set_index(["variant", "seed"])["predicted_time"]
    late = {}
    for variant, flow in _pairs(variants, "gd", "diagonal"):
        step = variants[variant]["step"]
        for (name, alpha, seed), time in first.items():
            if name == variant and (flow, alpha, seed) in first and (flow, seed) in predicted.index:
                of_flow, x = first[flow, alpha, seed], step / predicted[flow, seed]
                numbers = time / of_flow - 1, x / np.log1p(x) - 1, time - of_flow
                late.setdefault(seed, {})[step, alpha] = numbers
    if not late:
        raise NotTested("Algorithm 1, and runs by gradient descent and gradient flow of the same problems")
    return late


@register.claim(
    "trainings.sgd.order",
    source="Section 5 (SGD); the comparison is ours",
    statement="Under SGD, coordinates become active in the order of gradient flow, even with small batches.",
    measure="share of problems in which at least {share} of the pairs of coordinates that become active in both runs do"
    " so in the same order, at the smallest batch and α of the study; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not. A tenth of the pairs may change places: some stages follow each other closely.",
    tables=["events"],
    data="events, diagonal weights, methods flow and sgd",
)
def sgd_order(events, *, variants: dict, share: Share = 0.9):
    """Pairs of coordinates keep their order."""
    orders = _by_run(events[events["direction"] > 0], lambda rows: list(_places(rows.sort_values("order"))))
    shares = _by_batch(orders, variants, lambda run, flow: _concordance(run, flow))
    right = {seed: found >= share for seed, found in shares[min(shares)].items()}
    return _share(right, "median share of pairs in order: " + _medians(_of_batches(shares)))


def _places(rows):
    """Coordinates in the order of their first activation."""
    return dict.fromkeys(rows[["product", "index"]].itertuples(index=False, name=None))


def _concordance(one, other):
    """Share of pairs of the entries that both lists have that stand in the same order in both."""
    places = [one.index(entry) for entry in other if entry in one]
    upper = np.triu_indices(len(places), 1)
    return np.mean(np.less.outer(places, places)[upper]) if len(places) > 1 else np.nan


@register.claim(
    "trainings.sgd.stages",
    source="Section 5 (SGD); the comparison is ours",
    statement="Under SGD, the loss keeps its stages, even with small batches.",
    measure="share of problems in which the mean distance of the loss, over rescaled time, to the staircase of"
    " Algorithm 1 is at most twice that of gradient flow at the same α, at the smallest batch and α; lower end of the"
    " interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not. Twice: the noise of the batches may take the loss as far from the staircase as a"
    " finite α does.",
    tables=["losses", "stages"],
    data="losses and stages, diagonal weights, methods flow and sgd",
)
def sgd_stages(losses, stages, *, variants: dict):
    """The loss is about as close to the staircase as that of the flow."""
    curves = _by_run(losses, lambda rows: rows.sort_values("rescaled_time")[["rescaled_time", "loss"]].to_numpy().T)
    stairs = dict(list(stages.groupby(["variant", "seed"], observed=True)))
    distances = {}
    for variant, flow in _pairs(variants, "sgd", "diagonal"):
        for (name, alpha, seed), (time, loss) in curves.items():
            if name in (variant, flow) and (flow, seed) in stairs:
                limit = Staircase.of(stairs[flow, seed], loss[0])
                distances[name, alpha, seed] = limit.distance(time, loss) / np.ptp(time)
    shares = _by_batch(distances, variants, lambda run, flow: run / flow)
    right = {seed: found <= 2 for seed, found in shares[min(shares)].items()}
    return _share(right, "median ratio of the distances: " + _medians(_of_batches(shares)))


def _by_batch(values, variants, compare):
    """{batch size: {seed: compare(value of SGD, value of the flow)}} at the smallest alpha that both have."""
    found = {}
    for variant, flow in _pairs(variants, "sgd", "diagonal"):
        for seed, (run, of_flow) in _at_smallest_alpha(values, variant, flow).items():
            found.setdefault(variants[variant]["batch_size"], {})[seed] = compare(run, of_flow)
    if not found:
        raise NotTested("runs by SGD and gradient flow of the same problems")
    return found


def _of_batches(shares):
    return {f"batches of {size}": list(shares[size].values()) for size in sorted(shares)}


@register.claim(
    "trainings.adam.together",
    source="not in the paper",
    statement="Under Adam, entries of the products no longer become active one at a time.",
    measure="share of problems in which the part of the entries that pass {active} alone, when all that have not passed"
    " it yet are at least ten times smaller, is less than half of that under gradient flow, at the smallest α that both"
    " have; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not.",
    tables=["trajectory"],
    data="trajectory, diagonal weights, methods flow and adam",
    method="adam",
    weights="diagonal",
)
@register.claim(
    "trainings.sign.together",
    source="not in the paper",
    statement="Under sign descent, entries of the products no longer become active one at a time.",
    measure="share of problems in which the part of the entries that pass {active} alone, when all that have not passed"
    " it yet are at least ten times smaller, is less than half of that under gradient flow, at the smallest α that both"
    " have; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not.",
    tables=["trajectory"],
    data="trajectory, diagonal weights, methods flow and sign",
    method="sign",
    weights="diagonal",
)
@register.claim(
    "trainings.muon.together",
    source="not in the paper",
    statement="Under Muon, entries of the products of diagonal weights no longer become active one at a time.",
    measure="share of problems in which the part of the entries that pass {active} alone, when all that have not passed"
    " it yet are at least ten times smaller, is less than half of that under gradient flow, at the smallest α that both"
    " have; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not.",
    tables=["trajectory"],
    data="trajectory, diagonal weights, methods flow and muon",
    method="muon",
    weights="diagonal",
)
@register.claim(
    "trainings.muon.full_together",
    source="not in the paper",
    statement="Under Muon, singular values of the products of full weights no longer become active one at a time.",
    measure="share of problems in which the part of the singular values that pass {active} alone, when all that have"
    " not passed it yet are at least ten times smaller, is less than half of that under gradient flow, at the"
    " smallest α that both have; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not.",
    tables=["trajectory"],
    data="trajectory, full weights, methods flow and muon",
    method="muon",
    weights="full",
)
def together(trajectory, *, variants: dict, active: Positive, method: Name, weights: Name):
    """Entries pass the threshold in a crowd."""
    parts, right = {}, {}
    alone = {key: share_alone(values, active) for key, (_, values) in _paths(trajectory).items()}
    for variant, flow in _pairs(variants, method, weights):
        for seed, (run, of_flow) in _at_smallest_alpha(alone, variant, flow).items():
            right[seed] = run < of_flow / 2
            parts.setdefault(method, []).append(run)
            parts.setdefault("flow", []).append(of_flow)
    if not right:
        raise NotTested(f"runs of {weights} weights by {method} and by gradient flow of the same problems")
    return _share(right, "median part that passes alone: " + _medians(parts))


def share_alone(values, active):
    """Part of the entries that pass `active` while all that have yet to pass it are at least ten times smaller.

    Parameters
    ----------
    values : array, shape (records, entries)
        Between two records they are interpolated linearly in their logarithms.
    active : float

    Returns
    -------
    float
        NaN if no entry passes.
    """
    logs = np.log(np.maximum(abs(values), 1e-300) / active)
    before, after = logs[:-1], logs[1:]
    passing, outcomes = (before <= 0) & (after > 0), []
    for entry in np.flatnonzero(passing.any(axis=0)):
        record = passing[:, entry].argmax()
        part = before[record, entry] / (before[record, entry] - after[record, entry])
        others = np.delete((1 - part) * before[record] + part * after[record], entry)
        outcomes.append(others[others <= 0].max(initial=-np.inf) <= np.log(0.1))
    return np.mean(outcomes) if outcomes else np.nan


@register.claim(
    "trainings.muon.stable_rank",
    source="not in the paper",
    statement="Under Muon, singular values of W_V W_Oᵀ of full weights grow together: at the same loss its stable rank"
    " is far higher than under gradient flow.",
    measure="share of problems in which the stable rank of W_V W_Oᵀ when the loss first has fallen halfway, from its"
    " start to the lowest that both runs reach, is at least twice that under gradient flow, at the smallest α that both"
    " have; lower end of the interval",
    relation=">=",
    threshold=0.5,
    reason="More often than not. Far higher is twice, which a figure shows at a glance.",
    tables=["trajectory", "losses"],
    data="trajectory and losses, full weights, methods flow and muon",
)
def muon_stable_rank(trajectory, losses, *, variants: dict):
    """Half-way down, the product has a higher stable rank."""
    paths = _paths(trajectory[trajectory["product"] == "VO"])
    curves = _by_run(losses, lambda rows: rows.sort_values("rescaled_time")["loss"].to_numpy())
    both = {key: (values, curves[key]) for key, (_, values) in paths.items() if key in curves}
    ranks, right = {}, {}
    for variant, flow in _pairs(variants, "muon", "full"):
        for seed, pair in _at_smallest_alpha(both, variant, flow).items():
            halfway = (pair[1][1][0] + max(loss.min() for _, loss in pair)) / 2
            muon, of_flow = (_stable_rank_at(values, loss, halfway) for values, loss in pair)
            right[seed] = muon >= 2 * of_flow
            ranks.setdefault("muon", []).append(muon)
            ranks.setdefault("flow", []).append(of_flow)
    if not right:
        raise NotTested("runs of full weights by muon and by gradient flow of the same problems")
    return _share(right, "median stable rank: " + _medians(ranks))


def _stable_rank_at(values, loss, level):
    """Stable rank of singular values, shape (records, dim), at the first record whose loss is at most `level`."""
    squares = values[(loss <= level).argmax()] ** 2
    return squares.sum() / squares.max()


def _pairs(variants, method, weights):
    """Pairs of a variant trained by `method` and the variant of the same problems under gradient flow."""
    problems = {
        name: {key: value for key, value in settings.items() if key not in OF_TRAINING}
        for name, settings in variants.items()
        if settings["weights"] == weights
    }
    flows = [name for name in problems if variants[name]["method"] == "flow"]
    for name in problems:
        if variants[name]["method"] == method:
            yield from ((name, flow) for flow in flows if problems[flow] == problems[name])


def _by_run(rows, measure):
    """{(variant, alpha, seed): measure(rows of the run)}."""
    keys = [rows[key].astype(str) for key in ("variant", "alpha")]
    return {(*key, int(seed)): measure(run) for (*key, seed), run in rows.groupby([*keys, rows["seed"]])}


def _paths(trajectory):
    """Records of each run: {(variant, alpha, seed): (rescaled times, values of shape (records, entries))}."""

    def path(rows):
        values = rows.pivot(index="rescaled_time", columns=COORDINATE, values="value")
        return values.index.to_numpy(), values.to_numpy()

    return _by_run(trajectory.astype({"product": str}), path)


def _at_smallest_alpha(values, variant, flow):
    """{seed: (value of a variant, value of the flow)} at the smallest init scale that both have."""
    shared = {(alpha, seed) for name, alpha, seed in values if name == variant and (flow, alpha, seed) in values}
    if not shared:
        return {}
    smallest = sort_alphas(alpha for alpha, _ in shared)[-1]
    return {
        seed: (values[variant, smallest, seed], values[flow, smallest, seed])
        for alpha, seed in sorted(shared, key=lambda run: run[1])
        if alpha == smallest
    }


def _share(right, details):
    """Value, n and details of a claim about a share of problems; `right` is {seed: whether it holds}."""
    if len(right) < ENOUGH:
        raise NotTested(f"{ENOUGH} problems ({len(right)} here)")
    holds = int(sum(right.values()))
    return lower_end(right.values()), f"{holds} of {len(right)} problems", details


def _medians(values):
    """In words, from {label: numbers}."""
    return ", ".join(f"{np.median(numbers):.3g} ({label})" for label, numbers in values.items())
