import numpy as np
import pytest

import collect_table
import compare_theorem
import make_problem
import perturb_toy
import run_algorithm1
import train_toy
from rank_increase.tables import read_table

OPTIONS = {
    "samples": 20,
    "tokens": 4,
    "dim": 6,
    "weights": "diagonal",
    "teacher": "diagonal",
    "teacher_std_KQ": 0.6,
    "teacher_std_VO": 0.8,
}
PARAMS = {"points": 5, "activation_weight": 0.1, "flow_rtol": 1e-10, "flow_atol": 1e-6}


@pytest.fixture
def study(tmp_path):
    """Runs the scripts of a diagonal study one after the other, up to a rescaled time; gives the folder of results."""

    def run(max_time, alpha="1e-32"):
        provenance = {"wildcards": {"structure": "diagonal", "alpha": alpha, "seed": "3"}}
        problem, stages = tmp_path / "problem.npz", tmp_path / "stages.parquet"
        trajectory, events = tmp_path / "trajectory.parquet", tmp_path / "events.parquet"
        conservation = tmp_path / "conservation.parquet"
        make_problem.main(problem, 3, OPTIONS)
        run_algorithm1.main(problem, stages, max_time=max_time, label="algorithm", provenance=provenance)
        params = {"max_time": max_time, **PARAMS}
        options = {"method": "flow", "params": params, "label": "run", "provenance": provenance}
        train_toy.main(problem, [stages], trajectory, events, conservation, alpha=alpha, seed=3, **options)
        theorem, paths = tmp_path / "theorem.parquet", ([trajectory], [events], [alpha])
        compare_theorem.main(stages, *paths, theorem, max_time=max_time, provenance=provenance)
        collect_table.main([events], tmp_path / "all_events.parquet", provenance={})
        return tmp_path

    return run


def test_a_study_has_its_tables(study):
    folder = study(400.0)
    stages, theorem = read_table(folder / "stages.parquet"), read_table(folder / "theorem.parquet")
    assert len(stages) == len(theorem) >= 3
    assert len(read_table(folder / "trajectory.parquet")) == (5 + len(stages)) * 12
    np.testing.assert_allclose(theorem["measured_time"], theorem["predicted_time"], atol=20)
    assert len(read_table(folder / "all_events.parquet")) == len(read_table(folder / "events.parquet"))


def test_a_study_too_short_for_any_stage_still_has_its_tables(study):
    folder = study(0.5)
    for name in ("stages", "theorem", "events", "all_events"):
        assert len(read_table(folder / f"{name}.parquet")) == 0
    assert len(read_table(folder / "trajectory.parquet")) == 5 * 12


@pytest.mark.parametrize("max_time", [0.5, 100.0])
@pytest.mark.parametrize("assumption", ["plateaus", "activations"])
def test_there_are_as_many_perturbation_runs_as_the_trajectory_has_moments_for(tmp_path, assumption, max_time):
    make_problem.main(tmp_path / "problem.npz", 3, OPTIONS)
    perturb_toy.main(
        tmp_path / "problem.npz",
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
        follow = table.groupby("run")["rescaled_time"].agg(np.ptp)
        np.testing.assert_allclose(follow, 6.1)
    else:
        assert runs == 0 if max_time < 1 else 1 <= runs < 12
