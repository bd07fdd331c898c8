import runpy
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from snakemake.iocontainers import Namedlist

from rank_increase import jobs
from rank_increase.tables import read_table
from rank_increase.toy import diagonal_flow, full_flow, greedy
from rank_increase.toy.algorithm1 import stages
from rank_increase.toy.problem import Problem
from reference import flow_in_weights, passages, torch_loss_and_velocity
from scripts.probes import collect_table
from scripts.toy import (
    compare_theorem,
    follow_orbits,
    make_problem,
    perturb_limit,
    perturb_toy,
    run_algorithm1,
    train_toy,
)

OPTIONS = {
    "samples": 20,
    "tokens": 4,
    "dim": 6,
    "weights": "diagonal",
    "teacher": "diagonal",
    "teacher_std_KQ": 0.6,
    "teacher_std_VO": 0.8,
}
TABLES = ("losses", "trajectory", "events", "conservation")  # of a run
PARAMS = {"points": 5, "activation_weight": 0.1, "flow_rtol": 1e-10, "flow_atol": 1e-6, "full_flow_tolerance": 1e-3}
PARAMS["decay"] = 0.0


@pytest.fixture
def study(tmp_path):
    """Runs the scripts of a diagonal study one after the other, up to a rescaled time; gives the folder of results."""

    def run(max_time, alpha="1e-32", decay=0.0, **structure):
        provenance = {"wildcards": {"variant": "diagonal", "alpha": alpha, "seed": "3"}}
        problem, stages = tmp_path / "problem.npz", tmp_path / "stages.parquet"
        tables = {name: tmp_path / f"{name}.parquet" for name in TABLES}
        make_problem.main(problem, 3, OPTIONS | structure)
        said = {"label": "it", "provenance": provenance}
        run_algorithm1.main(problem, stages, max_time=max_time, decay=decay, **said)
        params = {**PARAMS, "max_time": max_time, "decay": decay}
        options = {"method": "flow", "params": params, **said}
        train_toy.main(problem, [stages], tables, alpha=alpha, seed=3, **options)
        theorem, paths = tmp_path / "theorem.parquet", ([tables["trajectory"]], [tables["events"]], [alpha])
        compare_theorem.main(problem, stages, *paths, theorem, max_time=max_time, provenance=provenance)
        if not structure:
            follow_orbits.main(problem, stages, tmp_path / "orbits.parquet", max_time=max_time, **said)
            noise = {"stds": [0.05], "draws": 2, "stages": 2}
            perturb_limit.main(problem, stages, tmp_path / "returns.parquet", seed=3, noise=noise, **said)
        collect_table.main([tables["events"]], tmp_path / "all_events.parquet", provenance={})
        return tmp_path

    return run


def test_a_study_has_its_tables(study):
    folder = study(400.0)
    stages, theorem = read_table(folder / "stages.parquet"), read_table(folder / "theorem.parquet")
    assert len(stages) == len(theorem) >= 3
    times = read_table(folder / "losses.parquet")["rescaled_time"]
    assert len(read_table(folder / "trajectory.parquet")) == len(times) * 12
    middles = (stages["predicted_time"] + [*stages["predicted_time"][1:], 400.0]) / 2
    assert np.isclose(times.to_numpy()[:, None], [*np.linspace(0, 400, 5), *middles], rtol=1e-12).any(axis=0).all()
    assert len(times) > 5 + 4 * len(stages)
    np.testing.assert_allclose(theorem["measured_time"], theorem["predicted_time"], atol=20)
    orbits, returns = (read_table(folder / f"{name}.parquet") for name in ("orbits", "returns"))
    np.testing.assert_allclose(orbits["delay"], theorem["scaled_delay"], rtol=0.2, atol=10)
    assert orbits["stage"].tolist() == stages["stage"].tolist()
    assert returns.groupby(["assumption", "stage"]).size().to_dict() == {
        (assumption, stage): 2 for assumption in ("4.3", "4.4") for stage in (1, len(stages))
    }
    assert len(read_table(folder / "all_events.parquet")) == len(read_table(folder / "events.parquet"))


@pytest.mark.parametrize(
    ("structure", "decay"),
    [({"layers": 2, "heads": 2, "bias_std": 1.0, "dim": 3}, 0.0), ({"loss": "cross_entropy"}, 0.0005)],
)
def test_transformers_and_other_losses_follow_their_stages(study, structure, decay):
    folder = study(30.0 if "layers" in structure else 300.0, "1e-3000", decay, **structure)
    theorem = read_table(folder / "theorem.parquet")
    assert len(theorem) >= 3
    np.testing.assert_allclose(theorem["measured_time"], theorem["predicted_time"], rtol=0.05)
    assert np.median(theorem["distance"]) < 1e-4
    if "layers" in structure:
        assert theorem[["layer", "head"]].drop_duplicates().shape[0] >= 3


@pytest.mark.parametrize("block", [1, 2])
def test_blocks_follow_their_stages_and_are_numbered_one_after_the_other(study, block):
    folder = study(200.0, "1e-300", weights="full", block=block, dim=4)
    stages, theorem = read_table(folder / "stages.parquet"), read_table(folder / "theorem.parquet")
    assert len(theorem) == len(stages) >= 4
    np.testing.assert_allclose(theorem["measured_time"], theorem["predicted_time"], atol=1)
    assert np.median(theorem["distance"]) < 1e-4
    before = {"KQ": np.zeros(4), "VO": np.zeros(4)}
    for row in stages.to_dict("records"):
        gained = [(name, i) for name in before for i in np.flatnonzero((before[name] == 0) & (row[name] != 0))]
        assert gained == [(row["product"], row["index"])]
        before = {name: row[name] for name in before}
        for values in before.values():
            assert (np.diff(values.reshape(-1, block)) <= 0).all()


def test_a_study_too_short_for_any_stage_still_has_its_tables(study):
    folder = study(0.5)
    for name in ("stages", "theorem", "orbits", "returns", "events", "all_events"):
        assert len(read_table(folder / f"{name}.parquet")) == 0
    times = read_table(folder / "losses.parquet")["rescaled_time"]
    assert len(read_table(folder / "trajectory.parquet")) == len(times) * 12


@pytest.mark.parametrize("max_time", [0.5, 100.0])
@pytest.mark.parametrize("assumption", ["plateaus", "activations"])
def test_there_are_as_many_perturbation_runs_as_the_trajectory_has_moments_for(tmp_path, assumption, max_time):
    make_problem.main(tmp_path / "problem.npz", 3, OPTIONS)
    said = {"label": "it", "provenance": {}}
    run_algorithm1.main(tmp_path / "problem.npz", tmp_path / "stages.parquet", max_time=max_time, **said)
    perturb_toy.main(
        tmp_path / "problem.npz",
        tmp_path / "stages.parquet",
        tmp_path / "perturbations.parquet",
        assumption=assumption,
        seed=3,
        alpha="1e-32",
        noise={"runs": 1000 if assumption == "activations" else 2, "std": 0.01, "follow": 6.1},
        weights={"threshold": 1e-5, "active": 0.1},
        max_time=max_time,
        points=3,
        tolerances={"rtol": 1e-10, "atol": 1e-6},
        provenance={},
    )
    table = read_table(tmp_path / "perturbations.parquet")
    runs = table["run"].nunique()
    assert len(table) == runs * 2 * 3 * 12
    if assumption == "plateaus":
        assert runs == 2
        assert (table.groupby("run")["rescaled_time"].agg(np.ptp) <= 6.1 * (1 + 1e-9)).all()
    else:
        assert runs == 0 if max_time < 1 else 1 <= runs < 12


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """Runs the script of a rule in `tmp_path` as Snakemake does, though without its log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "start_job", lambda snakemake: {"wildcards": dict(snakemake.wildcards.items())})

    def run(rule, **parts):
        named = {name: Namedlist(fromdict=parts.get(name, {})) for name in ("input", "output", "params", "wildcards")}
        script = Path(train_toy.__file__).with_name(f"{rule}.py")
        runpy.run_path(str(script), {"snakemake": SimpleNamespace(**named)}, "__main__")

    return run


@pytest.fixture
def make(run_script, tmp_path):
    """The problem of a seed, written to problem.npz by the script."""

    def make(seed, weights="diagonal", teacher="diagonal"):
        params = {key: OPTIONS[key] for key in ("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO")}
        run_script(
            "make_problem",
            output={"problem": "problem.npz"},
            params={**params, "weights": weights, "teacher": teacher, "code": "0123456789ab"},
            wildcards={"variant": "any", "seed": str(seed)},
        )
        return Problem.load("problem.npz")

    return make


@pytest.fixture
def train(run_script):
    """The tables of a run on problem.npz, by the script: a dict."""

    def train(seed, alpha, method, **params):
        run_script(
            "train_toy",
            input={"problem": "problem.npz", "stages": []},
            output={name: f"{name}.parquet" for name in TABLES},
            params={**PARAMS, "method": method, **params},
            wildcards={"variant": "any", "alpha": alpha, "seed": str(seed)},
        )
        return {name: read_table(f"{name}.parquet") for name in TABLES}

    return train


def recorded(trajectory, dim=6):
    """Products of a trajectory, shape (records, 2 dim), those of keys and queries first, and their rescaled times."""
    keys = {"index": "rescaled_time", "columns": ["product", "index"]}
    values = trajectory.astype({"product": str}).pivot(values="value", **keys)
    return np.hstack([values[name][range(dim)] for name in ("KQ", "VO")]), values.index.to_numpy()


@pytest.mark.parametrize("teacher", ["diagonal", "dense"])
@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_a_problem_has_weights_and_teacher_of_the_form_that_its_variant_says(make, weights, teacher):
    problem = make(3, weights, teacher)
    shapes = {"diagonal": (4, 6), "full": (4, 6, 6), "dense": (4, 6, 6)}
    assert (problem.theta_0.shape, problem.teacher.shape) == (shapes[weights], shapes[teacher])
    W_K, W_Q, W_V, W_O = [np.diag(weight) if teacher == "diagonal" else weight for weight in problem.teacher]
    for X, Y in zip(problem.X, problem.Y, strict=True):
        P = np.exp(X @ W_K @ W_Q.T @ X.T)
        np.testing.assert_allclose(Y, P / P.sum(axis=1, keepdims=True) @ X @ W_V @ W_O.T, rtol=1e-9)
    assert all(np.count_nonzero(weight) == (6 if teacher == "diagonal" else 36) for weight in (W_K, W_Q, W_V, W_O))
    assert problem.X.shape == (20, 4, 6)
    assert (make(4, weights, teacher).X != problem.X).all()


def descent(problem, alpha, step, steps, batches):
    """Weights and losses after each step of descent on `batches`, an iterator of indices."""
    theta, visited, losses = alpha * problem.theta_0, [], []
    for _ in range(steps + 1):
        visited.append(theta)
        losses.append(torch_loss_and_velocity(problem, theta)[0])
        theta = theta + step * torch_loss_and_velocity(problem, theta, next(batches))[1]
    return np.array(visited), np.array(losses)


def diagonals(theta):
    """Products of diagonal weights, shape (steps, 2 dim)."""
    return np.hstack([theta[:, 0] * theta[:, 1], theta[:, 2] * theta[:, 3]])


def minibatches(samples, size, seed):
    """Each epoch a permutation, cut into whole batches; what is left over is not used."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(samples)
        yield from order[: samples // size * size].reshape(-1, size)


@pytest.mark.parametrize("alpha", ["0.1", "0.3"])
def test_sgd_takes_the_samples_in_the_order_of_its_seed_at_every_scale(make, train, alpha):
    problem, found = make(3), {}
    options = {"max_time": 12 / -log(float(alpha)), "step": 0.5, "batch_size": 8}
    for seed in (3, 4):  # on the same problem, so that nothing but the order differs
        tables = train(seed, alpha, "sgd", **options)
        found[seed], times = recorded(tables["trajectory"])
        np.testing.assert_allclose(tables["losses"]["time"], [0, 3, 6, 9, 12])
        np.testing.assert_allclose(times, np.arange(0, 15, 3) / -log(float(alpha)))
        theta, losses = descent(problem, float(alpha), 0.5, 24, minibatches(20, 8, seed))
        np.testing.assert_allclose(found[seed], diagonals(theta[[0, 6, 12, 18, 24]]), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(tables["losses"]["loss"], losses[[0, 6, 12, 18, 24]], rtol=1e-9)
    assert (found[3][1:] != found[4][1:]).all()


def test_gradient_descent_takes_all_samples_whatever_the_seed(make, train):
    problem = make(3)
    theta, losses = descent(problem, 0.1, 1.5, 240, iter([slice(None)] * 241))
    larger = np.hstack([abs(theta[:, :2]).max(axis=1), abs(theta[:, 2:]).max(axis=1)])
    crossed = passages(1.5 * np.arange(241), larger, 0.2)
    options = {"max_time": 360 / log(10), "step": 1.5, "batch_size": 8, "activation_weight": 0.2}
    for seed in (3, 4):
        tables = train(seed, "0.1", "gd", **options)
        found, times = recorded(tables["trajectory"])
        np.testing.assert_allclose(found, diagonals(theta[::60]), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(tables["losses"]["loss"], losses[::60], rtol=1e-9)
        np.testing.assert_allclose(tables["losses"]["time"], np.arange(0, 450, 90.0))
        np.testing.assert_allclose(tables["losses"]["rescaled_time"], tables["losses"]["time"] / log(10))
        np.testing.assert_array_equal(tables["losses"]["rescaled_time"], times)
        events = tables["events"]
        numbers = 6 * (events["product"] == "VO") + events["index"]
        assert list(zip(numbers, events["direction"], strict=True)) == [event[1:] for event in crossed]
        np.testing.assert_allclose(events["rescaled_time"], [event[0] / log(10) for event in crossed])
        assert set(tables["conservation"]["method"]) == {"gd"}
    assert len(crossed) > 0


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_the_flow_and_its_events_are_those_of_the_weights(make, train, weight):
    problem, times = make(3), np.linspace(0, 500, 2001)
    theta = 0.01 * problem.theta_0
    u, v = flow_in_weights(problem.head(), theta[[0, 2]].ravel(), theta[[1, 3]].ravel(), times).transpose(1, 0, 2)
    tables = train(5, "0.01", "flow", max_time=500 / log(100), activation_weight=weight)
    found, rescaled = recorded(tables["trajectory"])
    assert np.isclose(rescaled[:, None] * log(100), times[::500]).any(axis=0).all()
    expected = np.stack([np.interp(rescaled * log(100), times, column) for column in (u * v).T], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    losses = [problem.head().loss_and_g(p)[0] for p in expected]
    np.testing.assert_allclose(tables["losses"]["loss"], losses, atol=1e-5)
    events = tables["events"]
    crossed = passages(times, np.maximum(abs(u), abs(v)), weight)
    assert len(crossed) >= 2
    assert [event[1:] for event in crossed] == list(
        zip(6 * (events["product"] == "VO") + events["index"], events["direction"], strict=True)
    )
    np.testing.assert_allclose(events["rescaled_time"], [event[0] / log(100) for event in crossed], atol=0.01)
    assert tables["conservation"].empty


@pytest.mark.parametrize(
    ("weights", "module", "solver", "keys"),
    [
        ("diagonal", diagonal_flow, "diagonal_run", ["flow_rtol", "flow_atol"]),
        ("full", full_flow, "full_run", ["full_flow_tolerance"]),
    ],
    ids=["diagonal", "full"],
)
def test_a_flow_is_solved_to_the_bounds_for_its_form_of_weights(
    make, train, monkeypatch, weights, module, solver, keys
):
    make(3, weights)
    solve, bounds = getattr(module, solver), []
    monkeypatch.setattr(module, solver, lambda *args, **options: bounds.append(args[3:]) or solve(*args, **options))
    params = {"flow_rtol": 1e-9, "flow_atol": 1e-5, "full_flow_tolerance": 2e-3}
    train(3, "0.01", "flow", max_time=5.0, **params)
    assert bounds == [tuple(params[key] for key in keys)]


def test_a_table_of_stages_has_what_algorithm_1_finds(make, run_script):
    head = make(3).head()
    run_script(
        "run_algorithm1",
        input={"problem": "problem.npz"},
        output={"stages": "stages.parquet"},
        params={"max_time": 200.0, "decay": 0.0},
        wildcards={"variant": "diagonal", "seed": "3"},
    )
    table, expected = read_table("stages.parquet"), list(stages(head, 12, max_time=200.0))
    assert len(expected) >= 3
    np.testing.assert_array_equal(table["stage"], np.arange(len(expected)) + 1)
    np.testing.assert_array_equal(
        np.hstack([np.stack(table["KQ"]), np.stack(table["VO"])]), [s.product for s in expected]
    )
    assert (6 * (table["product"] == "VO") + table["index"]).tolist() == [stage.coordinate for stage in expected]
    assert table["deactivated"].tolist() == [len(stage.deactivated) for stage in expected]
    for column in ("sign", "loss", "gap_to_next", "curvature"):
        assert table[column].tolist() == [getattr(stage, column) for stage in expected]
    assert table["predicted_time"].tolist() == [stage.time for stage in expected]


def test_a_table_of_stages_of_full_weights_has_what_the_greedy_limit_finds(make, run_script):
    head = make(3, "full").head()
    run_script(
        "run_algorithm1",
        input={"problem": "problem.npz"},
        output={"stages": "stages.parquet"},
        params={"max_time": 100.0, "decay": 0.0},
        wildcards={"variant": "full", "seed": "3"},
    )
    table, expected = read_table("stages.parquet"), list(greedy.stages(head, 6, max_time=100.0))
    assert len(expected) >= 3
    for row, stage in zip(table.itertuples(), expected, strict=True):
        values = np.linalg.svd(stage.products, compute_uv=False)
        np.testing.assert_allclose([row.KQ, row.VO], values, atol=1e-12)
        ranks = (values > 1e-6).sum(axis=1)
        assert row.index == ranks[int(row.product == "VO")] - 1
        assert (row.predicted_time, row.loss, row.deactivated) == (stage.time, stage.loss, 0)
    assert table["curvature"].isna().all()


def test_each_scale_is_compared_with_the_stages_by_its_own_tables(study, run_script, tmp_path):
    parts, expected = [], []
    for alpha in ("1e-8", "1e-32"):
        folder = study(300.0, alpha)
        parts.append(
            [(folder / f"{name}.parquet").rename(folder / f"{name}_{alpha}") for name in ("trajectory", "events")]
        )
        expected.append(read_table(folder / "theorem.parquet"))
    trajectories, events = ([str(path) for path in paths] for paths in zip(*parts, strict=True))
    run_script(
        "compare_theorem",
        input={"problem": "problem.npz", "stages": "stages.parquet", "trajectories": trajectories, "events": events},
        output={"theorem": "theorem.parquet"},
        params={"alphas": ["1e-8", "1e-32"], "max_time": 300.0},
    )
    found = read_table("theorem.parquet")
    for alpha, rows in zip(("1e-8", "1e-32"), expected, strict=True):
        of_alpha = found[found["alpha"] == alpha].reset_index(drop=True)
        assert len(rows) >= 3
        assert of_alpha.equals(rows)


ALPHA, THRESHOLD, ACTIVE, STD = 0.01, 0.05, 0.1, 0.02


@pytest.fixture
def perturb(run_script):
    """The table of perturbation runs on problem.npz, by the script."""

    def perturb(assumption, seed, **noise):
        options = {"input": {"problem": "problem.npz"}, "output": {"stages": "stages.parquet"}}
        run_script(
            "run_algorithm1",
            **options,
            params={"max_time": 250.0, "decay": 0.0},
            wildcards={"variant": "a", "seed": "3"},
        )
        run_script(
            "perturb_toy",
            input={"problem": "problem.npz", "stages": "stages.parquet"},
            output={"perturbations": "perturbations.parquet"},
            params={
                "settings": {"alpha": str(ALPHA), "threshold": THRESHOLD, "points": 3},
                "activation_weight": ACTIVE,
                "noise": {"std": STD, **noise},
                "max_time": 250.0,
                "flow_rtol": 1e-10,
                "flow_atol": 1e-6,
            },
            wildcards={"assumption": assumption, "seed": str(seed)},
        )
        return read_table("perturbations.parquet").astype({"product": str})

    return perturb


def perturbed_flows(problem, moments, rng):
    """Products of each run, (3, p), for either choice of weights and without noise; `moments` are starts and ends."""
    head, starts = problem.head(), ALPHA * problem.theta_0
    starts = starts[[0, 2]].ravel(), starts[[1, 3]].ravel()
    for start, end, activated in moments:
        weights = flow_in_weights(head, *starts, np.array([0.0, start]))[-1]
        noise = STD * rng.standard_normal((2, 12))
        larger, times = abs(weights).max(axis=0), np.linspace(start, end, 3)
        support = (larger > ACTIVE) | (np.arange(12) == activated)
        runs = {"nonnegligible": support | (larger > THRESHOLD), "support": support, "reference": np.zeros(12)}
        yield {name: flow_in_weights(head, *(weights + noise * on), times).prod(axis=1) for name, on in runs.items()}


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("assumption", ["plateaus", "activations"])
def test_perturbation_runs_are_those_of_their_seed(make, perturb, assumption, seed):
    problem, unit = make(3), -log(ALPHA)
    theta, times = ALPHA * problem.theta_0, np.linspace(0, 265 * unit, 4241)
    weights = flow_in_weights(problem.head(), theta[[0, 2]].ravel(), theta[[1, 3]].ravel(), times)
    size = abs(weights).max(axis=1)
    if assumption == "plateaus":
        rng = np.random.default_rng([seed, 0])
        table = perturb("plateaus", seed, runs=3, follow=6.1)
        rises = [time for time, _, direction in passages(times, size, ACTIVE) if direction == 1]
        moments = []
        for time in np.sort(rng.uniform(0, 250 * unit, 3)):
            next_one = min([rise for rise in rises if rise > time], default=np.inf)
            moments.append((time, min(time + 6.1 * unit, (time + next_one) / 2), None))
    else:
        rng = np.random.default_rng([seed, 1])
        table = perturb("activations", seed, runs=2)
        size = size[times <= 250 * unit]
        times = times[: len(size)]
        active = {i: time for time, i, _ in passages(times, size, ACTIVE)}
        moments = []
        for start, i, _ in passages(times, size, THRESHOLD):
            later = [time for time in active.values() if time > active.get(i, np.inf)]
            moments += [(start, (active[i] + min(later)) / 2, i)] if later else []
        assert len(moments) > 2
        moments = [moments[i] for i in np.sort(rng.choice(len(moments), 2, replace=False))]
    assert table["run"].nunique() == len(moments)
    for number, (moment, expected) in enumerate(zip(moments, perturbed_flows(problem, moments, rng), strict=True)):
        for noise_on in ("nonnegligible", "support"):
            rows = table[(table["run"] == number) & (table["noise_on"] == noise_on)]
            np.testing.assert_allclose(rows["perturbed_at"], moment[0] / unit, atol=0.01)
            found, times = recorded(rows)
            np.testing.assert_allclose(times * unit, np.linspace(*moment[:2], 3), atol=0.05)
            np.testing.assert_allclose(found, expected[noise_on], atol=2e-4)
            reference = recorded(rows.assign(value=rows["reference"]))[0]
            np.testing.assert_allclose(reference, expected["reference"], atol=2e-4)
