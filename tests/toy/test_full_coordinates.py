import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import matrix as mp_matrix
from mpmath import mp, mpf

from rank_increase.notation import log_alpha
from rank_increase.toy.full_coordinates import FullCoordinates

seeds = st.integers(0, 2**32 - 1)
SHAPES = [(4, 4), (5, 5), (5, 3), (4, 1)]


def drawn(seed, dim, dim_head):
    return np.random.default_rng(seed).standard_normal((4, dim, dim_head))


def exact_log_values(theta, log_scale):
    """Logarithms of the singular values of exp(log_scale) W_L W_R^T for both products, in many digits."""
    found = []
    with mp.workdps(60):
        for left, right in (theta[:2], theta[2:]):
            product = mp_matrix(left.tolist()) * mp_matrix(right.tolist()).T
            values = mp.svd_r(product, compute_uv=False)
            found.append([float(mp.log(value) + mpf(log_scale)) for value in values][: theta.shape[2]])
    return np.array(found)


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES)
@given(seed=seeds)
def test_weights_become_a_state_and_come_back(dim, dim_head, seed):
    theta = drawn(seed, dim, dim_head)
    coordinates, state = FullCoordinates.of(theta, np.log(1e-3))
    np.testing.assert_allclose(coordinates.weights(state), 1e-3 * theta, atol=1e-14)
    products = theta[::2] @ theta[1::2].swapaxes(1, 2)
    np.testing.assert_allclose(coordinates.products(state), 1e-6 * products, atol=1e-17)


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES)
@given(seed=seeds)
def test_coordinates_are_canonical(dim, dim_head, seed):
    coordinates, state = FullCoordinates.of(drawn(seed, dim, dim_head), log_alpha("1e-300"))
    X, Y, plus, minus, rho = coordinates.parts(state)
    for frame in (X, Y):
        np.testing.assert_allclose(frame @ frame.swapaxes(1, 2), [np.eye(dim)] * 2, atol=1e-12)
    gram = plus @ plus.swapaxes(1, 2)
    expected = np.diag([1.0] * dim_head + [0.0] * (dim - dim_head))
    np.testing.assert_allclose(gram, [expected] * 2, atol=1e-10)
    assert (np.diff(rho) <= 0).all()
    sizes = np.log(np.maximum(np.linalg.norm(minus, axis=2), 1e-300)) + coordinates.kappa - rho
    assert (sizes <= rho + 1e-8).all()


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES)
@given(seed=seeds)
def test_a_canonical_state_stays_as_it_is(dim, dim_head, seed):
    coordinates, state = FullCoordinates.of(drawn(seed, dim, dim_head), log_alpha("1e-30"))
    kappa = coordinates.kappa.copy()
    again = coordinates.canonical(state)
    np.testing.assert_allclose(again, state, atol=1e-9)
    np.testing.assert_allclose(coordinates.kappa, kappa, atol=1e-9)


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES)
@given(seed=seeds)
def test_the_velocity_is_that_of_the_weights(dim, dim_head, seed):
    # The flow in the weights is W_L' = G W_R, W_R' = G^T W_L.
    theta = drawn(seed, dim, dim_head)
    G = np.random.default_rng(seed + 1).standard_normal((2, dim, dim))
    coordinates, state = FullCoordinates.of(theta, np.log(0.1))
    slope, change = coordinates.velocity(state, G), 1e-5
    found = (coordinates.weights(state + change * slope) - coordinates.weights(state - change * slope)) / (2 * change)
    K, Q, V, O = 0.1 * theta  # noqa: E741
    np.testing.assert_allclose(found, [G[0] @ Q, G[0].T @ K, G[1] @ O, G[1].T @ V], atol=1e-7)


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES)
@given(seed=seeds, time=st.floats(0.1, 1))
def test_changes_of_coordinates_leave_the_weights_alone(dim, dim_head, seed, time):
    rng = np.random.default_rng(seed)
    coordinates, state = FullCoordinates.of(drawn(seed, dim, dim_head), np.log(0.01))
    for _ in range(20):  # crude steps of a flow, which leave the canonical form
        state = state + time / 20 * coordinates.velocity(state, rng.standard_normal((2, dim, dim)))
    X, Y = coordinates.parts(state)[:2]
    for frame in (X, Y):
        frame[:] = (
            np.linalg.qr(frame.swapaxes(1, 2))[0].swapaxes(1, 2)
            * np.sign(np.diagonal(np.linalg.qr(frame.swapaxes(1, 2))[1], axis1=1, axis2=2))[:, :, None]
        )
    before = coordinates.weights(state), coordinates.conserved(state)
    after = coordinates.canonical(state)
    size = abs(before[0]).max()
    np.testing.assert_allclose(coordinates.weights(after), before[0], atol=1e-11 * size)
    np.testing.assert_allclose(coordinates.conserved(after), before[1], atol=1e-9 * (size / 0.01) ** 2)


@pytest.mark.parametrize(("dim", "dim_head"), SHAPES[:2])
@given(seed=seeds)
def test_the_smallest_init_scale_loses_no_digit(dim, dim_head, seed):
    theta, ln_alpha = drawn(seed, dim, dim_head), log_alpha("1e-3000")
    tiny, small = (FullCoordinates.of(theta, scale) for scale in (ln_alpha, 0.0))
    for found, expected in zip(tiny[0].parts(tiny[1])[:4], small[0].parts(small[1])[:4], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert not tiny[0].products(tiny[1]).any()
    np.testing.assert_allclose(tiny[0].log_values(tiny[1]), exact_log_values(theta, 2 * ln_alpha), rtol=1e-11)


@pytest.mark.parametrize(("dim", "dim_head"), [(4, 4), (5, 3)])
@given(seed=seeds, spread=st.floats(0, 40))
def test_logarithms_of_singular_values_are_exact_however_far_apart_they_are(dim, dim_head, seed, spread):
    # A flow with a fixed gradient spreads the singular values; each keeps its own digits.
    coordinates, state = FullCoordinates.of(drawn(seed, dim, dim_head), -200.0)
    plus, minus, rho = coordinates.parts(state)[2:]
    rho += np.linspace(spread, 0, dim)
    with mp.workdps(80):
        expected = []
        for p, m, r, k in zip(plus, minus, rho, coordinates.kappa, strict=True):
            large = mp.diag([mp.exp(mpf(float(v))) for v in r]) * mp_matrix(p.tolist())
            small = mp.diag([mp.exp(mpf(float(a)) - mpf(float(b))) for a, b in zip(k, r, strict=True)])
            small = small * mp_matrix(m.tolist())
            values = mp.svd_r((large + small) * (large - small).T / 2, compute_uv=False)
            expected.append([float(mp.log(value)) for value in values][:dim_head])
    np.testing.assert_allclose(coordinates.log_values(state), expected, atol=1e-6)


def test_diagonal_weights_keep_their_frames():
    theta = np.stack([np.diag(row) for row in drawn(0, 5, 1)[:, :, 0]])
    coordinates, state = FullCoordinates.of(theta, log_alpha("1e-32"))
    G = np.stack([np.diag(row) for row in np.random.default_rng(1).standard_normal((2, 5))])
    X, Y, plus, minus, rho = coordinates.parts(coordinates.velocity(state, G))
    for part in (X, Y, plus, minus):
        assert not part.any()
    # What grows with g_i is the sum of both weights, or with -g_i their difference.
    sums = abs(theta[::2] + theta[1::2]).max(axis=2) > abs(theta[::2] - theta[1::2]).max(axis=2)
    signed = np.where(sums, 1, -1) * np.diagonal(G, axis1=1, axis2=2)
    np.testing.assert_allclose(np.sort(rho), np.sort(signed))
