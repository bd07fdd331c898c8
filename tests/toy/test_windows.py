import numpy as np
import pandas as pd
import pytest

from rank_increase.toy.windows import Window


def perturbation(reference, value, step=1.0, perturbed_at=500.0):
    """A run of the table "perturbations" with two entries a product, in which only ("VO", 0) moves."""
    records = [
        (perturbed_at + step * number, product, index, *(paths if (product, index) == ("VO", 0) else (0.0, 0.0)))
        for number, paths in enumerate(zip(reference, value, strict=True))
        for product in ("KQ", "VO")
        for index in (0, 1)
    ]
    rows = pd.DataFrame(records, columns=["rescaled_time", "product", "index", "reference", "value"])
    return rows.assign(relaxation=0.4)


def test_a_window_is_measured_in_the_largest_difference_over_entries():
    reference = np.r_[np.linspace(0, 1, 6), np.full(5, 1.0)]
    window = Window.of(perturbation(reference, reference + np.linspace(0.4, 0.1, 11), step=0.5))
    assert (window.start_distance, window.end_distance) == pytest.approx((0.4, 0.1))
    assert (window.movement, window.final_speed) == (1.0, 0.0)
    assert window.ratio == pytest.approx(0.25)
    assert window.slowest == pytest.approx(np.exp(-0.4 * 5))
    on_support = Window.of(perturbation(reference, reference + np.linspace(0.2, 0.1, 11), step=0.5))
    assert window.distances(on_support) == "distance 0.400 to 0.100, ratio 0.25 (support: 0.50)"


def test_the_order_of_rows_does_not_matter():
    rows = perturbation(np.linspace(0, 1, 11), np.linspace(0.4, 1.1, 11))
    assert Window.of(rows.sample(frac=1, random_state=0)) == Window.of(rows)


def test_a_window_that_was_not_perturbed_says_so():
    still, moved = (Window.of(perturbation([1.0, 1.0], [1.0 + shift] * 2)) for shift in (0.0, 0.1))
    assert np.isnan(still.ratio)
    assert still.distances(still) == "not perturbed: no weight is active or above the threshold"
    assert moved.distances(still) == "distance 0.100 to 0.100, ratio 1.00 (support: not perturbed)"


def test_the_final_speed_is_that_of_the_last_tenth_per_unit_of_time():
    reference = np.r_[np.zeros(19), 0.1, 0.3]
    assert Window.of(perturbation(reference, reference, step=0.5)).final_speed == pytest.approx(0.3)


@pytest.mark.parametrize(("movement", "off"), [(0.049, False), (0.051, True)])
def test_only_a_reference_that_moves_is_not_on_a_plateau(movement, off):
    note, marked = Window(0.1, 0.05, movement, final_speed=9.0, slowest=0.624).plateau_note(0.05)
    assert note.endswith(", keeps 0.62")
    assert "keeps" not in Window(0.1, 0.05, movement, final_speed=9.0, slowest=np.nan).plateau_note(0.05)[0]
    assert marked == off and note.startswith("not on a plateau" if off else "on a plateau")
    assert f"{movement:.3f}" in note


@pytest.mark.parametrize(("speed", "restless"), [(0.009, False), (0.011, True)])
def test_only_a_reference_that_moves_at_the_end_is_not_at_rest(speed, restless):
    note, marked = Window(0.1, 0.05, movement=9.0, final_speed=speed, slowest=0.1).rest_note(0.01)
    assert marked == restless and note.startswith("window ends before rest" if restless else "window ends at rest")
