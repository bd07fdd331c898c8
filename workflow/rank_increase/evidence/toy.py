"""Claims about the toy models: Theorem 4.5 and its assumptions, Lemma 4.1, and Figures 2 and 6 to 10 of the paper.

A problem is a variant and a seed: its data, teacher and theta_0. A claim rests on all problems of the study as they
come, whatever their size. Its value is the share of problems in which it holds: the lower end of the 95 %
Clopper-Pearson interval, so that few problems cannot support it. Seventeen are the fewest that can (17 of 17 give
0.805). Problems in which it does not hold are named. Claims about the limit alpha -> 0 are tested at the smallest init
scale that so many problems share.

Thresholds are orders of magnitude, halves or conventions. They follow from the wording of a claim, not from results.
"""

import numpy as np

from rank_increase.evidence.claim import ENOUGH, NotTested, counted, lower_end
from rank_increase.notation import alpha_label, log_alpha, sort_alphas
from rank_increase.options import Alpha, Name, Positive, Share
from rank_increase.registry import register
from rank_increase.toy.staircase import Staircase
from rank_increase.toy.windows import Window

PROBLEM = ["variant", "seed"]
# Settings of the variants that Algorithm 1 of the paper is about.
PAPER = {"weights": "diagonal", "method": "flow", "layers": 0, "loss": "squared", "decay": 0.0}


@register.claim(
    "toy.loss_plateaus",
    source="Section 4.1.1, Figure 6",
    statement="Plateaus of the loss take up an ever larger share of training time as α falls.",
    measure="problems in which the share of time in which the loss falls at less than {slow} of its fastest grows from"
    " each α to the next smaller one; rates are per unit of true time, and the fastest is that at the smallest α; lower"
    " end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. Transitions take O(1) of true time, in units that differ between"
    " problems: two orders of magnitude below the fastest is at rest.",
    tables=["losses"],
    data="losses, gradient flow of a head with diagonal weights",
    slow=0.01,
)
def loss_plateaus(losses, *, variants: dict, slow: Share):
    """The loss is almost constant for an ever larger share of time as alpha falls."""

    def rates(run):
        time, loss = loss_curve(run)
        return time, -np.diff(loss) / np.diff(time)

    return _grows_as_alpha_falls(losses, variants, rates, slow)


@register.claim(
    "toy.weight_plateaus",
    source="Section 4.1.1, Figures 7 and 8",
    statement="Plateaus of the weights take up an ever larger share of training time as α falls.",
    measure="problems in which the share of time in which every entry of the products moves at less than {slow} of the"
    " fastest grows from each α to the next smaller one; rates are per unit of true time, and the fastest is that at"
    " the smallest α; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. Transitions take O(1) of true time, in units that differ between"
    " problems: two orders of magnitude below the fastest is at rest.",
    tables=["trajectory"],
    data="trajectory, gradient flow of a head with diagonal weights",
    slow=0.01,
)
def product_plateaus(trajectory, *, variants: dict, slow: Share):
    """All products are almost at rest for an ever larger share of time as alpha falls."""

    def rates(run):
        values = run.pivot(index="rescaled_time", columns=["product", "index"], values="value")
        time = values.index.to_numpy()
        return time, np.abs(np.diff(values.to_numpy(), axis=0)).max(axis=1) / np.diff(time)

    return _grows_as_alpha_falls(trajectory, variants, rates, slow)


def _grows_as_alpha_falls(rows, variants, rates, slow):
    """`rates` gives the rescaled times of a run, and its rate of change between them."""
    shares = {}
    for problem, runs in _problems(_in_limit(rows, variants)).items():
        if len(runs) > 1:
            found = {alpha: rates(run) for alpha, run in runs.items()}
            found = {alpha: (time, rate / -log_alpha(alpha)) for alpha, (time, rate) in found.items()}
            fastest = found[list(runs)[-1]][1].max()
            shares[problem] = {
                alpha: np.diff(time)[rate < slow * fastest].sum() / (time[-1] - time[0])
                for alpha, (time, rate) in found.items()
            }
    holds = {problem: bool((np.diff(list(found.values())) > 0).all()) for problem, found in shares.items()}
    return _in_problems(holds, "two init scales of each", f"median share of time: {_medians(shares)}")


def loss_curve(run):
    """Rescaled times of a run, ascending, and its loss at them."""
    run = run.sort_values("rescaled_time")
    return run["rescaled_time"].to_numpy(), run["loss"].to_numpy()


@register.claim(
    "theorem.limit_of_the_loss",
    source="Theorem 4.5, Figure 6",
    statement="As α falls, the loss over rescaled time converges to the staircase of Algorithm 1, at the predicted"
    " rate.",
    measure="problems in which the distance D(α) = ∫ |loss - staircase| falls from each α to the next smaller one, and"
    " D(α) ln(1/α) is within a tenth of the sum of areas of the orbits at the smallest α; lower end of the 95 %"
    " interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. A tenth: an order of magnitude closer than a wrong rate, whose ratio"
    " would be of another order at so small an α.",
    tables=["losses", "stages", "orbits"],
    data="losses, stages and orbits, gradient flow of a head with diagonal weights",
)
def limit_of_the_loss(losses, stages, orbits, *, variants: dict):
    """D(alpha) ln(1/alpha) tends to the sum of the areas of the orbits."""
    steps, areas = (
        dict(list(stages.groupby(PROBLEM, observed=True))),
        orbits.groupby(PROBLEM, observed=True)["area"].sum(),
    )
    ratios, smallest = {}, _smallest_alpha(_in_limit(losses, variants))
    for problem, runs in _problems(_in_limit(losses, variants)).items():
        if problem in areas.index and smallest in runs and len(runs) > 1:
            curves = {alpha: loss_curve(run) for alpha, run in runs.items()}
            limit = Staircase.of(steps[problem], curves[list(runs)[-1]][1][0])
            ratios[problem] = {
                alpha: limit.distance(*curve) * -log_alpha(alpha) / areas[problem] for alpha, curve in curves.items()
            }
    holds = {
        problem: abs(found[smallest] - 1) < 0.1
        and all(np.diff([ratio / -log_alpha(alpha) for alpha, ratio in found.items()]) < 0)
        for problem, found in ratios.items()
    }
    return _in_problems(holds, "orbits and two init scales of each", f"median D ln(1/α) / areas: {_medians(ratios)}")


@register.claim(
    "theorem.constants",
    source="Theorem 4.5 (its rate, not in the paper)",
    statement="Stage k comes at T_k + C_k / ln(1/α), with C_k from the orbits between stages and from theta_0 alone.",
    measure="problems in which |C - C_k|, median over stages, over the median of |C_k|, is below 0.01 at the smallest"
    " α, C = (T - T_k) ln(1/α) as measured; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. 0.01: no fit to C_k could be that good by chance, and the o(1) of the"
    " theorem is not yet zero.",
    tables=["theorem", "orbits"],
)
def constants(theorem, orbits):
    """C_k is what the orbits predict."""
    both = theorem.merge(orbits, on=[*PROBLEM, "stage"])
    both = both.assign(error=(both["scaled_delay"] - both["delay"]).abs(), size=both["delay"].abs())
    medians = both.groupby([*PROBLEM, "alpha"], observed=True)[["error", "size"]].median()
    errors = _nested((medians["error"] / medians["size"]).to_dict())
    smallest = _smallest_alpha(both)
    holds = {problem: found[smallest] < 0.01 for problem, found in errors.items() if smallest in found}
    return _in_problems(holds, "orbits and theorem", f"median error: {_medians(errors)}")


@register.claim(
    "theorem.order",
    source="Theorem 4.5, Algorithm 1",
    statement="For small α, coordinates become active in the order that Algorithm 1 predicts.",
    measure="problems in which all stages come in the predicted order at the smallest α; lower end of the 95 %"
    " interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems.",
    tables=["theorem"],
    data="theorem, gradient flow of a head with diagonal weights",
)
def stage_order(theorem, *, variants: dict):
    """At the smallest alpha, stages come in the order of Algorithm 1."""
    theorem = _in_limit(theorem, variants)
    right = theorem["measured_order"] == theorem["stage"]
    return _at_smallest_alpha(theorem.assign(right=right.fillna(False)), "right", "stages in order")


@register.claim(
    "theorem.distance",
    source="Theorem 4.5",
    statement="For small α, the weights are near θ_k of Algorithm 1 in the middle of every stage k.",
    measure="problems in which all products are within 0.01 of those of θ_k in the middle of every predicted stage, at"
    " the smallest α; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. 0.01: two orders of magnitude below what products are.",
    tables=["theorem"],
    data="theorem, gradient flow of a head with diagonal weights",
)
def near_theta(theorem, *, variants: dict):
    """At the smallest alpha, products are near theta_k in the middle of every stage."""
    theorem = _in_limit(theorem, variants)
    return _at_smallest_alpha(theorem.assign(near=theorem["distance"] < 0.01), "near", "stages within 0.01")


@register.claim(
    "theorem.one_coordinate",
    source="Theorem 4.5",
    statement="In each stage the support grows by at most one coordinate, if α is small.",
    measure="problems in which the active coordinates in the middle of every predicted stage are the support of θ_k,"
    " at the smallest α; active: above half of the product in θ_k; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems.",
    tables=["theorem"],
    data="theorem, gradient flow of a head with diagonal weights",
)
def one_coordinate(theorem, *, variants: dict):
    """At the smallest alpha, the active coordinates in the middle of each stage are those of theta_k."""
    rows = _with_resolved(_in_limit(theorem, variants))
    return _at_smallest_alpha(rows, "resolved", "stages with that support")


@register.claim(
    "theorem.paper_scale",
    source="Figures 6 to 8",
    statement="At α = {alpha}, the smallest of the paper, the stages of Algorithm 1 can be told apart.",
    measure="problems in which the active coordinates in the middle of every predicted stage are the support of θ_k;"
    " lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems.",
    tables=["theorem"],
    data="theorem, gradient flow of a head with diagonal weights",
    alpha="1e-32",
)
def paper_scale(theorem, *, alpha: Alpha, variants: dict):
    """At the paper's smallest alpha, the active coordinates in the middle of each stage are those of theta_k."""
    rows = _with_resolved(_in_limit(theorem, variants))
    return _at_smallest_alpha(rows[rows["alpha"] == alpha], "resolved", "stages with that support")


@register.claim(
    "theorem.alpha_0",
    source="Theorem 4.5 (its α_0, not in the paper)",
    statement="A stage can be told apart below the α_0 that follows from the C_k and the gaps between stages.",
    measure="problems in which that formula says rightly of at least nine in ten stages and α whether the active"
    " coordinates in the middle of the stage are the support of θ_k; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. Nine in ten: an order of magnitude more often right than wrong,"
    " though some α are near α_0.",
    tables=["theorem", "orbits"],
)
def resolved_below(theorem, orbits):
    """Whether a stage is resolved at an alpha is what its alpha_0 says."""
    both = _with_resolved(theorem).merge(orbits, on=[*PROBLEM, "stage"])
    unit = both["alpha"].astype(str).map({alpha: -log_alpha(alpha) for alpha in set(both["alpha"])})
    both = both.assign(right=both["resolved"] == (unit.astype(float) > both["resolved_from"]))
    rights = {problem: rows["right"].mean() for problem, rows in both.groupby(PROBLEM, observed=True)}
    half, most, all_ = (orbits["resolved_from"].astype(float).quantile([0.5, 0.9, 1]) / np.log(10)).tolist()
    details = (
        f"as predicted: {both['right'].sum()} of {len(both)} stages and α; log10(1/α_0) is at most {half:.3g} for half"
        f" of the stages, {most:.3g} for nine in ten, {all_:.3g} for all"
    )
    return _in_problems({problem: right >= 0.9 for problem, right in rights.items()}, "orbits and theorem", details)


def _with_resolved(theorem):
    return theorem.assign(resolved=(theorem["missing"] == 0) & (theorem["extra"] == 0))


def _at_smallest_alpha(rows, column, what):
    """All stages of a problem must hold at the smallest alpha that enough problems share."""
    smallest = _smallest_alpha(rows)
    tested = rows[rows["alpha"] == smallest]
    holds = {problem: bool(of_problem[column].all()) for problem, of_problem in tested.groupby(PROBLEM, observed=True)}
    counts = rows.astype({"alpha": str}).groupby("alpha")[column].agg(["sum", "size"])
    shares = ", ".join(f"{counts.loc[a, 'sum']} of {counts.loc[a, 'size']} ({a})" for a in sort_alphas(counts.index))
    value, n, details = _in_problems(holds, "Algorithm 1 and a run of each", f"{what}: {shares}")
    return value, f"{n}, {alpha_label(smallest)}", details


@register.claim(
    "assumption_4_2.support",
    source="Assumption 4.2, Appendix A",
    statement="No coordinate ever leaves the support of θ_k.",
    measure="problems in which none leaves it in Algorithm 1; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems.",
    tables=["stages"],
    data="stages, gradient flow of a head with diagonal weights",
)
def support_kept(stages, *, variants: dict):
    """No coordinate leaves the support."""
    stages = _in_limit(stages, variants)
    left = {problem: rows["deactivated"].sum() for problem, rows in stages.groupby(PROBLEM, observed=True)}
    details = f"coordinates that leave: {sum(left.values())} in {len(stages)} stages"
    return _in_problems({problem: count == 0 for problem, count in left.items()}, "Algorithm 1", details)


@register.claim(
    "assumption_4_3.limit",
    source="Assumption 4.3",
    statement="Each θ_k is a strict local minimum on its support: the flow returns to it after noise on the support.",
    measure="problems in which every path comes back to θ_k to 1e-6, after balanced noise on u = ±v of each size and"
    " with all other coordinates zero; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. 1e-6: far above rounding, and far below the noise, 0.01 and more, and"
    " the distance to any other point of rest.",
    tables=["returns"],
    assumption="4.3",
)
@register.claim(
    "assumption_4_4.limit",
    source="Assumption 4.4",
    statement="A stage ends at its θ_k from wherever it starts near the one before.",
    measure="problems in which every path comes to θ_k to 1e-6, after balanced noise on u = ±v of each size"
    " around the θ before, on its support and the new coordinate, and with all other coordinates zero; lower end of the"
    " 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. 1e-6: far above rounding, and far below the noise, 0.01 and more, and"
    " the distance to any other point of rest.",
    tables=["returns"],
    assumption="4.4",
)
def returns_in_the_limit(returns, *, assumption: Name):
    """Paths perturbed in the limit come to rest where the assumptions say."""
    rows = returns[returns["assumption"] == assumption]
    rows = rows.assign(back=rows["end_distance"] < 1e-6)
    holds = {problem: bool(of_problem["back"].all()) for problem, of_problem in rows.groupby(PROBLEM, observed=True)}
    of_noise = rows.groupby("std")["back"].agg(["sum", "size"])
    details = ", ".join(f"{row['sum']} of {row['size']} (noise {std:g})" for std, row in of_noise.iterrows())
    return _in_problems(holds, "perturbations in the limit", f"paths that come there: {details}")


@register.claim(
    "assumption_4_3.paper_test",
    source="Assumption 4.3, Figure 9",
    statement="The paper's test of Assumption 4.3 shows it: after noise on all nonnegligible weights on a plateau,"
    " training returns.",
    measure="windows at the end of which at most a tenth is left of the distance to the unperturbed path, of those in"
    " which this path moves by at most {movement}; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five windows. A tenth: an order of magnitude.",
    tables=["perturbations"],
    data="perturbations, plateaus, noise on nonnegligible",
)
def plateaus_return(perturbations, *, movement: Positive):
    """Paths perturbed on a plateau return to the unperturbed path, in the paper's test."""
    return _windows_return(
        perturbations,
        "plateaus",
        lambda window: window.movement <= movement,
        f"moves by at most {movement:.2g} (is on a plateau)",
    )


@register.claim(
    "assumption_4_4.paper_test",
    source="Assumption 4.4, Figure 10",
    statement="The paper's test of Assumption 4.4 shows it: after noise on all nonnegligible weights at an activation,"
    " training ends where it would have.",
    measure="windows at the end of which at most a tenth is left of the distance to the unperturbed path, of those at"
    " whose end this path is slower than {speed}; lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five windows. A tenth: an order of magnitude.",
    tables=["perturbations"],
    data="perturbations, activations, noise on nonnegligible",
)
def activations_return(perturbations, *, speed: Positive):
    """Paths perturbed at an activation return to the unperturbed path, in the paper's test."""
    return _windows_return(
        perturbations,
        "activations",
        lambda window: window.final_speed <= speed,
        f"is slower than {speed:.2g} at its end (at rest)",
    )


def _windows_return(perturbations, assumption, usable, qualifier):
    """Share of the windows that return, of those that can show a return: for which `usable` is true."""
    rows = perturbations[perturbations["assumption"] == assumption]
    windows = {
        noise_on: {run: Window.of(of_run) for run, of_run in of_noise.groupby(["seed", "run"])}
        for noise_on, of_noise in rows.groupby("noise_on")
    }
    both = {noise_on: [w.ratio <= 0.1 for w in found.values() if usable(w) and w.start_distance > 0]
            for noise_on, found in windows.items()}  # fmt: skip
    returned = both.get("nonnegligible", [])
    if len(returned) < ENOUGH:
        raise NotTested(f"{ENOUGH} windows in which the unperturbed path {qualifier}: there are {len(returned)}")
    alone = both.get("support", [])
    every = windows["nonnegligible"]
    details = (
        f"{sum(returned)} of {len(returned)} return, and {sum(alone)} of {len(alone)} with the noise on active weights"
        f" alone; {len(every) - len(returned)} more do not count: the path moves, or nothing is perturbed;"
        f" {sum(np.isnan(window.slowest) for window in every.values())} are before the first stage, and in"
        f" {sum(window.slowest > 0.1 for window in every.values())} the slowest mode keeps more than a tenth"
    )
    n = f"{len(returned)} of {len(every)} windows in {_problem_list(seed for seed, _ in every)}"
    return lower_end(returned), n, details


@register.claim(
    "lemma_4_1.flow",
    source="Lemma 4.1 (its form for full weights)",
    statement="Gradient flow conserves W_KᵀW_K - W_QᵀW_Q and W_VᵀW_V - W_OᵀW_O.",
    measure="problems in which their change since the start is below a hundredth of themselves at the start, in"
    " Frobenius norms, the largest over time, products and α; lower end of the 95 % interval of their share. Diagonal"
    " weights say nothing: their flow is solved in coordinates that conserve u² - v² by construction",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. A hundredth: errors of the solver stay below it, and what is not"
    " conserved drifts by a share of order 1.",
    tables=["conservation"],
    data="conservation, flow of full weights",
)
def flow_conserves(conservation):
    """Full weights under gradient flow keep W_K^T W_K - W_Q^T W_Q, of which Lemma 4.1 is the diagonal case."""
    drifts = _drifts(conservation, ["flow"]).groupby(PROBLEM).max()
    holds = {problem: drift < 0.01 for problem, drift in drifts.items()}
    return _in_problems(holds, "gradient flow of full weights", f"largest drift: {_numbers(drifts)}")


@register.claim(
    "lemma_4_1.descent",
    source="Lemma 4.1, Section 5",
    statement="Gradient descent conserves u² - v² up to a drift in proportion to its step.",
    measure="problems in which the slope of ln(-ln(1 - drift)) against ln(step) is within 0.1 of 1 at every α; drift:"
    " the change of u² - v² since the start over its norm at the start, the largest over time and products. A step"
    " multiplies u² - v² by 1 - step² g². Lower end of the 95 % interval of their share",
    relation=">=",
    threshold=0.8,
    reason="As a rule: in four of five problems. A tenth: far from the next whole powers, 0 (it would not be the flow"
    " that conserves) and 2.",
    tables=["conservation"],
    data="conservation, variants that differ in the step of GD alone",
)
def descent_conserves(conservation, *, variants: dict):
    """The drift of u^2 - v^2 under gradient descent is proportional to the step."""
    drifts, slopes, ranges = _drifts(conservation, ["gd"]), {}, {}
    forms = {
        name: tuple(sorted((k, str(v)) for k, v in form.items() if k != "step")) for name, form in variants.items()
    }
    if len(drifts):
        rows = drifts.rename("drift").reset_index()
        rows = rows.assign(form=rows["variant"].map(forms), step=[variants[name]["step"] for name in rows["variant"]])
        for (_, seed, alpha), found in rows.groupby(["form", "seed", "alpha"]):
            if found["step"].nunique() > 1:
                rate = -np.log1p(-np.minimum(found["drift"], 1 - 1e-12))
                slope = np.polyfit(np.log(found["step"]), np.log(rate), 1)[0]
                slopes.setdefault((found["variant"].iloc[0], seed), {})[alpha] = slope
                ranges.setdefault(alpha, []).extend(found["drift"])
    holds = {problem: all(abs(slope - 1) < 0.1 for slope in found.values()) for problem, found in slopes.items()}
    drifted = "; ".join(f"{min(found):.2g} to {max(found):.2g} ({alpha})" for alpha, found in ranges.items())
    details = f"median slope: {_medians(slopes)}; drift: {drifted}"
    return _in_problems(holds, "gradient descent at two steps", details)


def _drifts(conservation, methods):
    """The largest change over the size at the start, of each run; a Series by variant, seed and alpha."""
    rows = conservation[conservation["method"].isin(methods)]
    keys = [rows[key].astype(str) if key != "seed" else rows[key] for key in (*PROBLEM, "alpha")]
    return (rows["change"] / rows["initial"]).groupby(keys).max()


def _in_limit(rows, variants):
    """Rows of the runs whose limit Algorithm 1 of the paper predicts."""
    limits = [
        name for name, form in variants.items() if all(form.get(key, value) == value for key, value in PAPER.items())
    ]
    return rows[rows["variant"].isin(limits)]


def _problems(rows):
    """Runs by problem and init scale, from largest to smallest scale: {(variant, seed): {alpha: rows}}."""
    return {
        problem: {alpha: of_problem[of_problem["alpha"] == alpha] for alpha in sort_alphas(of_problem["alpha"])}
        for problem, of_problem in rows.groupby(PROBLEM, observed=True)
    }


def _smallest_alpha(rows):
    """The smallest init scale that enough problems share, or if there is none, that most do."""
    if rows.empty:
        return None
    problems = rows[[*PROBLEM, "alpha"]].drop_duplicates().astype({"alpha": str})["alpha"].value_counts()
    shared = problems[problems >= min(ENOUGH, problems.max())]
    return sort_alphas(shared.index)[-1]


def _nested(values):
    """{(variant, seed, alpha): value} as {(variant, seed): {alpha: value}}, with init scales descending."""
    found = {}
    for *problem, alpha in values:
        found.setdefault(tuple(problem), []).append(alpha)
    return {problem: {alpha: values[*problem, alpha] for alpha in sort_alphas(of)} for problem, of in found.items()}


def _medians(values):
    """In words, from {problem: {alpha: value}}: the median over problems at each init scale."""
    by_alpha = {}
    for found in values.values():
        for alpha, value in found.items():
            by_alpha.setdefault(alpha, []).append(value)
    return ", ".join(f"{np.median(by_alpha[alpha]):.3g} ({alpha})" for alpha in sort_alphas(by_alpha)) or "none"


def _in_problems(holds, missing, details):
    """Value, n and details of a claim that holds in each problem, or does not: {(variant, seed): bool}."""
    right, total = sum(map(bool, holds.values())), len(holds)
    if total < ENOUGH:
        raise NotTested(f"{ENOUGH} problems with {missing}: it holds in {right} of the {total} of this study")
    of_variant = {}
    for variant, _ in holds:
        of_variant[variant] = of_variant.get(variant, 0) + 1
    n = f"{total} problems ({', '.join(f'{count} {variant}' for variant, count in of_variant.items())})"
    wrong = ", ".join(f"{variant} seed {seed}" for (variant, seed), held in holds.items() if not held)
    return lower_end(holds.values()), n, f"{right} of {total}{f', not in {wrong}' if wrong else ''}; {details}"


def _problem_list(seeds):
    seeds = sorted(set(seeds))
    return f"{counted(len(seeds), 'problem')} (seed {', '.join(map(str, seeds))})"


def _numbers(values):
    return ", ".join(f"{value:.2g}" for value in sorted(values)) or "none"
