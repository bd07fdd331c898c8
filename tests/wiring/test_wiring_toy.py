"""What the toy rules of a study show, against a second implementation of the model, its flow and Algorithm 1."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from second import Toy, output, products
from wired import NETWORK_TABLES, TOY_TABLES

SAMPLES, TOKENS, DIM, MAX_TIME, ACTIVE = 20, 3, 4, 120, 0.2
PROBLEMS = [("diagonal", 3), ("diagonal", 7), ("full", 3), ("full", 7), ("full_dense", 7), ("diagonal_gd", 7)]
PROBLEMS += [("diagonal_sgd", 3), ("diagonal_sgd", 7)]
OF_PROBLEMS = ("stages", "theorem", "orbits", "returns")
LABELS = [(product, index) for product in ("KQ", "VO") for index in range(DIM)]
STEP, BATCH = 0.4, 6


def problem(wired, variant, seed):
    return Toy(wired.results / f"toy/{variant}/seed_{seed}/problem.npz")


def of_run(wired, table, variant, alpha, seed):
    """Rows of a run in the table of the study."""
    rows = wired.table(f"tables/{table}")
    return rows[(rows["variant"] == variant) & (rows["alpha"] == alpha) & (rows["seed"] == seed)]


def recorded(wired, *run):
    """Times, losses and values (records, 2 * dim) of a run in the tables "losses" and "trajectory"."""
    losses, rows = (of_run(wired, table, *run) for table in ("losses", "trajectory"))
    values = rows.pivot(index="rescaled_time", columns=["product", "index"], values="value")[LABELS]
    np.testing.assert_array_equal(losses["rescaled_time"], values.index)
    np.testing.assert_allclose(losses["rescaled_time"] * -math.log(float(run[1])), losses["time"], rtol=1e-12)
    return losses["time"].to_numpy(), losses["loss"].to_numpy(), values.to_numpy()


def diagonals(theta):
    return np.concatenate([theta[0] * theta[1], theta[2] * theta[3]])


def spectra(theta):
    return np.concatenate(
        [np.linalg.svd(product.numpy(), compute_uv=False) for product in products(torch.tensor(theta))]
    )


@pytest.mark.parametrize(("variant", "seed"), PROBLEMS)
def test_problems_are_drawn_from_their_seed_with_the_scales_of_the_configuration(wired, variant, seed):
    toy = problem(wired, variant, seed)
    data, teacher, student = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    np.testing.assert_array_equal(toy.X, data.standard_normal((SAMPLES, TOKENS, DIM)))
    shape = (4, DIM, DIM) if variant.startswith("full") else (4, DIM)
    np.testing.assert_array_equal(toy.start, student.standard_normal(shape))
    dense = variant == "full_dense"
    drawn = teacher.standard_normal((4, DIM, DIM) if dense else (4, DIM))
    for number, std in enumerate((0.62, 0.62, 0.78, 0.78)):  # KQ and VO
        np.testing.assert_allclose(toy.teacher[number], drawn[number] * std / (math.sqrt(DIM) if dense else 1))
    np.testing.assert_allclose(toy.Y, output(toy.X, *products(torch.tensor(toy.teacher))), rtol=1e-10, atol=1e-12)


def test_only_the_dense_teacher_is_dense(wired):
    for variant, seed in PROBLEMS:
        KQ, VO = products(torch.tensor(problem(wired, variant, seed).teacher))
        off = [float((product - torch.diag(torch.diag(product))).abs().max()) for product in (KQ, VO)]
        assert min(off) > 0.1 if variant == "full_dense" else max(off) == 0


def levels_of(wired, variant, seed):
    """Half of what a coordinate's product is at the end of the stage that activates it; else the least of these."""
    stages = wired.table(f"toy/{variant}/seed_{seed}/stages")
    half = {}
    for stage in stages.to_dict("records"):
        label = stage["product"], stage["index"]
        half.setdefault(label, []).append(abs(stage[label[0]][label[1]]) / 2)
    least = {label: min(sizes) for label, sizes in half.items()}
    return np.array([least.get(label, min(least.values())) for label in LABELS])


def times_to_record(wired, variant, seed):
    """Those asked for, and the middles of stages."""
    starts = wired.table(f"toy/{variant}/seed_{seed}/stages")["predicted_time"].to_numpy()
    return np.union1d(np.linspace(0, MAX_TIME, 13), (starts + np.append(starts[1:], MAX_TIME)) / 2)


def others_waiting(values, i, levels):
    """Logarithms of how near the nearest other product, of both and of the same, is to its level of those below."""
    shares = np.log(abs(values) / levels)
    waiting = [j for j in range(2 * DIM) if j != i and shares[j] < 0]
    same = [j for j in waiting if j // DIM == i // DIM]
    return [max(shares[group], default=-math.inf) for group in (waiting, same)]


@pytest.mark.parametrize(("alpha", "seed"), [("0.01", 3), ("0.01", 7), ("1e-8", 7), ("1e-32", 3)])
def test_flow_of_diagonal_weights_is_that_of_the_weights_themselves(wired, alpha, seed):
    toy, unit = problem(wired, "diagonal", seed), -math.log(float(alpha))
    times, losses, values = recorded(wired, "diagonal", alpha, seed)
    wanted, levels = times_to_record(wired, "diagonal", seed), levels_of(wired, "diagonal", seed)
    assert np.isclose(times[:, None] / unit, wanted, rtol=1e-12).any(axis=0).all()
    assert len(times) > len(wanted) + 5 * (len(wanted) - 13)  # and where it moves
    weights, crossings = toy.flow(float(alpha) * toy.start, times, [np.sqrt(levels)])
    expected = np.array([diagonals(theta) for theta in weights])
    np.testing.assert_allclose(values, expected, atol=1e-4)  # times are late by 1e-3, and where it moves they count
    np.testing.assert_allclose(values[:2], expected[:2], rtol=1e-3)  # where all is tiny
    np.testing.assert_allclose(losses, [toy.loss_and_velocity(theta)[0] for theta in weights], rtol=1e-4, atol=1e-8)
    events = of_run(wired, "events", "diagonal", alpha, seed)
    assert events["order"].tolist() == list(range(len(crossings)))
    found = list(events[["product", "index", "direction"]].itertuples(index=False, name=None))
    assert found == [(*LABELS[i], direction) for _, _, i, direction, _ in crossings]
    np.testing.assert_allclose(events["rescaled_time"] * unit, [time for time, *_ in crossings], rtol=1e-3)
    waiting = [others_waiting(diagonals(theta), i, levels) for _, _, i, _, theta in crossings]
    np.testing.assert_allclose(events[["log_next", "log_next_own"]], waiting, rtol=1e-3, atol=1e-2)


def log_crossings(times, values, levels, near=None):
    """Where values pass their levels between two times, on a line between their logarithms; by time.

    A crossing is a tuple of its time, product, index and direction, and `others_waiting` of all values there. `near`
    are the values whose products are near their levels, if these are not the values that cross.
    """
    found, sizes = [], abs(np.array(values))
    levels = np.broadcast_to(levels, sizes.shape[1:])
    others = sizes if near is None else abs(np.array(near))
    for n, i in np.argwhere((sizes[:-1] > levels) != (sizes[1:] > levels)):
        a, b = sizes[n, i], sizes[n + 1, i]
        part = math.log(levels[i] / a) / math.log(b / a)
        between = np.exp((1 - part) * np.log(others[n]) + part * np.log(others[n + 1]))
        time = times[n] + part * (times[n + 1] - times[n])
        found.append((time, *LABELS[i], 1 if b > a else -1, *others_waiting(between, i, levels)))
    return sorted(found)


def imbalance(theta, start):
    """Change and initial value of what flow conserves, for both products."""
    rows = []
    for u, v, u_0, v_0 in ((*theta[:2], *start[:2]), (*theta[2:], *start[2:])):
        now, before = (u**2 - v**2, u_0**2 - v_0**2) if u.ndim == 1 else (u.T @ u - v.T @ v, u_0.T @ u_0 - v_0.T @ v_0)
        rows.append([np.linalg.norm(now - before), np.linalg.norm(before)])
    return rows


def check_run(wired, variant, seed, times, weights, of_weights, method, crossings, drift, passing=1e-9, **tolerance):
    """A run at alpha = 0.01 has recorded these weights at these times, and these crossings.

    `drift` is the tolerance for the change of what flow conserves, relative to its initial value; `passing` that for
    the time of a crossing.
    """
    toy, unit = problem(wired, variant, seed), -math.log(0.01)
    found_times, losses, values = recorded(wired, variant, "0.01", seed)
    np.testing.assert_allclose(found_times, times, rtol=1e-12)
    np.testing.assert_allclose(values, [of_weights(theta) for theta in weights], **tolerance)
    np.testing.assert_allclose(losses, [toy.loss_and_velocity(theta)[0] for theta in weights], **tolerance)
    conservation = of_run(wired, "conservation", variant, "0.01", seed)
    assert conservation["method"].unique().tolist() == [method]
    assert conservation["product"].tolist() == ["KQ", "VO"] * len(times)
    np.testing.assert_allclose(conservation["rescaled_time"] * unit, np.repeat(times, 2), rtol=1e-12)
    change, initial = np.concatenate([imbalance(theta, 0.01 * toy.start) for theta in weights]).T
    of_unit = np.exp(conservation["log_unit"].to_numpy())
    np.testing.assert_allclose(conservation["initial"] * of_unit, initial, rtol=1e-9)
    np.testing.assert_allclose(conservation["change"] * of_unit / initial, change / initial, rtol=1e-6, atol=drift)
    events = of_run(wired, "events", variant, "0.01", seed)
    assert [tuple(row) for row in events[["product", "index", "direction"]].to_numpy()] == [c[1:4] for c in crossings]
    np.testing.assert_allclose(events["rescaled_time"] * unit, [time for time, *_ in crossings], rtol=passing)
    waiting = [crossing[4:] for crossing in crossings]
    np.testing.assert_allclose(events[["log_next", "log_next_own"]], waiting, rtol=passing, atol=10 * passing)


@pytest.mark.parametrize(("variant", "seed"), [("full", 3), ("full", 7), ("full_dense", 7)])
def test_flow_of_full_weights_is_that_of_the_weights_themselves(wired, variant, seed):
    toy, unit = problem(wired, variant, seed), -math.log(0.01)
    times, fine = times_to_record(wired, variant, seed) * unit, np.linspace(0, MAX_TIME * unit, 4000)
    weights = toy.flow(0.01 * toy.start, times)[0]
    values = [spectra(theta) for theta in toy.flow(0.01 * toy.start, fine)[0]]
    crossings = log_crossings(fine, values, levels_of(wired, variant, seed))
    of_flow = {"drift": 1e-2, "passing": 2e-3, "rtol": 1e-3, "atol": 2e-5}
    check_run(wired, variant, seed, times, weights, spectra, "flow", crossings, **of_flow)


def batches(variant, seed):
    """The samples of every step."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(SAMPLES) if variant == "diagonal_sgd" else np.arange(SAMPLES)
        size = BATCH if variant == "diagonal_sgd" else SAMPLES
        for start in range(0, SAMPLES - size + 1, size):
            yield order[start : start + size]


@pytest.mark.parametrize(("variant", "seed"), [("diagonal_gd", 7), ("diagonal_sgd", 3), ("diagonal_sgd", 7)])
def test_descent_takes_the_steps_of_a_plain_loop(wired, variant, seed):
    toy, levels = problem(wired, variant, seed), levels_of(wired, "diagonal", seed)
    steps = np.unique(np.rint(times_to_record(wired, "diagonal", seed) * -math.log(0.01) / STEP).astype(int))
    theta, weights, larger, values, samples = 0.01 * toy.start, [], [], [], batches(variant, seed)
    for step in range(steps[-1] + 1):
        if step in steps:
            weights.append(theta)
        W_K, W_Q, W_V, W_O = abs(theta)
        larger.append(np.concatenate([np.maximum(W_K, W_Q), np.maximum(W_V, W_O)]) ** 2)
        values.append(diagonals(theta))
        theta = theta + STEP * toy.loss_and_velocity(theta, next(samples))[1]
    crossings = log_crossings(STEP * np.arange(len(larger)), larger, levels, near=values)
    method = variant.removeprefix("diagonal_")
    tolerance = {"drift": 1e-9, "rtol": 1e-8, "atol": 1e-12}
    check_run(wired, variant, seed, steps * STEP, weights, diagonals, method, crossings, **tolerance)


@pytest.mark.parametrize("seed", [3, 7])
def test_stages_are_those_of_algorithm_1(wired, seed):
    stages = wired.table(f"toy/diagonal/seed_{seed}/stages")
    expected = pd.DataFrame(problem(wired, "diagonal", seed).stages(MAX_TIME))
    assert len(stages) == len(expected) >= 3
    assert stages["stage"].tolist() == list(range(1, len(expected) + 1))
    assert list(zip(stages["product"], stages["index"], strict=True)) == [LABELS[i] for i in expected["coordinate"]]
    assert stages["sign"].tolist() == expected["sign"].tolist()
    assert (stages["deactivated"] == 0).all()
    for column, name in {"predicted_time": "time", "loss": "loss", "gap_to_next": "gap_to_next"}.items():
        np.testing.assert_allclose(stages[column], expected[name], rtol=1e-6)
    np.testing.assert_allclose(stages["curvature"], expected["curvature"], rtol=1e-4)
    found = np.hstack([np.stack(stages["KQ"]), np.stack(stages["VO"])])
    np.testing.assert_allclose(found, np.stack(expected["product"]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("variant", "seed"), [("full", 3), ("full", 7), ("full_dense", 7)])
def test_stages_of_full_weights_are_those_of_their_algorithm_1(wired, variant, seed):
    toy, stages = problem(wired, variant, seed), wired.table(f"toy/{variant}/seed_{seed}/stages")
    expected = pd.DataFrame(toy.full_stages(MAX_TIME))
    assert len(stages) == len(expected) >= 3
    assert stages["stage"].tolist() == list(range(1, len(expected) + 1))
    assert (stages["sign"] == 1).all() and (stages["deactivated"] == 0).all() and stages["curvature"].isna().all()
    for column in ("product", "index"):
        assert stages[column].tolist() == expected[column].tolist()
    for column, name in {"predicted_time": "time", "loss": "loss", "gap_to_next": "gap_to_next"}.items():
        np.testing.assert_allclose(stages[column], expected[name], rtol=1e-5)
    found = np.stack([np.stack(stages["KQ"]), np.stack(stages["VO"])], axis=1)
    np.testing.assert_allclose(found, np.stack(expected["values"]), rtol=1e-5, atol=1e-9)
    assert (np.diff(stages["loss"]) < 0).all()


@pytest.mark.parametrize(("variant", "seed"), [("full", 3), ("full", 7), ("full_dense", 7)])
def test_the_first_stage_of_full_weights_waits_for_the_largest_singular_value_of_the_gradient_at_zero(
    wired, variant, seed
):
    toy, stages = problem(wired, variant, seed), wired.table(f"toy/{variant}/seed_{seed}/stages")
    VO = torch.zeros((DIM, DIM), dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(toy.loss(torch.zeros_like(VO), VO), VO)
    first = stages.iloc[0]
    assert (first["product"], first["index"]) == ("VO", 0)
    np.testing.assert_allclose(1 / first["predicted_time"], torch.linalg.matrix_norm(gradient, 2).item(), rtol=1e-9)


@pytest.mark.parametrize(
    ("variant", "seed", "alphas"),
    [
        ("diagonal", 3, ["0.01", "1e-8", "1e-32"]),
        ("diagonal", 7, ["0.01", "1e-8", "1e-32"]),
        ("full", 3, ["0.01", "1e-16"]),
        ("full", 7, ["0.01", "1e-16"]),
        ("full_dense", 7, ["0.01"]),
    ],
)
def test_theorem_compares_stages_with_activations_and_the_middle_of_stages(wired, variant, seed, alphas):
    stages, theorem = (wired.table(f"toy/{variant}/seed_{seed}/{name}") for name in ("stages", "theorem"))
    levels = dict(zip(LABELS, levels_of(wired, variant, seed), strict=True))
    ends = [*stages["predicted_time"][1:], MAX_TIME]
    rows = []
    for alpha in alphas:
        run = of_run(wired, "trajectory", variant, alpha, seed)
        events = of_run(wired, "events", variant, alpha, seed)
        rises = list(events[events["direction"] == 1][["product", "index", "rescaled_time"]].to_numpy())
        for stage, end in zip(stages.to_dict("records"), ends, strict=True):
            start, middle = stage["predicted_time"], (stage["predicted_time"] + end) / 2
            near = run[np.isclose(run["rescaled_time"], middle, rtol=1e-9)]
            assert len(near) == 2 * DIM
            limit = {label: stage[label[0]][label[1]] for label in LABELS}
            distance = max(abs(row["value"] - limit[row["product"], row["index"]]) for row in near.to_dict("records"))
            found = {(row["product"], row["index"]): row["value"] for row in near.to_dict("records")}
            missing = sum(found[k] * np.sign(limit[k]) < abs(limit[k]) / 2 for k in LABELS if limit[k])
            extra = sum(abs(found[k]) >= levels[k] for k in LABELS if not limit[k])
            own = [n for n, rise in enumerate(rises) if (rise[0], rise[1]) == (stage["product"], stage["index"])]
            time = rises[own[0]][2] if own else math.nan
            order, delay = own[0] + 1 if own else math.nan, (time - start) * -math.log(float(alpha))
            rows.append([alpha, stage["stage"], start, time, order, delay, distance, missing, extra])
    columns = ["alpha", "stage", "predicted_time", "measured_time", "measured_order", "scaled_delay", "distance"]
    columns += ["missing", "extra"]
    numbers = {"measured_order": float, "stage": int, "missing": int, "extra": int}
    found, expected = theorem[columns].astype(numbers), pd.DataFrame(rows, columns=columns).astype(numbers)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-9, atol=1e-12)


def test_a_coordinate_fails_to_become_active_and_another_comes_out_of_order(wired):
    """The study has what the comparison above is to tell apart."""
    theorem = wired.table("tables/theorem")
    assert theorem["measured_time"].isna().any()
    assert (theorem["measured_order"] != theorem["stage"]).any()
    assert (theorem["missing"] > 0).any() and (theorem["extra"] > 0).any()
    assert (wired.table("tables/events")["direction"] == -1).any()
    assert theorem["measured_time"].isna()[theorem["variant"] == "full"].any()


@pytest.mark.parametrize("seed", [3, 7])
def test_full_weights_of_a_small_scale_are_near_their_limit(wired, seed):
    """Weights themselves have no digits for this scale, so it is compared with the limit, and with a larger scale."""
    theorem = of_run(wired, "theorem", "full", "1e-16", seed)
    larger = of_run(wired, "theorem", "full", "0.01", seed)
    assert theorem["measured_order"].tolist() == theorem["stage"].tolist()
    assert (theorem["distance"].to_numpy() < larger["distance"].to_numpy() / 2).all()
    late, late_at_larger = (abs(rows["measured_time"] - rows["predicted_time"]).median() for rows in (theorem, larger))
    assert late < late_at_larger / 2


@pytest.mark.parametrize("seed", [3, 7])
def test_full_weights_of_a_small_scale_are_those_of_the_weights_themselves_until_one_is_active(wired, seed):
    """Weights themselves have no digits for what is far below the largest singular value."""
    toy, unit = problem(wired, "full", seed), -math.log(1e-16)
    times, _, values = recorded(wired, "full", "1e-16", seed)
    [first, *_] = wired.table(f"toy/full/seed_{seed}/stages")["predicted_time"]
    early = times < 0.9 * first * unit
    weights = toy.flow(1e-16 * toy.start, times[early])[0]
    assert early.sum() > 1
    expected = np.array([spectra(theta) for theta in weights]).reshape(-1, 2, DIM)
    known = expected > 1e-13 * expected.max(axis=2, keepdims=True)
    np.testing.assert_allclose(values[early].reshape(expected.shape)[known], expected[known], rtol=1e-3)


@pytest.mark.parametrize("seed", [3, 7])
def test_orbits_predict_when_stages_come_at_the_smallest_scale(wired, seed):
    orbits, theorem = (wired.table(f"toy/diagonal/seed_{seed}/{name}") for name in ("orbits", "theorem"))
    assert orbits["stage"].tolist() == sorted(set(theorem["stage"]))
    delays = theorem[theorem["alpha"] == "1e-32"].set_index("stage")["scaled_delay"]
    errors = abs(orbits.set_index("stage")["delay"] - delays)
    assert errors.median() < 0.05 * delays.abs().median()
    # The middles of stages before which, to first order, all stages so far have come, and no other.
    times, middles = theorem[theorem["alpha"] == "1e-32"].sort_values("stage")["predicted_time"].to_numpy(), []
    for time, end in zip(times, [*times[1:], MAX_TIME], strict=True):
        middles.append((time + end) / 2)
    for k, (bound, middle) in enumerate(zip(orbits["resolved_from"], middles, strict=True)):
        for size, right in ((1.001 * bound + 1e-9, True), (0.999 * bound, False)):
            come = [
                time + delay / size <= middle for time, delay in zip(times, orbits["delay"], strict=True) if size > 0
            ]
            assert not come or (come == [j <= k for j in range(len(times))]) == right


@pytest.mark.parametrize("seed", [3, 7])
def test_paths_perturbed_in_the_limit_end_at_the_stages(wired, seed):
    """Starts and noise are drawn again; ends are those of a descent in log|p|, as in the second Algorithm 1."""
    toy, stages = problem(wired, "diagonal", seed), wired.table(f"toy/diagonal/seed_{seed}/stages")
    found = wired.table(f"toy/diagonal/seed_{seed}/returns").to_dict("records")
    rng, thetas = np.random.default_rng([seed, 2]), np.hstack([np.stack(stages["KQ"]), np.stack(stages["VO"])])
    last = len(stages)
    for k in [1, 1 + round((last - 1) / 2), last]:
        goal, before = thetas[k - 1], thetas[k - 2] if k > 1 else np.zeros(2 * DIM)
        new = LABELS.index((stages["product"][k - 1], stages["index"][k - 1]))
        for assumption, at in (("4.3", goal), ("4.4", before)):
            signs = np.sign(at)
            if assumption == "4.4":
                signs[new] = stages["sign"][k - 1]
            for std in (0.02, 0.3):
                for draw in range(2):
                    p = signs * (np.sqrt(abs(at)) + std * rng.standard_normal(2 * DIM)) ** 2
                    row = found.pop(0)
                    assert (row["assumption"], row["stage"], row["std"], row["draw"]) == (assumption, k, std, draw)
                    np.testing.assert_allclose(row["start_distance"], abs(p - goal).max(), rtol=1e-6)
                    end = toy._rest(p.copy(), np.flatnonzero(p), np.sign(p))
                    np.testing.assert_allclose(row["end_distance"], abs(end - goal).max(), atol=1e-6)
    assert found == []


TAU, UNIT = 1e-5, -math.log(1e-16)
CHOICES = {"nonnegligible": TAU, "support": ACTIVE}


def moments_of(toy, assumption, rng):
    """Where the perturbed runs of an assumption start and end, the weights there, and which coordinate is activated."""
    start = 1e-16 * toy.start
    if assumption == "plateaus":
        times = np.sort(rng.uniform(0, MAX_TIME * UNIT, 3))
        weights, _ = toy.flow(start, np.r_[0, times], rtol=1e-7)
        _, crossings = toy.flow(start, np.array([0, (MAX_TIME + 10) * UNIT]), [ACTIVE], rtol=1e-7)
        rises = [time for time, _, _, direction, _ in crossings if direction == 1]
        nexts = [min([rise for rise in rises if rise > time], default=math.inf) for time in times]
        ends = [min(time + 5 * UNIT, (time + rise) / 2) for time, rise in zip(times, nexts, strict=True)]
        return [(time, end, theta, None) for time, end, theta in zip(times, ends, weights[1:], strict=True)]
    _, crossings = toy.flow(start, np.array([0, MAX_TIME * UNIT]), [TAU, ACTIVE], rtol=1e-7)
    upwards = [crossing for crossing in crossings if crossing[3] == 1]
    rises = [(time, i) for time, threshold, i, *_ in upwards if threshold == ACTIVE]
    moments = []
    for time, threshold, i, _, theta in upwards:
        own = [rise for rise, j in rises if j == i and rise > time]
        ends = [rise for rise, _ in rises if own and rise > own[0]]
        if threshold == TAU and ends:
            moments.append((time, (own[0] + ends[0]) / 2, theta, i))
    drawn = rng.choice(len(moments), size=min(3, len(moments)), replace=False)
    return [moments[number] for number in np.sort(drawn)]


@pytest.mark.parametrize(
    ("assumption", "std", "seed"), [("plateaus", 0.04, 3), ("plateaus", 0.04, 7), ("activations", 0.02, 7)]
)
def test_perturbed_runs_are_flows_of_perturbed_weights(wired, assumption, std, seed):
    toy, rng = problem(wired, "diagonal", seed), np.random.default_rng([seed, assumption == "activations"])
    table = wired.table("tables/perturbations")
    table = table[(table["assumption"] == assumption) & (table["seed"] == seed)]
    moments, stages = moments_of(toy, assumption, rng), wired.table(f"toy/diagonal/seed_{seed}/stages")
    assert sorted(table["run"].unique()) == list(range(len(moments)))
    for run, (start, end, theta, activated) in enumerate(moments):
        times, noise = np.linspace(start, end, 6), std * rng.standard_normal((2, 2 * DIM))
        of_u, of_v = noise.reshape(2, 2, DIM)
        noise = np.stack([of_u[0], of_v[0], of_u[1], of_v[1]])  # W_K and W_V are u, W_Q and W_O are v
        reference = [diagonals(weights) for weights in toy.flow(theta, times, rtol=1e-6)[0]]
        for noise_on, threshold in CHOICES.items():
            rows = table[(table["run"] == run) & (table["noise_on"] == noise_on)]
            np.testing.assert_allclose(rows["perturbed_at"] * UNIT, start, rtol=1e-4)
            past = stages[stages["predicted_time"] <= start / UNIT]["curvature"]
            expected = past.iloc[-1] / 2 * UNIT if len(past) else math.nan
            np.testing.assert_allclose(rows["relaxation"], expected)
            found = rows.assign(time=rows["rescaled_time"] * UNIT)
            larger = np.concatenate([abs(theta[:2]).max(axis=0), abs(theta[2:]).max(axis=0)])
            chosen = larger > threshold * (1 + 1e-6)
            if activated is not None:
                chosen[activated] = True
            mask = chosen.reshape(2, DIM).repeat(2, axis=0)
            perturbed = [diagonals(weights) for weights in toy.flow(theta + noise * mask, times, rtol=1e-6)[0]]
            for column, expected in {"value": perturbed, "reference": reference}.items():
                values = found.pivot(index="time", columns=["product", "index"], values=column)[LABELS]
                np.testing.assert_allclose(values.index, times, rtol=1e-4)
                np.testing.assert_allclose(values, expected, atol=1e-3)


def test_tables_of_the_study_have_the_rows_of_their_runs_under_the_right_names(wired):
    halves = {name: ("toy", "variant") for name in TOY_TABLES} | {
        name: ("networks", "network") for name in NETWORK_TABLES
    }
    halves |= {"perturbations": ("assumptions", "assumption")}
    del halves["measures"], halves["matrices"]  # which no single run has
    for name, (half, label) in halves.items():
        found, parts = wired.table(f"tables/{name}"), []
        for path in sorted((wired.results / half).rglob(f"{name}.parquet")):
            first, *folders = path.relative_to(wired.results / half).parts[:-1]
            if name == "stages" and first in ("diagonal_gd", "diagonal_sgd"):
                continue  # those of the flow again
            labels = {label: first} | {part.split("_")[0]: part.split("_", 1)[1] for part in folders}
            labels["seed"] = int(labels["seed"])
            frame = wired.table(path.relative_to(wired.results).with_suffix(""))
            parts.append(frame.assign(**{key: labels[key] for key in labels if key not in frame and key in found}))
        expected = pd.concat(parts)[found.columns]
        assert {"seed"} | {key for key in labels if half != "toy" or name not in OF_PROBLEMS} <= set(found)
        assert sorted(map(row_text, found.to_numpy())) == sorted(map(row_text, expected.to_numpy())), name
    for name in NETWORK_TABLES:
        for network in ("wide", "narrow"):
            assert set(wired.table(f"tables/{name}/{network}")["network"]) == {network}


def row_text(row):
    return json.dumps([list(value) if isinstance(value, np.ndarray) else str(value) for value in row])
