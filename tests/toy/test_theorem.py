from math import log

import numpy as np
import pandas as pd
import pytest

from rank_increase.tables import read_table, write_table
from rank_increase.toy.frames import read_stages, stage_frame
from rank_increase.toy.runs import Stage
from rank_increase.toy.theorem import activation_levels, compare_stages, middles


def stage(time, coordinate, product):
    product = np.array(product)
    return Stage(time, coordinate, int(np.sign(product[coordinate])), product, 1.0, 1.0, (), 1.0)


@pytest.fixture
def tables(tmp_path):
    """Stages, trajectory and events of a made-up run of dimension 2, as the scripts read them from Parquet.

    VO 1 activates a little late, KQ 0 early, leaves and comes back; VO 0, active at the start, leaves and never
    activates; KQ 1 activates though not predicted.
    """
    stages = stage_frame(
        [
            stage(10.0, 3, [0.0, 0.0, 0.0, 2.0]),
            stage(20.0, 0, [-0.5, 0.0, 0.0, 2.0]),
            stage(40.0, 2, [-0.5, 0.0, 1.0, 2.0]),
        ],
        (2, 2),
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
    return read_stages(tmp_path / "stages", (2, 2)), *(read_table(tmp_path / name) for name in ("trajectory", "events"))


def test_stages_are_looked_at_in_their_middles(tables):
    np.testing.assert_array_equal(middles([stage.time for stage in tables[0]], 60.0), [15.0, 30.0, 50.0])
    np.testing.assert_array_equal(middles([tables[0][0].time], 60.0), [35.0])
    assert len(middles([], 60.0)) == 0


def test_a_coordinate_is_active_above_half_of_what_its_stage_gives_it():
    """The smallest of these if it comes back; what no stage activates, or not for long, must not pass any level."""
    found = [
        stage(1.0, 1, [0.0, -0.8, 0.0, 0.0]),
        stage(2.0, 0, [2.0, 0.0, 0.0, 0.0]),  # it leaves,
        stage(3.0, 1, [3.0, -0.2, 0.0, 0.0]),  # and comes back
        stage(4.0, 2, [3.0, -0.2, 0.0, 0.0]),  # leaves at once
    ]
    np.testing.assert_allclose(activation_levels(found), [1.0, 0.1, 0.1, 0.1])


def test_stages_are_compared_with_first_activations_and_the_nearest_record(tables, tmp_path):
    stages, trajectory, events = tables
    write_table(tmp_path / "theorem", compare_stages(stages, trajectory, events, "1e-8", 60.0, (2, 2)), "theorem", {})
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
    # In the middles, VO 1; KQ 0 too; but VO 0 has 0.125 where theta_3 has 1, and its level is 0.5.
    assert found[["missing", "extra"]].to_numpy().tolist() == [[0, 0], [0, 0], [1, 0]]


def test_coordinates_outside_the_support_and_of_the_wrong_sign_are_noticed(tables):
    stages, trajectory, events = tables
    trajectory.loc[trajectory["rescaled_time"] == 14.9, "value"] = [0.3, 0.2, 0.4, -2.0]
    found = compare_stages(stages, trajectory, events, "1e-8", 60.0, (2, 2))
    # KQ 0 is above 0.25, VO 0 is below 0.5; no stage activates KQ 1, so that it is held to the least, 0.25.
    assert found.loc[0, ["missing", "extra"]].tolist() == [1, 1]
    trajectory.loc[trajectory["rescaled_time"] == 14.9, "value"] = [0.0, -0.3, 0.6, 0.9]
    found = compare_stages(stages, trajectory, events, "1e-8", 60.0, (2, 2))
    assert found.loc[0, ["missing", "extra"]].tolist() == [1, 2]


def test_a_coordinate_that_passes_its_level_again_does_not_count_twice(tables):
    stages, trajectory, events = tables
    later = events.assign(rescaled_time=events["rescaled_time"].where(events["order"] != 2, 30.0))
    later = later.sort_values("rescaled_time")
    found = compare_stages(stages, trajectory, later, "1e-8", 60.0, (2, 2))
    # KQ 1, which no stage activates, then KQ 0, which comes again before VO 1 does.
    np.testing.assert_array_equal(found["measured_order"], [3, 2, np.nan])


def test_the_order_of_rows_does_not_matter(tables):
    stages, trajectory, events = tables
    expected = compare_stages(stages, trajectory, events, "1e-8", 60.0, (2, 2))
    shuffled = trajectory.sample(frac=1, random_state=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(compare_stages(stages, shuffled, events, "1e-8", 60.0, (2, 2)), expected)


def test_a_run_in_which_nothing_activates_has_no_measured_times(tables):
    stages, trajectory, events = tables
    found = compare_stages(stages, trajectory, events.iloc[:0], "1e-3000", 60.0, (2, 2))
    assert found["measured_time"].isna().all()
    assert found["measured_order"].isna().all()
    assert found["scaled_delay"].isna().all()
    np.testing.assert_allclose(found["distance"], [0.25, 0.0, 0.875], rtol=1e-12)
