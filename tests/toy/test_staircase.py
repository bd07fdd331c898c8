import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.toy.staircase import Staircase

STEPS = Staircase(np.array([0.0, 2.0, 4.0, 6.0]), np.array([1.0, 0.75, 0.5, 0.25]))


def test_steps_are_those_of_the_stages():
    stages = pd.DataFrame({"stage": [2, 1], "predicted_time": [4.0, 2.0], "loss": [0.5, 0.75]})
    found = Staircase.of(stages, 1.0)
    assert (found.times.tolist(), found.heights.tolist()) == ([0, 2, 4], [1, 0.75, 0.5])
    assert found.at(np.array([0, 1.9, 2, 3, 100])).tolist() == [1, 1, 0.75, 0.75, 0.5]


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 1.2)), min_size=2, max_size=8))
def test_the_distance_is_the_integral_of_a_fine_grid(records):
    time, loss = np.cumsum([step for step, _ in records]), np.array([value for _, value in records])
    edges = np.linspace(time[0], time[-1], 100001)
    middle = (edges[1:] + edges[:-1]) / 2
    expected = abs(np.interp(middle, time, loss) - STEPS.at(middle)).mean() * (time[-1] - time[0])
    assert STEPS.distance(time, loss) == pytest.approx(expected, abs=2e-4)


@given(st.floats(-1, 1))
def test_the_distance_of_steps_that_come_late_or_early_is_height_times_delay(delay):
    time = np.sort(np.concatenate([STEPS.times[1:] + delay - 1e-9, STEPS.times[1:] + delay, [0, 8]]))
    loss = STEPS.at(np.maximum(time - delay + 1e-12, 0))
    assert STEPS.distance(time, loss) == pytest.approx(3 * 0.25 * abs(delay), abs=1e-7)
