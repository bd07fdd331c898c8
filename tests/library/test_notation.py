from math import log

import pytest

from rank_increase.notation import alpha_label, log_alpha, sort_alphas


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [("0.1", log(0.1)), ("1e-32", -32 * log(10)), ("1e-3000", -3000 * log(10)), ("2.5e-8", log(2.5e-8))],
)
def test_log_alpha_of_numbers_beyond_float64(alpha, expected):
    assert log_alpha(alpha) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("alpha", ["0", "-1", "abc", "", "nan", "inf", "0.0", "1e", "-1e-3000"])
def test_log_alpha_refuses_what_is_no_positive_number(alpha):
    with pytest.raises(ValueError, match=f"alpha must be a positive number, not '{alpha}'"):
        log_alpha(alpha)


def test_init_scales_are_sorted_from_the_largest_each_once():
    alphas = ["1e-3000", "0.1", "1e-4", "1", "0.1", "2.5e-8"]
    assert sort_alphas(alphas) == ["1", "0.1", "1e-4", "2.5e-8", "1e-3000"]
    assert sort_alphas([]) == []


def test_an_init_scale_is_shown_as_the_configuration_has_it():
    assert alpha_label("1e-3000") == "α = 1e-3000"
