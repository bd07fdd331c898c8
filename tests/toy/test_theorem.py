from math import log

import numpy as np
import pandas as pd
import pytest

from rank_increase.tables import read_table, write_table
from rank_increase.toy.theorem import compare_stages, mid_stage_times


@pytest.fixture
def tables(tmp_path):
    """Stages, trajectory and events of a made-up run of dimension 2, as the scripts read them from Parquet.

    VO 1 activates a little late, KQ 0 early, leaves and comes back; VO 0, active at the start, leaves and never
    activates; KQ 1 activates though not predicted.
    """
    stages = pd.DataFrame(
        {
            "stage": [1, 2, 3],
            "layer": 0,
            "head": 0,
            "product": ["VO", "KQ", "VO"],
            "index": [1, 0, 0],
            "sign": [1, -1, 1],
            "predicted_time": [10.0, 20.0, 40.0],
            "loss": [3.0, 2.0, 1.0],
            "gap_to_next": [1.0, 1.0, np.inf],
            "deactivated": [0, 0, 0],
            "curvature": [1.0, 1.0, 1.0],
            "KQ": [[0.0, 0.0], [-0.5, 0.0], [-0.5, 0.0]],
            "VO": [[0.0, 2.0], [0.0, 2.0], [1.0, 2.0]],
        }
    )
    # Products in the order KQ 0, KQ 1, VO 0, VO 1; plateaus have their middles at 15, 30 and 50.
    values = {
        0.0: [9.0, 9.0, 9.0, 9.0],
        14.9: [0.0, 0.01, 0.0, 2.25],
        30.0: [-0.5, 0.0, 0.0, 2.0],
        35.0: [9.0, 9.0, 9.0, 9.0],
        50.0: [-0.5, 0.0, 0.125, 2.0],
        60.0: [9.0, 9.0, 9.0, 9.0],
    }
    trajectory = pd.DataFrame(
        [
            (time, product, index, value)
            for time, row in values.items()
            for (product, index), value in zip([("KQ", 0), ("KQ", 1), ("VO", 0), ("VO", 1)], row, strict=True)
        ],
        columns=["rescaled_time", "product", "index", "value"],
    ).assign(layer=0, head=0, log_value=0.0)
    events = pd.DataFrame(
        [
            (0, "VO", 0, 3.0, -1),
            (1, "KQ", 1, 5.0, 1),
            (2, "VO", 1, 12.0, 1),
            (3, "KQ", 0, 19.0, 1),
            (4, "KQ", 0, 25.0, -1),
            (5, "KQ", 0, 28.0, 1),
        ],
        columns=["order", "product", "index", "rescaled_time", "direction"],
    ).assign(layer=0, head=0, log_next=0.0, log_next_own=0.0)
    for name, frame in (("stages", stages), ("trajectory", trajectory), ("events", events)):
        write_table(tmp_path / name, frame, name, {})
    return [read_table(tmp_path / name) for name in ("stages", "trajectory", "events")]


def test_stages_are_looked_at_in_their_middles(tables):
    np.testing.assert_array_equal(mid_stage_times(tables[0], 60.0), [15.0, 30.0, 50.0])
    np.testing.assert_array_equal(mid_stage_times(tables[0].iloc[:1], 60.0), [35.0])


def test_stages_are_compared_with_first_activations_and_the_nearest_record(tables, tmp_path):
    stages, trajectory, events = tables
    write_table(tmp_path / "theorem", compare_stages(stages, trajectory, events, "1e-8", 60.0), "theorem", {})
    found = read_table(tmp_path / "theorem")
    assert found["alpha"].tolist() == ["1e-8"] * 3
    assert found["stage"].tolist() == [1, 2, 3]
    assert found["product"].tolist() == ["VO", "KQ", "VO"]
    assert found["index"].tolist() == [1, 0, 0]
    assert found["predicted_time"].tolist() == [10.0, 20.0, 40.0]
    np.testing.assert_array_equal(found["measured_time"], [12.0, 19.0, np.nan])
    np.testing.assert_array_equal(found["measured_order"], [2, 3, np.nan])
    np.testing.assert_allclose(found["scaled_delay"], [2 * log(1e8), -log(1e8), np.nan], rtol=1e-12)
    np.testing.assert_allclose(found["distance"], [0.25, 0.0, 0.875], rtol=1e-12)


def test_the_order_of_rows_does_not_matter(tables):
    stages, trajectory, events = tables
    expected = compare_stages(stages, trajectory, events, "1e-8", 60.0)
    shuffled = trajectory.sample(frac=1, random_state=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(compare_stages(stages, shuffled, events, "1e-8", 60.0), expected)


def test_a_run_in_which_nothing_activates_has_no_measured_times(tables):
    stages, trajectory, events = tables
    found = compare_stages(stages, trajectory, events.iloc[:0], "1e-3000", 60.0)
    assert found["measured_time"].isna().all()
    assert found["measured_order"].isna().all()
    assert found["scaled_delay"].isna().all()
    np.testing.assert_allclose(found["distance"], [0.25, 0.0, 0.875], rtol=1e-12)
