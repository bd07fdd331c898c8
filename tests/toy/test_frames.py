import numpy as np
import pytest

from rank_increase.tables import read_table, write_table
from rank_increase.toy.algorithm1 import Stage
from rank_increase.toy.assumptions import PerturbedRun
from rank_increase.toy.frames import (
    conservation_frame,
    coordinate_labels,
    event_frame,
    loss_frame,
    perturbation_frame,
    stage_frame,
    trajectory_frame,
)
from rank_increase.toy.runs import Run


@pytest.fixture
def run():
    values = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]])
    return Run(np.array([0.0, 8.0]), np.array([0.3, 0.2]), values, [(2.0, 4, 1), (4.0, 0, -1)])


def test_a_run_becomes_a_row_per_record_and_product_entry(run):
    frame = trajectory_frame(run, -4.0)
    assert len(frame) == 12
    assert not frame[["layer", "head"]].any(axis=None)
    rows = frame.set_index(["rescaled_time", "product", "index"])
    assert rows.loc[(2.0, "VO", 1), "value"] == 5.5
    assert rows.loc[(0.0, "KQ", 2), "value"] == 3.0


def test_coordinates_of_a_transformer_are_numbered_through_layers_heads_and_products():
    shape = (2, 3, 2, 5)
    values = np.arange(60.0).reshape(1, *shape)
    frame = trajectory_frame(Run(np.array([0.0]), np.array([1.0]), values, []), -4.0)
    rows = frame.set_index(["layer", "head", "product", "index"])["value"]
    assert len(rows) == 60
    assert rows.loc[(1, 2, "KQ", 3)] == values[0, 1, 2, 0, 3]
    assert rows.loc[(0, 1, "VO", 4)] == values[0, 0, 1, 1, 4]
    labels = coordinate_labels([53, 19], shape)
    assert [labels[name].tolist() for name in ("layer", "head", "index")] == [[1, 0], [2, 1], [3, 4]]
    assert list(labels["product"]) == ["KQ", "VO"]
    stage = Stage(2.0, 19, 1, np.arange(60.0), 0.3, 0.5, (), 0.2)
    lists = stage_frame([stage], shape).iloc[0]
    np.testing.assert_array_equal(lists["KQ"], values[0, :, :, 0].ravel())
    np.testing.assert_array_equal(lists["VO"], values[0, :, :, 1].ravel())


def test_losses_of_a_run_have_both_times(run):
    expected = {"time": [0.0, 8.0], "rescaled_time": [0.0, 2.0], "loss": [0.3, 0.2]}
    assert loss_frame(run, -4.0).to_dict("list") == expected


def test_events_of_a_run_are_numbered_and_rescaled(run):
    assert event_frame(run, -4.0).astype({"product": str}).to_dict("list") == {
        "order": [0, 1],
        "layer": [0, 0],
        "head": [0, 0],
        "product": ["VO", "KQ"],
        "index": [1, 0],
        "rescaled_time": [0.5, 1.0],
        "direction": [1, -1],
    }


def test_a_run_without_events_makes_an_empty_table(run, tmp_path):
    quiet = Run(run.time, run.loss, run.values, [])
    write_table(tmp_path / "events.parquet", event_frame(quiet, -4.0), "events", {})
    assert len(read_table(tmp_path / "events.parquet")) == 0


def test_what_a_run_conserves_becomes_a_row_per_record_and_product(run, tmp_path):
    conservation = np.arange(12.0).reshape(2, 2, 3)
    frame = conservation_frame(Run(run.time, run.loss, run.values, [], conservation), -4.0, "gd")
    assert frame.set_index(["rescaled_time", "product"]).loc[(2.0, "KQ")].tolist() == ["gd", 6.0, 7.0, 8.0]
    write_table(tmp_path / "some.parquet", frame, "conservation", {})
    write_table(tmp_path / "none.parquet", conservation_frame(run, -4.0, "flow"), "conservation", {})
    assert [len(read_table(tmp_path / f"{name}.parquet")) for name in ("some", "none")] == [4, 0]


def test_perturbation_runs_become_rows_with_their_reference():
    times, reference = np.array([8.0, 12.0]), np.ones((2, 4))
    moments = [
        [PerturbedRun(name, times, np.arange(8.0).reshape(2, 4) + shift, reference) for name in ("all", "some")]
        for shift in (0, 100)
    ]
    frame = perturbation_frame(moments, -4.0, 2)
    assert len(frame) == 32
    assert set(frame["perturbed_at"]) == {2.0}
    rows = frame.set_index(["run", "noise_on", "rescaled_time", "product", "index"])[["value", "reference"]]
    assert rows.loc[(0, "all", 3.0, "VO", 1)].tolist() == [7.0, 1.0]
    assert rows.loc[(1, "some", 2.0, "KQ", 0)].tolist() == [100.0, 1.0]


def test_no_perturbation_runs_make_an_empty_table(tmp_path):
    write_table(tmp_path / "perturbations.parquet", perturbation_frame([], -4.0, 2), "perturbations", {})
    assert len(read_table(tmp_path / "perturbations.parquet")) == 0


def test_stages_are_numbered_from_one_and_give_both_products(tmp_path):
    stages = [
        Stage(2.0, 4, 1, np.array([0.0, 0.0, 0.0, 0.0, 0.7, 0.0]), 0.3, 0.5, (), 0.2),
        Stage(3.0, 0, -1, np.array([-0.4, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.1, np.inf, (4,), 0.1),
    ]
    write_table(tmp_path / "stages.parquet", stage_frame(stages, (2, 3)), "stages", {})
    found = read_table(tmp_path / "stages.parquet").astype({"product": str})
    products = {name: np.stack(found.pop(name)).tolist() for name in ("KQ", "VO")}
    assert products == {"KQ": [[0.0] * 3, [-0.4, 0.0, 0.0]], "VO": [[0.0, 0.7, 0.0], [0.0] * 3]}
    assert found.to_dict("list") == {
        "stage": [1, 2],
        "layer": [0, 0],
        "head": [0, 0],
        "product": ["VO", "KQ"],
        "index": [1, 0],
        "sign": [1, -1],
        "predicted_time": [2.0, 3.0],
        "loss": [0.3, 0.1],
        "gap_to_next": [0.5, np.inf],
        "deactivated": [0, 1],
        "curvature": [0.2, 0.1],
    }
    write_table(tmp_path / "none.parquet", stage_frame([], (2, 3)), "stages", {})
    assert len(read_table(tmp_path / "none.parquet")) == 0
