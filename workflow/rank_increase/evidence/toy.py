"""Claims about the toy models: Theorem 4.5 and its assumptions, Lemma 4.1, and Figures 2 and 6 to 10 of the paper.

A problem is a seed: its data, teacher and theta_0. The worst problem counts. Claims about the limit alpha -> 0 are
tested at the smallest init scales of the study, on the problems that were run there.

Thresholds are orders of magnitude, halves or conventions. They follow from the wording of a claim, not from results.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested
from rank_increase.notation import alpha_label, log_alpha, sort_alphas
from rank_increase.options import Name, Positive, Share
from rank_increase.registry import register
from rank_increase.toy.theorem import mid_stage_times
from rank_increase.toy.windows import Window


@register.claim(
    "toy.loss_plateaus",
    source="Section 4.1.1, Figure 6",
    statement="Plateaus of the loss take up an ever larger share of rescaled time as α falls.",
    measure="share of rescaled time in which the loss falls at less than {slow} of its mean rate over the run; the"
    " smallest increase from one α to the next smaller one, over problems",
    relation=">",
    threshold=0,
    reason='"Ever larger" is an increase, above 0. A plateau is where the loss falls at less than {slow} of its mean'
    " rate: an order of magnitude below average is what an eye takes for flat.",
    tables=["losses"],
    data="losses, variant diagonal",
    slow=0.1,
)
def loss_plateaus(losses, *, slow: Share):
    """The loss is almost constant for an ever larger share of rescaled time as alpha falls."""

    def share(run):
        time, loss = loss_curve(run)
        return _share(time, -np.diff(loss) / np.diff(time) < slow * (loss[0] - loss[-1]) / (time[-1] - time[0]))

    return _grows_as_alpha_falls(losses, share)


@register.claim(
    "toy.weight_plateaus",
    source="Section 4.1.1, Figures 7 and 8",
    statement="Plateaus of the weights take up an ever larger share of rescaled time as α falls.",
    measure="share of rescaled time in which no entry of the products moves faster than {speed} per unit; the"
    " smallest increase from one α to the next smaller one, over problems",
    relation=">",
    threshold=0,
    reason='"Ever larger" is an increase, above 0. The speed is the bound for a plateau in Figure 9: how far'
    " a product may move there, over the length of a window.",
    tables=["trajectory"],
    data="trajectory, variant diagonal",
)
def product_plateaus(trajectory, *, speed: Positive):
    """All products are almost at rest for an ever larger share of rescaled time as alpha falls."""

    def share(run):
        values = run.pivot(index="rescaled_time", columns=["product", "index"], values="value")
        time = values.index.to_numpy()
        return _share(time, np.abs(np.diff(values.to_numpy(), axis=0)).max(axis=1) / np.diff(time) <= speed)

    return _grows_as_alpha_falls(trajectory, share)


def _share(time, marked):
    """Share of the time in the `marked` intervals between records."""
    return np.diff(time)[marked].sum() / (time[-1] - time[0])


def _grows_as_alpha_falls(rows, measure):
    by_problem = {
        seed: {alpha: measure(runs[alpha]) for alpha in runs}
        for seed, runs in _problems(_diagonal(rows)).items()
        if len(runs) > 1
    }
    if not by_problem:
        raise NotTested("two init scales of a problem with diagonal weights, by gradient flow")
    value = min(np.diff(list(shares.values())).min() for shares in by_problem.values())
    return value, _count_problems(by_problem), _by_alpha(by_problem)


@register.claim(
    "toy.neighbours",
    source="Appendix A, Figure 6",
    statement="As α falls, loss curves over rescaled time of neighbouring α come ever closer to each other.",
    measure="mean over rescaled time of the difference between the loss curves of one α and the next smaller;"
    " the largest ratio of such a difference to the one before, over problems. Neighbours further apart in ln(1/α)"
    " than those before have more way to go",
    relation="<",
    threshold=1,
    reason='"Ever closer": each difference is below the one before.',
    tables=["losses"],
    data="losses, variant diagonal",
)
def neighbours_approach(losses):
    """Loss curves of neighbouring alphas come ever closer."""
    return _curves_approach(losses, lambda alphas: zip(alphas, alphas[1:], strict=False))


@register.claim(
    "toy.one_limit",
    source="Appendix A, Figure 6",
    statement="As α falls, loss curves over rescaled time approach one limit.",
    measure="mean over rescaled time of the difference between the loss curve of one α and that of the smallest α"
    " of the problem; the largest ratio of such a difference to that of the next larger α, over problems",
    relation="<",
    threshold=1,
    reason='"Approach": each difference is below the one before.',
    tables=["losses"],
    data="losses, variant diagonal",
)
def one_limit(losses):
    """Loss curves come ever closer to that of the smallest alpha."""
    return _curves_approach(losses, lambda alphas: ((alpha, alphas[-1]) for alpha in alphas[:-1]))


def _curves_approach(losses, pairs):
    problems = _problems(_diagonal(losses))
    distances, runs = {}, {seed: of_seed for seed, of_seed in problems.items() if len(of_seed) > 2}
    for seed, of_seed in runs.items():
        curves = {alpha: loss_curve(run) for alpha, run in of_seed.items()}
        distances[seed] = {f"{a} to {b}": _curve_distance(curves[a], curves[b]) for a, b in pairs(list(curves))}
    if not distances:
        raise NotTested("three init scales of a problem with diagonal weights, by gradient flow")
    value = max(_largest_ratio(list(of_problem.values())) for of_problem in distances.values())
    return value, _count_problems(runs), _by_alpha(distances)


def loss_curve(run):
    """Rescaled times of a run, ascending, and its loss at them."""
    run = run.sort_values("rescaled_time")
    return run["rescaled_time"].to_numpy(), run["loss"].to_numpy()


def _curve_distance(one, other):
    time = np.union1d(one[0], other[0])
    difference = np.abs(np.interp(time, *one) - np.interp(time, *other))
    return np.trapezoid(difference, time) / (time[-1] - time[0])


def _largest_ratio(values):
    """Largest ratio of a value to the one before it; zero after zero counts as no growth."""
    return max(
        after / before if before else after and np.inf for before, after in zip(values, values[1:], strict=False)
    )


@register.claim(
    "theorem.stage_times",
    source="Theorem 4.5",
    statement="Stage times are T_k + C_k / ln(1/α): they approach those of Algorithm 1 at this rate.",
    measure="slope of log median |T - T_k|, over stages, against log ln(1/α), by least squares"
    " over the α at which at least half of the stages occur; its largest distance from -1, over problems",
    relation="<",
    threshold=0.5,
    reason="Half of the way from a slope of -1 to the next whole powers, 0 and -2, which would be other laws.",
    tables=["theorem"],
)
def stage_times(theorem):
    """The delay of stages behind their predicted times falls like 1 / ln(1/alpha)."""
    theorem = _diagonal(theorem)
    slopes, runs = {}, {}
    for seed, rows in theorem.groupby("seed"):
        delays = (rows["measured_time"] - rows["predicted_time"]).abs().groupby(rows["alpha"])
        medians = delays.median()[delays.count() >= delays.size() / 2]
        medians = medians[medians > 0]
        if len(medians) > 1:
            logs = [np.log(-log_alpha(alpha)) for alpha in medians.index]
            slopes[seed], runs[seed] = np.polyfit(logs, np.log(medians.to_numpy(float)), 1)[0], medians.index
    if not slopes:
        raise NotTested("Algorithm 1 and two init scales of a problem")
    value = max(abs(slope + 1) for slope in slopes.values())
    return value, _count_problems(runs), _each(slopes, "seed {}: slope {:.3f}")


@register.claim(
    "theorem.constant_delay",
    source="Theorem 4.5",
    statement="The constant C_k of a stage does not depend on α once α is small.",
    measure="C_k = (T - T_k) ln(1/α): median over stages of its difference between the two smallest α of the study,"
    " over the median of |C_k| at the smallest; the largest over problems run at both",
    relation="<",
    threshold=0.1,
    reason="An order of magnitude: C_k may differ between the two scales by less than a tenth of it.",
    tables=["theorem"],
)
def constant_delay(theorem):
    """C_k of a stage is the same at the two smallest alphas."""
    theorem = _diagonal(theorem)
    delays = theorem.dropna(subset="scaled_delay")
    alphas = sort_alphas(delays["alpha"])[-2:]
    spreads, stages = {}, 0
    for seed, rows in delays[delays["alpha"].isin(alphas)].groupby("seed"):
        both = rows.pivot(index="stage", columns="alpha", values="scaled_delay").dropna()
        scale = both[alphas[-1]].abs().median() if both.shape[1] == 2 and len(both) else 0
        if scale > 0:
            spreads[seed] = (both[alphas[0]] - both[alphas[1]]).abs().median() / scale
            stages += len(both)
    if not spreads:
        raise NotTested("Algorithm 1 and the two smallest init scales of a problem")
    scales = " and ".join(alpha_label(alpha) for alpha in alphas)
    return (
        max(spreads.values()),
        f"{stages} stages of {_problem_list(spreads)}, {scales}",
        _each(spreads, "seed {}: {:.3g}"),
    )


@register.claim(
    "theorem.order",
    source="Theorem 4.5, Algorithm 1",
    statement="For small α, coordinates become active in the order that Algorithm 1 predicts.",
    measure="share of the stages, counted from the first to the last before an exchange, that come in the predicted"
    " order at the smallest α of the study; the smallest over problems",
    relation=">=",
    threshold=1,
    reason="All stages come in this order.",
    tables=["theorem"],
)
def stage_order(theorem):
    """At the smallest alpha, stages come in the order of Algorithm 1."""
    theorem = _diagonal(theorem)
    if theorem.empty:
        raise NotTested("Algorithm 1 and a run with diagonal weights")
    rows = theorem.sort_values("stage")
    in_order = (rows["measured_order"] == rows["stage"]).groupby([rows["alpha"], rows["seed"]])
    shares = in_order.apply(lambda right: right.cummin().mean())
    return _at_smallest_alpha(shares, min, theorem)


@register.claim(
    "theorem.distance",
    source="Theorem 4.5",
    statement="At a time within stage k, the weights approach θ_k of Algorithm 1 as α falls.",
    measure="largest difference of the products to those of θ_k, in the middle of the predicted stage, median over"
    " stages; the largest ratio of one α to the next larger one, over problems",
    relation="<",
    threshold=1,
    reason='"Approach": each distance is below the one before.',
    tables=["theorem"],
)
def distance_falls(theorem):
    """The distance to theta_k in the middle of stage k falls with alpha."""
    theorem = _diagonal(theorem)
    medians = {}
    for seed, rows in theorem.groupby("seed"):
        by_alpha = rows.groupby("alpha")["distance"].median()
        if len(by_alpha) > 1:
            medians[seed] = {alpha: by_alpha[alpha] for alpha in sort_alphas(by_alpha.index)}
    if not medians:
        raise NotTested("Algorithm 1 and two init scales of a problem")
    value = max(_largest_ratio(list(of_problem.values())) for of_problem in medians.values())
    return value, _count_problems(medians), _by_alpha(medians)


@register.claim(
    "theorem.one_coordinate",
    source="Theorem 4.5",
    statement="In each stage the support grows by at most one coordinate, if α is small.",
    measure="coordinates that become active between the middles of two successive predicted stages, at the smallest"
    " α of the study; the largest over stages and problems",
    relation="<=",
    threshold=1,
    reason='"At most one", as the claim says.',
    tables=["events", "stages"],
    data="events, variant diagonal; stages",
)
def one_coordinate(events, stages, *, max_time: Positive):
    """At the smallest alpha, at most one coordinate becomes active in a stage."""
    stages = _diagonal(stages)
    activations = _diagonal(events[events["direction"] > 0])
    middles = {seed: mid_stage_times(rows.sort_values("stage"), max_time) for seed, rows in stages.groupby("seed")}
    activations = activations[activations["seed"].isin(middles)]
    if activations.empty:
        raise NotTested("Algorithm 1 and a run with diagonal weights in which a coordinate becomes active")
    groups = activations.groupby(["alpha", "seed"], observed=True)["rescaled_time"]
    counts = {(alpha, seed): np.histogram(times, np.r_[-np.inf, middles[seed]])[0] for (alpha, seed), times in groups}
    smallest = sort_alphas(alpha for alpha, _ in counts)[-1]
    tested = {seed: count for (alpha, seed), count in counts.items() if alpha == smallest}
    shares = {run: (count <= 1).mean() for run, count in counts.items()}
    crowded = np.concatenate([nearest_stage(stages[stages["seed"] == seed])[tested[seed] > 1] for seed in tested])
    nearest = f"; those with more have another predicted within {crowded.max():.2g}" if len(crowded) else ""
    stages_tested = sum(len(count) for count in tested.values())
    return (
        max(count.max() for count in tested.values()),
        f"{stages_tested} stages of {_problem_list(tested)}, {alpha_label(smallest)}",
        f"share of stages with one at most: {_by_alpha(_nested(shares))}{nearest}",
    )


def nearest_stage(stages):
    """Rescaled time from each stage of a problem to the nearest other one, as predicted."""
    gaps = np.diff(stages.sort_values("stage")["predicted_time"])
    return np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))


@register.claim(
    "assumption_4_2.unique",
    source="Assumption 4.2",
    statement="In each stage one coordinate alone becomes active first.",
    measure="how much longer the second coordinate would have waited, in rescaled time; the smallest over stages"
    " and problems",
    relation=">",
    threshold=1e-6,
    reason="What must not be zero is far above rounding, 1e-16, and the tolerances of Algorithm 1, and far below"
    " anything that would matter.",
    tables=["stages"],
)
def unique_winner(stages):
    """No two coordinates wait equally long."""
    stages = _diagonal(stages)
    gaps = stages["gap_to_next"].dropna()
    if gaps.empty:
        raise NotTested("Algorithm 1")
    return gaps.min(), f"{len(gaps)} stages of {_problem_list(stages['seed'])}"


@register.claim(
    "assumption_4_2.support",
    source="Assumption 4.2, Appendix A",
    statement="No coordinate ever leaves the support of θ_k.",
    measure="coordinates that leave it in Algorithm 1, sum over stages and problems",
    relation="==",
    threshold=0,
    reason='"Ever": not one.',
    tables=["stages", "events"],
    data="stages; in the details events, variant diagonal",
)
def support_kept(stages, events):
    """No coordinate leaves the support."""
    stages = _diagonal(stages)
    if stages.empty:
        raise NotTested("Algorithm 1")
    runs = _diagonal(events)
    departures = (runs["direction"] < 0).groupby([runs["alpha"].astype(str), runs["seed"]]).sum()
    return (
        stages["deactivated"].sum(),
        f"{len(stages)} stages of {_problem_list(stages['seed'])}",
        f"departures of coordinates in the trained runs: {_by_alpha(_nested(departures.to_dict()))}",
    )


@register.claim(
    "assumption_4_3.minima",
    source="Assumption 4.3",
    statement="Each θ_k is a strict local minimum of the loss on its support.",
    measure="least eigenvalue of the Hessian in u on the support; the smallest over stages and problems",
    relation=">",
    threshold=1e-6,
    reason="What must not be zero is far above rounding, 1e-16, and the tolerances of Algorithm 1, and far below"
    " anything that would matter.",
    tables=["stages"],
)
def strict_minima(stages):
    """Each theta_k is a strict local minimum on its support."""
    stages = _diagonal(stages)
    if stages.empty:
        raise NotTested("Algorithm 1")
    return stages["curvature"].min(), f"{len(stages)} stages of {_problem_list(stages['seed'])}"


@register.claim(
    "assumption_4_3.support",
    source="Assumption 4.3, Figure 9",
    statement="After a perturbation on a plateau, training returns to it (noise on active weights alone,"
    " as in the assumption).",
    measure="distance to the unperturbed path at the end of the window over that at its start; the largest over the"
    " windows in which the unperturbed path moves by at most {movement} in the window (is on a plateau)",
    relation="<=",
    threshold=0.1,
    reason="An order of magnitude: a path has come back when at most a tenth of its distance is left.",
    tables=["perturbations"],
    data="perturbations, plateaus, noise on support",
    noise_on="support",
)
@register.claim(
    "assumption_4_3.paper_test",
    source="Assumption 4.3, Figure 9",
    statement="After a perturbation on a plateau, training returns to it (noise on all nonnegligible"
    " weights, as in the paper's test).",
    measure="distance to the unperturbed path at the end of the window over that at its start; the largest over the"
    " windows in which the unperturbed path moves by at most {movement} in the window (is on a plateau)",
    relation="<=",
    threshold=0.1,
    reason="An order of magnitude: a path has come back when at most a tenth of its distance is left.",
    tables=["perturbations"],
    data="perturbations, plateaus, noise on nonnegligible",
    noise_on="nonnegligible",
)
def plateaus_return(perturbations, *, noise_on: Name, movement: Positive):
    """Paths perturbed on a plateau return to the unperturbed path."""
    return _windows_return(
        _windows(perturbations, "plateaus", noise_on),
        lambda window: window.movement <= movement,
        f"moves by at most {movement} in the window (is on a plateau)",
    )


@register.claim(
    "assumption_4_4.support",
    source="Assumption 4.4, Figure 10",
    statement="After a perturbation at an activation, training ends where it would have (noise on active weights alone,"
    " as in the assumption).",
    measure="distance to the unperturbed path at the end of the window over that at its start; the largest over the"
    " windows in which the unperturbed path is at rest when the window ends, slower than {speed}",
    relation="<=",
    threshold=0.1,
    reason="An order of magnitude: a path has come back when at most a tenth of its distance is left.",
    tables=["perturbations"],
    data="perturbations, activations, noise on support",
    noise_on="support",
)
@register.claim(
    "assumption_4_4.paper_test",
    source="Assumption 4.4, Figure 10",
    statement="After a perturbation at an activation, training ends where it would have (noise on all nonnegligible"
    " weights, as in the paper's test).",
    measure="distance to the unperturbed path at the end of the window over that at its start; the largest over the"
    " windows in which the unperturbed path is at rest when the window ends, slower than {speed}",
    relation="<=",
    threshold=0.1,
    reason="An order of magnitude: a path has come back when at most a tenth of its distance is left.",
    tables=["perturbations"],
    data="perturbations, activations, noise on nonnegligible",
    noise_on="nonnegligible",
)
def activations_return(perturbations, *, noise_on: Name, speed: Positive):
    """Paths perturbed at an activation return to the unperturbed path."""
    return _windows_return(
        _windows(perturbations, "activations", noise_on),
        lambda window: window.final_speed <= speed,
        f"is at rest when the window ends, slower than {speed:.2g}",
    )


def _windows(perturbations, assumption, noise_on):
    """Windows of the table "perturbations": a dict (seed, run) -> Window."""
    chosen = (perturbations["assumption"] == assumption) & (perturbations["noise_on"] == noise_on)
    return {run: Window.of(rows) for run, rows in perturbations[chosen].groupby(["seed", "run"])}


def _windows_return(windows, usable, qualifier):
    """The largest ratio over the windows that can show a return: those for which `usable` is true."""
    if not windows:
        raise NotTested("perturbation runs")
    tested = [window.ratio for window in windows.values() if usable(window) and not np.isnan(window.ratio)]
    rest = [window.ratio for window in windows.values() if not usable(window) or np.isnan(window.ratio)]
    details = f"ratios of the windows that count: {_numbers(tested)}; of those that do not: {_numbers(rest)}"
    if not tested:
        raise NotTested(f"a window in which the unperturbed path {qualifier}; {details}")
    problems = _problem_list(seed for seed, _ in windows)
    return max(tested), f"{len(tested)} of {len(windows)} windows of {problems}; {len(rest)} not tested", details


@register.claim(
    "lemma_4_1.flow",
    source="Lemma 4.1 (its form for full weights)",
    statement="Gradient flow conserves u² - v²; with full weights, W_KᵀW_K - W_QᵀW_Q and W_VᵀW_V - W_OᵀW_O.",
    measure="change of this matrix since the start over its size at the start, in Frobenius norms; the largest over"
    " time, products and runs. Diagonal weights say nothing: their flow is solved in coordinates that conserve u² - v²"
    " by construction",
    relation="<",
    threshold=0.1,
    reason="Ten tolerances of the solver (`toy.full_flow_tolerance`), whose errors add up over the steps; what is not"
    " conserved drifts by a share of order 1.",
    tables=["conservation"],
    data="conservation, variants with full weights",
)
def flow_conserves(conservation):
    """Full weights under gradient flow keep W_K^T W_K - W_Q^T W_Q, of which Lemma 4.1 is the diagonal case."""
    return _largest_drift(conservation[conservation["method"] == "flow"], "gradient flow of full weights")


@register.claim(
    "lemma_4_1.descent",
    source="Lemma 4.1, Section 5",
    statement="Gradient descent at a finite step still conserves u² - v² well.",
    measure="change of u² - v² since the start over its norm at the start, both as vectors over coordinates; the"
    " largest over time, products and runs of GD and SGD",
    relation="<",
    threshold=0.1,
    reason="An order of magnitude: it is conserved well if it drifts by less than a tenth.",
    tables=["conservation"],
    data="conservation, variants trained by GD or SGD",
)
def descent_conserves(conservation):
    """Gradient descent keeps u^2 - v^2 up to a part of its initial value."""
    rows = conservation[conservation["method"].isin(["gd", "sgd"])]
    return _largest_drift(rows, "a run by gradient descent")


def _largest_drift(rows, missing):
    if rows.empty:
        raise NotTested(missing)
    keys = [rows[key].astype(str) for key in ("variant", "alpha", "seed")]
    drifts = (rows["change"] / rows["initial"]).groupby(keys).max()
    details = "; ".join(f"{v}, {alpha_label(a)}, seed {seed}: {drift:.3g}" for (v, a, seed), drift in drifts.items())
    return drifts.max(), f"{len(drifts)} runs of {_problem_list(rows['seed'])}", details


def _diagonal(rows):
    """Rows of the runs with diagonal weights under gradient flow."""
    return rows[rows["variant"] == "diagonal"]


def _problems(rows):
    """Runs by problem and init scale, from largest to smallest scale: {seed: {alpha: rows}}."""
    return {
        seed: {alpha: of_problem[of_problem["alpha"] == alpha] for alpha in sort_alphas(of_problem["alpha"])}
        for seed, of_problem in rows.groupby("seed")
    }


def _at_smallest_alpha(values, worst, theorem):
    """The worst of `values`, which are indexed by alpha and seed, at the smallest alpha."""
    smallest = sort_alphas(values.index.get_level_values("alpha"))[-1]
    tested = values[smallest]
    rows = theorem[(theorem["alpha"] == smallest)]
    n = f"{len(rows)} stages of {_problem_list(tested.index)}, {alpha_label(smallest)}"
    return worst(tested), n, _by_alpha(_nested(values.to_dict()))


def _nested(values):
    """{(alpha, seed): value} as {seed: {alpha: value}}, with seeds ascending and init scales descending."""
    seeds = sorted({seed for _, seed in values})
    return {
        seed: {alpha: values[alpha, seed] for alpha in sort_alphas(a for a, s in values if s == seed)} for seed in seeds
    }


def _problem_list(seeds):
    seeds = sorted(set(seeds))
    return f"{len(seeds)} problem{'s' if len(seeds) > 1 else ''} (seed {', '.join(map(str, seeds))})"


def _count_problems(runs):
    """The number of problems and init scales, in words; `runs` is a dict seed -> one entry for each init scale."""
    counts = ", ".join(f"{len(of_problem)} init scales of seed {seed}" for seed, of_problem in runs.items())
    return f"{len(runs)} problem{'s' if len(runs) > 1 else ''} ({counts})"


def _by_alpha(values):
    """In words, from {seed: {alpha: value}}."""
    parts = []
    for seed, of_problem in values.items():
        parts.append(f"seed {seed}: " + ", ".join(f"{value:.3g} ({alpha})" for alpha, value in of_problem.items()))
    return "; ".join(parts)


def _each(values, pattern):
    return "; ".join(pattern.format(*item) for item in values.items())


def _numbers(values):
    return ", ".join(f"{value:.2g}" for value in sorted(values)) or "none"
