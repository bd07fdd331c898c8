"""The recipe: its learning rates, and the steps after which weights are kept."""

from itertools import pairwise
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runs import recipe


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    chosen = recipe(epochs=500, warmup_epochs=15, learning_rate=1e-4)
    rates = np.array([chosen.learning_rate_at(step, 97) for step in range(500 * 97)])
    warmup = 15 * 97
    np.testing.assert_allclose(rates[:warmup], 1e-4 * np.arange(1, warmup + 1) / warmup)
    assert rates[warmup] == rates.max() == 1e-4
    middle = warmup + (len(rates) - warmup) / 2
    assert chosen.learning_rate_at(middle, 97) == pytest.approx(0.5e-4)
    assert (np.diff(rates[warmup:]) < 0).all() and 0 < rates[-1] < 1e-11
    assert recipe(warmup_epochs=0, learning_rate=1e-4).learning_rate_at(0, 97) == 1e-4


@pytest.mark.parametrize(("epochs", "snapshots"), [(500, 25), (30, 12), (3, 20), (1, 2), (5, 2), (15, 16)])
def test_snapshots_are_log_spaced_with_first_and_last(epochs, snapshots):
    chosen = recipe(epochs=epochs, snapshots=snapshots).snapshot_epochs()
    assert chosen == sorted(set(chosen)) and chosen[0] == 0 and chosen[-1] == epochs
    assert len(chosen) == min(snapshots, epochs + 1)
    gaps = np.diff(chosen[1:])
    assert (np.diff(gaps) >= -1).all()  # they widen, but for rounding


recipes = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 60),
        "snapshots": st.integers(1, 80),
        "snapshots_per_doubling": st.integers(0, 7),
    }
)


@given(options=recipes, steps=st.integers(1, 500))
def test_snapshot_steps_are_ascending_from_0_to_the_last_with_ends_of_epochs(options, steps):
    chosen = recipe(**options)
    found = chosen.snapshot_steps(steps)
    assert all(type(step) is int for step in found)
    assert all(step < after for step, after in pairwise(found))
    assert found[0] == 0 and found[-1] <= options["epochs"] * steps
    of_epochs = {epoch * steps for epoch in chosen.snapshot_epochs()}
    assert of_epochs <= set(found)
    if not options["snapshots_per_doubling"]:
        assert of_epochs == set(found)


@given(options=recipes, steps=st.integers(1, 500))
def test_snapshots_beside_those_of_epochs_are_evenly_spaced_in_the_log_of_the_step(options, steps):
    count, last = options["snapshots_per_doubling"], options["epochs"] * steps
    chosen = recipe(**options)
    beside = set(chosen.snapshot_steps(steps)) - {epoch * steps for epoch in chosen.snapshot_epochs()}
    for step in range(1, last + 1):  # at most so many in each doubling
        assert sum(step < other <= 2 * step for other in beside) <= count
    if count:
        kept = set(chosen.snapshot_steps(steps))
        assert {2**power for power in range(last.bit_length())} <= kept  # 1, 2, 4, ... whatever the count
        ideal = [2 ** (number / count) for number in range(ceil(count * log2(last)) + 1)]
        for step in ideal:  # and every other place has its step
            assert step > last - 0.5 or any(abs(other - step) <= 0.5 for other in kept)
        assert all(any(abs(other - step) <= 0.5 for step in ideal) for other in beside)


def test_snapshot_steps_by_hand():
    chosen = recipe(epochs=5, snapshots=3, snapshots_per_doubling=2)
    assert chosen.snapshot_epochs() == [0, 1, 5]
    # 1, 2^0.5, 2, 2^1.5, 4, 2^2.5, 8, 2^3.5, 16, 2^4.5, and epochs of 7 steps
    assert chosen.snapshot_steps(7) == [0, 1, 2, 3, 4, 6, 7, 8, 11, 16, 23, 32, 35]
    assert recipe(epochs=5, snapshots=3).snapshot_steps(7) == [0, 7, 35]
    assert recipe(epochs=1, snapshots=1, snapshots_per_doubling=9).snapshot_steps(1) == [0, 1]
    assert recipe(epochs=2, snapshots=1, snapshots_per_doubling=1).snapshot_steps(8) == [0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("precision", "mixed"), [("auto", {"cuda"}), ("float32", set()), ("bfloat16", {"cuda", "cpu", "mps"})]
)
def test_activations_are_bfloat16_where_the_recipe_says(precision, mixed):
    chosen = recipe(precision=precision)
    assert {device for device in ("cuda", "cpu", "mps") if chosen.is_mixed(device)} == mixed


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "float16"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"learning_rate": 0.0},
        {"learning_rate": "1e-3"},
        {"snapshots": 0},
        {"snapshots_per_doubling": -1},
        {"snapshots_per_doubling": 0.5},
        {"warmup": 3},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        recipe(**wrong)
