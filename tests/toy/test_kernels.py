import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from rank_increase.toy.kernels import LANES, exp, in_lanes, lanes_array, row, softmax, store, zeros


@njit
def compiled_exp(x):
    for i in range(len(x)):
        store(x, i, 0, exp(row(x, i, zeros(2))))


@njit
def compiled_softmax(S):
    softmax(S, zeros(3))


def exponentials(x):
    """Of a flat array, by the compiled function."""
    padded = lanes_array(-(-len(x) // (2 * LANES)), 2)
    padded.ravel()[: len(x)] = x
    compiled_exp(padded)
    return padded.ravel()[: len(x)]


@given(st.lists(st.floats(-708, 709, allow_subnormal=False), min_size=1))
def test_exp_is_right_to_two_units_in_the_last_place(x):
    exact = np.exp(np.longdouble(x))
    assert (abs(exponentials(np.array(x)) - exact) <= 2 * np.spacing(exact.astype(float))).all()


def test_exp_is_right_where_its_powers_of_two_change():
    x = np.log(2) * (np.arange(-2040, 2040) / 2)[:, None] + np.array([-1e-9, 0.0, 1e-9])
    np.testing.assert_allclose(exponentials(x.ravel()), np.exp(x.ravel()), rtol=2.3e-16 * 2)
    assert exponentials(np.zeros(1)) == 1


def test_exp_keeps_what_is_not_a_number():
    found = exponentials(np.array([0.0, np.nan, 1.0]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


@pytest.mark.parametrize("samples", [1, LANES - 1, LANES, 3 * LANES + 1])
def test_samples_lie_side_by_side_with_zeros_at_the_end(samples):
    X = np.random.default_rng(0).standard_normal((samples, 3, 5))
    blocks = in_lanes(X)
    assert blocks.shape == (-(-samples // LANES), 5, 3, LANES)
    back = blocks.transpose(0, 3, 2, 1).reshape(-1, 3, 5)
    np.testing.assert_array_equal(back[:samples], X)
    assert not back[samples:].any()


def test_arrays_begin_with_a_line_of_the_cache():
    arrays = [lanes_array(rows, 3) for rows in range(1, 40)]
    assert {array.ctypes.data % 64 for array in arrays} == {0}


def test_softmax_has_no_entry_that_is_negligible_but_not_zero():
    gaps = np.array([0.0, -1.0, -300.0, -345.0, -346.0, -709.0, -720.0, -745.0, -800.0, -1e15])
    columns = np.array([gaps, gaps[::-1] + 3, np.full(10, 7.0), np.r_[np.nan, gaps[1:]], np.r_[gaps[1:], np.nan]])
    S = lanes_array(10, 3)
    S[:, 1, 0], S[:, 2, -1], S[:, 0, 1], S[:, 1, 2], S[:, 0, 2] = columns
    compiled_softmax(S)
    expected = np.where(gaps > -345.5, np.exp(gaps), 0) / (1 + np.exp(-1))
    np.testing.assert_allclose(S[:, 1, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(S[:, 2, -1], expected[::-1], rtol=1e-14)
    np.testing.assert_allclose(S[:, 0, 1], 0.1, rtol=1e-14)
    assert np.isnan(S[:, 1, 2]).any()
    assert np.isnan(S[:, 0, 2]).any()
