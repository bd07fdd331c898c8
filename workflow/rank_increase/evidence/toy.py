"""Claims about the toy models: Theorem 4.5 and its assumptions, Lemma 4.1, and Figures 2 and 6 to 10 of the paper.

A problem is a seed: its data, teacher and theta_0. Over problems the worst value counts. Claims about the limit
alpha -> 0 are tested at the smallest init scales of the study, on the problems that were run there.
"""

import numpy as np

from rank_increase.evidence.claim import Claim
from rank_increase.notation import alpha_label, log_alpha, sort_alphas
from rank_increase.toy.theorem import mid_stage_times
from rank_increase.toy.windows import Window

TABLES = ("trajectory", "events", "stages", "theorem", "perturbations", "conservation")


def toy_claims(tables, thresholds, *, active, max_time, movement, speed):
    """The claims about the toy models, each tested or said not to be.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        The `TABLES` of the study, without rows where there was no run.
    thresholds : dict
        `claims` in the configuration.
    active : float
        A product is active above it.
    max_time : float
        End of the toy runs, rescaled.
    movement : float
        Largest movement of a product within a perturbation window on a plateau.
    speed : float
        Largest speed of a product at rest, per unit of rescaled time.

    Returns
    -------
    list of Claim
    """
    trajectory, events, stages, theorem = (tables[name] for name in ("trajectory", "events", "stages", "theorem"))
    windows = perturbation_windows(tables["perturbations"])
    flows = trajectory[trajectory["structure"] == "diagonal"]
    return [
        loss_plateaus(flows, thresholds),
        product_plateaus(flows, speed),
        neighbours_approach(flows),
        one_limit(flows),
        stage_times(theorem, thresholds),
        constant_delay(theorem, thresholds),
        stage_order(theorem),
        distance_falls(theorem),
        one_coordinate(events, stages, max_time),
        unique_winner(stages, thresholds),
        support_kept(stages, events),
        strict_minima(stages, thresholds),
        *(
            windows_return(windows, assumption, noise_on, thresholds, movement, speed)
            for assumption in ("plateaus", "activations")
            for noise_on in ("support", "nonnegligible")
        ),
        flow_conserves(tables["conservation"], thresholds),
        descent_conserves(tables["conservation"], thresholds),
        *(one_at_a_time(trajectory, structure, active, thresholds) for structure in _STRUCTURES),
    ]


def loss_plateaus(flows, thresholds):
    """The loss is almost constant for an ever larger share of rescaled time as alpha falls."""
    slow = thresholds["slow_loss"]
    claim = Claim(
        id="toy.loss_plateaus",
        source="Section 4.1.1, Figure 6",
        statement="Plateaus of the loss take up an ever larger share of rescaled time as α falls.",
        measure=f"share of rescaled time in which the loss falls at less than {slow} of its mean rate over the run; the"
        " smallest increase from one α to the next smaller one, over problems",
        relation=">",
        threshold=0,
        data="trajectory, structure diagonal",
    )

    def share(run):
        time, loss = loss_curve(run)
        return _share(time, -np.diff(loss) / np.diff(time) < slow * (loss[0] - loss[-1]) / (time[-1] - time[0]))

    return _grows_as_alpha_falls(claim, flows, share)


def product_plateaus(flows, speed):
    """All products are almost at rest for an ever larger share of rescaled time as alpha falls."""
    claim = Claim(
        id="toy.weight_plateaus",
        source="Section 4.1.1, Figures 7 and 8",
        statement="Plateaus of the weights take up an ever larger share of rescaled time as α falls.",
        measure=f"share of rescaled time in which no entry of the products moves faster than {speed:.2g} per unit; the"
        " smallest increase from one α to the next smaller one, over problems",
        relation=">",
        threshold=0,
        data="trajectory, structure diagonal",
    )

    def share(run):
        values = run.pivot(index="rescaled_time", columns=["product", "index"], values="value")
        time = values.index.to_numpy()
        return _share(time, np.abs(np.diff(values.to_numpy(), axis=0)).max(axis=1) / np.diff(time) <= speed)

    return _grows_as_alpha_falls(claim, flows, share)


def _share(time, marked):
    """Share of the time that lies in the `marked` intervals between two records."""
    return np.diff(time)[marked].sum() / (time[-1] - time[0])


def _grows_as_alpha_falls(claim, flows, measure):
    by_problem = {
        seed: {alpha: measure(runs[alpha]) for alpha in runs}
        for seed, runs in _problems(flows).items()
        if len(runs) > 1
    }
    if not by_problem:
        return claim.untested("two init scales of a problem with diagonal weights, by gradient flow")
    value = min(np.diff(list(shares.values())).min() for shares in by_problem.values())
    return claim.tested(value, _count_problems(by_problem), _by_alpha(by_problem))


def neighbours_approach(flows):
    """Loss curves of neighbouring alphas come closer and closer."""
    claim = Claim(
        id="toy.neighbours",
        source="Appendix A, Figure 6",
        statement="As α falls, loss curves over rescaled time of neighbouring α come ever closer to each other.",
        measure="mean over rescaled time of the difference between the loss curves of one α and the next smaller;"
        " the largest ratio of such a difference to the one before, over problems. Neighbours further apart in ln(1/α)"
        " than those before have more way to go",
        relation="<",
        threshold=1,
        data="trajectory, structure diagonal",
    )
    return _curves_approach(claim, flows, lambda alphas: zip(alphas, alphas[1:], strict=False))


def one_limit(flows):
    """Loss curves come closer and closer to that of the smallest alpha."""
    claim = Claim(
        id="toy.one_limit",
        source="Appendix A, Figure 6",
        statement="As α falls, loss curves over rescaled time approach one limit.",
        measure="mean over rescaled time of the difference between the loss curve of one α and that of the smallest α"
        " of the problem; the largest ratio of such a difference to that of the next larger α, over problems",
        relation="<",
        threshold=1,
        data="trajectory, structure diagonal",
    )
    return _curves_approach(claim, flows, lambda alphas: ((alpha, alphas[-1]) for alpha in alphas[:-1]))


def _curves_approach(claim, flows, pairs):
    distances, runs = {}, {seed: of_seed for seed, of_seed in _problems(flows).items() if len(of_seed) > 2}
    for seed, of_seed in runs.items():
        curves = {alpha: loss_curve(run) for alpha, run in of_seed.items()}
        distances[seed] = {f"{a} to {b}": _curve_distance(curves[a], curves[b]) for a, b in pairs(list(curves))}
    if not distances:
        return claim.untested("three init scales of a problem with diagonal weights, by gradient flow")
    value = max(_largest_ratio(list(of_problem.values())) for of_problem in distances.values())
    return claim.tested(value, _count_problems(runs), _by_alpha(distances))


def loss_curve(run):
    """Rescaled times of a run, ascending, and its loss at them."""
    first = run.groupby("rescaled_time")["loss"].first()  # the loss is repeated for every coordinate
    return first.index.to_numpy(), first.to_numpy()


def _curve_distance(one, other):
    time = np.union1d(one[0], other[0])
    difference = np.abs(np.interp(time, *one) - np.interp(time, *other))
    return np.trapezoid(difference, time) / (time[-1] - time[0])


def _largest_ratio(values):
    """Largest ratio of a value to the one before it; after zero, zero counts as no growth."""
    return max(
        after / before if before else after and np.inf for before, after in zip(values, values[1:], strict=False)
    )


def stage_times(theorem, thresholds):
    """The delay of stages behind their predicted times falls like 1 / ln(1/alpha)."""
    claim = Claim(
        id="theorem.stage_times",
        source="Theorem 4.5",
        statement="Stage times are T_k + C_k / ln(1/α): they approach those of Algorithm 1 at this rate.",
        measure="slope of log median |T - T_k|, over stages, against log ln(1/α), by least squares"
        " over the α at which at least half of the stages occur; its largest distance from -1, over problems",
        relation="<",
        threshold=thresholds["exponent_error"],
        data="theorem",
    )
    slopes, runs = {}, {}
    for seed, rows in theorem.groupby("seed"):
        delays = (rows["measured_time"] - rows["predicted_time"]).abs().groupby(rows["alpha"])
        medians = delays.median()[delays.count() >= delays.size() / 2]
        medians = medians[medians > 0]
        if len(medians) > 1:
            logs = [np.log(-log_alpha(alpha)) for alpha in medians.index]
            slopes[seed], runs[seed] = np.polyfit(logs, np.log(medians.to_numpy(float)), 1)[0], medians.index
    if not slopes:
        return claim.untested("Algorithm 1 and two init scales of a problem")
    value = max(abs(slope + 1) for slope in slopes.values())
    return claim.tested(value, _count_problems(runs), _each(slopes, "seed {}: slope {:.3f}"))


def constant_delay(theorem, thresholds):
    """C_k of a stage is the same at the two smallest alphas."""
    claim = Claim(
        id="theorem.constant_delay",
        source="Theorem 4.5",
        statement="The constant C_k of a stage does not depend on α once α is small.",
        measure="C_k = (T - T_k) ln(1/α): median over stages of its difference between the two smallest α of the study,"
        " over the median of |C_k| at the smallest; the largest over problems run at both",
        relation="<",
        threshold=thresholds["delay_spread"],
        data="theorem",
    )
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
        return claim.untested("Algorithm 1 and the two smallest init scales of a problem")
    scales = " and ".join(alpha_label(alpha) for alpha in alphas)
    return claim.tested(
        max(spreads.values()),
        f"{stages} stages of {_problem_list(spreads)}, {scales}",
        _each(spreads, "seed {}: {:.3g}"),
    )


def stage_order(theorem):
    """At the smallest alpha, stages come in the order of Algorithm 1."""
    claim = Claim(
        id="theorem.order",
        source="Theorem 4.5, Algorithm 1",
        statement="For small α, coordinates become active in the order that Algorithm 1 predicts.",
        measure="share of the stages, counted from the first to the last before an exchange, that come in the predicted"
        " order at the smallest α of the study; the smallest over problems",
        relation=">=",
        threshold=1,
        data="theorem",
    )
    if theorem.empty:
        return claim.untested("Algorithm 1 and a run with diagonal weights")
    rows = theorem.sort_values("stage")
    in_order = (rows["measured_order"] == rows["stage"]).groupby([rows["alpha"], rows["seed"]])
    shares = in_order.apply(lambda right: right.cummin().mean())
    return _at_smallest_alpha(claim, shares, min, theorem)


def distance_falls(theorem):
    """The distance to theta_k in the middle of stage k falls with alpha."""
    claim = Claim(
        id="theorem.distance",
        source="Theorem 4.5",
        statement="At a time within stage k, the weights approach θ_k of Algorithm 1 as α falls.",
        measure="largest difference of the products to those of θ_k, in the middle of the predicted stage, median over"
        " stages; the largest ratio of one α to the next larger one, over problems",
        relation="<",
        threshold=1,
        data="theorem",
    )
    medians = {}
    for seed, rows in theorem.groupby("seed"):
        by_alpha = rows.groupby("alpha")["distance"].median()
        if len(by_alpha) > 1:
            medians[seed] = {alpha: by_alpha[alpha] for alpha in sort_alphas(by_alpha.index)}
    if not medians:
        return claim.untested("Algorithm 1 and two init scales of a problem")
    value = max(_largest_ratio(list(of_problem.values())) for of_problem in medians.values())
    return claim.tested(value, _count_problems(medians), _by_alpha(medians))


def one_coordinate(events, stages, max_time):
    """At the smallest alpha, at most one coordinate becomes active in a stage."""
    claim = Claim(
        id="theorem.one_coordinate",
        source="Theorem 4.5",
        statement="In each stage the support grows by at most one coordinate, if α is small.",
        measure="coordinates that become active between the middles of two successive predicted stages, at the smallest"
        " α of the study; the largest over stages and problems",
        relation="<=",
        threshold=1,
        data="events, structure diagonal; stages",
    )
    activations = events[(events["structure"] == "diagonal") & (events["direction"] > 0)]
    middles = {seed: mid_stage_times(rows.sort_values("stage"), max_time) for seed, rows in stages.groupby("seed")}
    activations = activations[activations["seed"].isin(middles)]
    if activations.empty:
        return claim.untested("Algorithm 1 and a run with diagonal weights in which a coordinate becomes active")
    groups = activations.groupby(["alpha", "seed"], observed=True)["rescaled_time"]
    counts = {(alpha, seed): np.histogram(times, np.r_[-np.inf, middles[seed]])[0] for (alpha, seed), times in groups}
    smallest = sort_alphas(alpha for alpha, _ in counts)[-1]
    tested = {seed: count for (alpha, seed), count in counts.items() if alpha == smallest}
    shares = {run: (count <= 1).mean() for run, count in counts.items()}
    crowded = np.concatenate([nearest_stage(stages[stages["seed"] == seed])[tested[seed] > 1] for seed in tested])
    nearest = f"; those with more have another predicted within {crowded.max():.2g}" if len(crowded) else ""
    stages_tested = sum(len(count) for count in tested.values())
    return claim.tested(
        max(count.max() for count in tested.values()),
        f"{stages_tested} stages of {_problem_list(tested)}, {alpha_label(smallest)}",
        f"share of stages with one at most: {_by_alpha(_nested(shares))}{nearest}",
    )


def nearest_stage(stages):
    """Rescaled time from each stage of a problem to the nearest other one, as predicted."""
    gaps = np.diff(stages.sort_values("stage")["predicted_time"])
    return np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))


def unique_winner(stages, thresholds):
    """No two coordinates wait equally long."""
    claim = Claim(
        id="assumption_4_2.unique",
        source="Assumption 4.2",
        statement="In each stage one coordinate alone becomes active first.",
        measure="how much longer the second coordinate would have waited, in rescaled time; the smallest over stages"
        " and problems",
        relation=">",
        threshold=thresholds["zero"],
        data="stages",
    )
    gaps = stages["runner_up"].dropna()
    if gaps.empty:
        return claim.untested("Algorithm 1")
    return claim.tested(gaps.min(), f"{len(gaps)} stages of {_problem_list(stages['seed'])}")


def support_kept(stages, events):
    """No coordinate leaves the support."""
    claim = Claim(
        id="assumption_4_2.support",
        source="Assumption 4.2, Appendix A",
        statement="No coordinate ever leaves the support of θ_k.",
        measure="coordinates that leave it in Algorithm 1, sum over stages and problems",
        relation="==",
        threshold=0,
        data="stages; in the details events, structure diagonal",
    )
    if stages.empty:
        return claim.untested("Algorithm 1")
    runs = events[events["structure"] == "diagonal"]
    left = (runs["direction"] < 0).groupby([runs["alpha"].astype(str), runs["seed"]]).sum()
    return claim.tested(
        stages["left"].sum(),
        f"{len(stages)} stages of {_problem_list(stages['seed'])}",
        f"departures of coordinates in the trained runs: {_by_alpha(_nested(left.to_dict()))}",
    )


def strict_minima(stages, thresholds):
    """Each theta_k is a strict local minimum on its support."""
    claim = Claim(
        id="assumption_4_3.minima",
        source="Assumption 4.3",
        statement="Each θ_k is a strict local minimum of the loss on its support.",
        measure="least eigenvalue of the Hessian in u on the support; the smallest over stages and problems",
        relation=">",
        threshold=thresholds["zero"],
        data="stages",
    )
    if stages.empty:
        return claim.untested("Algorithm 1")
    return claim.tested(stages["curvature"].min(), f"{len(stages)} stages of {_problem_list(stages['seed'])}")


def perturbation_windows(perturbations):
    """The windows of the table "perturbations": a dict (assumption, noise_on) -> {(seed, run): Window}."""
    windows = {}
    keys = ["assumption", "noise_on", "seed", "run"]
    for (assumption, noise_on, seed, run), rows in perturbations.groupby(keys, observed=True):
        windows.setdefault((assumption, noise_on), {})[seed, run] = Window.of(rows)
    return windows


_ASSUMPTIONS = {
    "plateaus": (
        "assumption_4_3",
        "Assumption 4.3, Figure 9",
        "After a perturbation on a plateau, training returns to it",
    ),
    "activations": (
        "assumption_4_4",
        "Assumption 4.4, Figure 10",
        "After a perturbation at an activation, training ends where it would have",
    ),
}
_NOISE = {
    "support": ("support", "noise on active weights alone, as in the assumption"),
    "nonnegligible": ("paper_test", "noise on all nonnegligible weights, as in the paper's test"),
}


def windows_return(windows, assumption, noise_on, thresholds, movement, speed):
    """Perturbed paths come back to the path that they left, in the windows that can show it."""
    prefix, source, statement = _ASSUMPTIONS[assumption]
    suffix, noise = _NOISE[noise_on]
    if assumption == "plateaus":
        qualifier = f"moves by at most {movement} in the window (is on a plateau)"
        usable = [window.movement <= movement for window in windows.get((assumption, noise_on), {}).values()]
    else:
        qualifier = f"is at rest when the window ends, slower than {speed:.2g}"
        usable = [window.final_speed <= speed for window in windows.get((assumption, noise_on), {}).values()]
    claim = Claim(
        id=f"{prefix}.{suffix}",
        source=source,
        statement=f"{statement} ({noise}).",
        measure="distance to the unperturbed path at the end of the window over that at its start; the largest over the"
        f" windows in which the unperturbed path {qualifier}",
        relation="<=",
        threshold=thresholds["return_ratio"],
        data=f"perturbations, {assumption}, noise on {noise_on}",
    )
    found = windows.get((assumption, noise_on), {})
    if not found:
        return claim.untested("perturbation runs")
    ratios = [window.ratio for window in found.values()]
    tested = [ratio for ratio, use in zip(ratios, usable, strict=True) if use and not np.isnan(ratio)]
    rest = [ratio for ratio, use in zip(ratios, usable, strict=True) if not use or np.isnan(ratio)]
    details = f"ratios of the windows that count: {_numbers(tested)}; of those that do not: {_numbers(rest)}"
    n = f"{len(tested)} of {len(found)} windows of {_problem_list(seed for seed, _ in found)}; {len(rest)} not tested"
    if not tested:
        return claim.untested(f"a window in which the unperturbed path {qualifier}; {details}")
    return claim.tested(max(tested), n, details)


def flow_conserves(conservation, thresholds):
    """Full weights under gradient flow keep W_K^T W_K - W_Q^T W_Q, of which Lemma 4.1 is the diagonal case."""
    claim = Claim(
        id="lemma_4_1.flow",
        source="Lemma 4.1 (its form for full weights)",
        statement="Gradient flow conserves u² - v²; with full weights, W_KᵀW_K - W_QᵀW_Q and W_VᵀW_V - W_OᵀW_O.",
        measure="change of this matrix since the start over the squared size of the weights, in Frobenius norms; the"
        " largest over time, products and runs. Diagonal weights say nothing: their flow is solved in coordinates that"
        " conserve u² - v² by construction",
        relation="<",
        threshold=thresholds["flow_drift"],
        data="conservation, structures with full weights",
    )
    return _largest_drift(
        claim, conservation, conservation["method"] == "flow", "size", "gradient flow of full weights"
    )


def descent_conserves(conservation, thresholds):
    """Gradient descent keeps u^2 - v^2 up to a part of its initial value."""
    claim = Claim(
        id="lemma_4_1.descent",
        source="Lemma 4.1, Section 5",
        statement="Gradient descent at a finite step still conserves u² - v² well.",
        measure="change of u² - v² since the start over its norm at the start, both as vectors over coordinates; the"
        " largest over time, products and runs of GD and SGD",
        relation="<",
        threshold=thresholds["descent_drift"],
        data="conservation, structures trained by GD or SGD",
    )
    runs = conservation["method"].isin(["gd", "sgd"])
    return _largest_drift(claim, conservation, runs, "initial", "a run by gradient descent")


def _largest_drift(claim, conservation, chosen, scale, missing):
    rows = conservation[chosen]
    if rows.empty:
        return claim.untested(missing)
    keys = [rows[key].astype(str) for key in ("structure", "alpha", "seed")]
    drifts = (rows["change"] / rows[scale]).groupby(keys).max()
    details = "; ".join(f"{s}, {alpha_label(a)}, seed {seed}: {drift:.3g}" for (s, a, seed), drift in drifts.items())
    return claim.tested(drifts.max(), f"{len(drifts)} runs of {_problem_list(rows['seed'])}", details)


_STRUCTURES = {
    "diagonal": ("Theorem 1.1, Figure 2 (a), (b)", "With diagonal weights, entries of the products"),
    "full": (
        "Section 5, Figure 2 (d), (e)",
        "With full weights and a diagonal teacher, singular values of the products",
    ),
    "full_dense": ("not in the paper", "With full weights and a dense teacher, singular values of the products"),
}


def one_at_a_time(trajectory, structure, active, thresholds):
    """Entries, or singular values, of the products become active one at a time."""
    source, what = _STRUCTURES[structure]
    claim = Claim(
        id=f"toy.{structure}.one_at_a_time",
        source=source,
        statement=f"{what} become active one at a time.",
        measure=f"share of those that pass {active:.2g} at whose passage all that have not passed it yet are at least"
        " ten times smaller, in both products; at the smallest α of the study that has such runs, the smallest over"
        " problems",
        relation=">",
        threshold=thresholds["one_at_a_time"],
        data=f"trajectory, structure {structure}",
    )
    gaps = {
        (alpha, seed): next_largest(run, active)
        for seed, runs in _problems(trajectory[trajectory["structure"] == structure]).items()
        for alpha, run in runs.items()
    }
    gaps = {run: ratios for run, ratios in gaps.items() if len(ratios)}
    if not gaps:
        return claim.untested(f"a run of structure {structure} in which an entry or a singular value becomes active")
    smallest = sort_alphas(alpha for alpha, _ in gaps)[-1]
    shares = {run: (ratios <= 0.1).mean() for run, ratios in gaps.items()}
    tested = {seed: len(gaps[alpha, seed]) for alpha, seed in gaps if alpha == smallest}
    n = f"{sum(tested.values())} passages in {_problem_list(tested)}, {alpha_label(smallest)}"
    return claim.tested(min(shares[smallest, seed] for seed in tested), n, _by_alpha(_nested(shares)))


def next_largest(run, active):
    """For each entry that passes `active`, the largest of those that have yet to pass it over `active`, at that moment.

    Values between two records are found on a line between their logarithms.
    """
    values = run.pivot(index="rescaled_time", columns=["product", "index"], values="value").to_numpy()
    logs = np.log(np.maximum(np.abs(values), 1e-300) / active)
    ratios = []
    for column in range(logs.shape[1]):
        upwards = np.flatnonzero((logs[:-1, column] <= 0) & (logs[1:, column] > 0))
        if len(upwards):
            before, after = logs[upwards[0]], logs[upwards[0] + 1]
            part = before[column] / (before[column] - after[column])
            others = np.delete((1 - part) * before + part * after, column)
            ratios.append(np.exp(others[others <= 0].max(initial=-np.inf)))
    return np.array(ratios)


def _problems(rows):
    """Runs by problem and init scale, from the largest scale to the smallest: {seed: {alpha: rows}}."""
    return {
        seed: {alpha: of_problem[of_problem["alpha"] == alpha] for alpha in sort_alphas(of_problem["alpha"])}
        for seed, of_problem in rows.groupby("seed")
    }


def _at_smallest_alpha(claim, values, worst, theorem):
    """`values` are indexed by alpha and seed."""
    smallest = sort_alphas(values.index.get_level_values("alpha"))[-1]
    tested = values[smallest]
    rows = theorem[(theorem["alpha"] == smallest)]
    n = f"{len(rows)} stages of {_problem_list(tested.index)}, {alpha_label(smallest)}"
    return claim.tested(worst(tested), n, _by_alpha(_nested(values.to_dict())))


def _nested(values):
    """{(alpha, seed): value} as {seed: {alpha: value}}, seeds ascending and init scales from the largest."""
    seeds = sorted({seed for _, seed in values})
    return {
        seed: {alpha: values[alpha, seed] for alpha in sort_alphas(a for a, s in values if s == seed)} for seed in seeds
    }


def _problem_list(seeds):
    seeds = sorted(set(seeds))
    return f"{len(seeds)} problem{'s' if len(seeds) > 1 else ''} (seed {', '.join(map(str, seeds))})"


def _count_problems(runs):
    """In words, from a dict seed -> whatever has one entry for each init scale."""
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
