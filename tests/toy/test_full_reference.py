"""The stored multi-precision references of full weights, and the script that made them, run here with float64."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from make_full_reference import CASES, DATA, integrate, log_singular_values, velocity
from rank_increase.toy.heads import FullHead


@pytest.mark.parametrize("name", CASES)
def test_integration_of_the_weights_agrees_with_scipy_at_a_large_alpha(name):
    problem = CASES[name].problem()
    head, start, times = FullHead(problem.X, problem.Y), 0.1 * problem.theta_0, np.linspace(0, 30, 7)
    shape = start.shape
    flow = solve_ivp(
        lambda t, theta: head.velocity(theta.reshape(shape))[1].ravel(),
        (0, times[-1]),
        start.ravel(),
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-14,
    )
    states = list(integrate(lambda theta: velocity(problem.X, problem.Y, theta)[1], start, times, 1e-12))
    np.testing.assert_allclose(states, flow.y.T.reshape(-1, *shape), rtol=0, atol=1e-9)
    losses = [velocity(problem.X, problem.Y, theta)[0] for theta in states]
    assert losses == pytest.approx([head.velocity(theta)[0] for theta in states], rel=1e-12)
    assert losses[-1] < 0.7 * losses[0]  # something was learned meanwhile


@pytest.mark.parametrize("name", CASES)
def test_stored_problem_is_that_of_the_script(name):
    case, stored = CASES[name], np.load(DATA / f"full_flow_{name}.npz")
    problem = case.problem()
    for key in ("X", "Y", "theta_0"):
        np.testing.assert_allclose(stored[key], getattr(problem, key), rtol=1e-12, atol=1e-12)
    assert stored["ln_alpha"] == pytest.approx(-30 * np.log(10), rel=1e-15)
    np.testing.assert_array_equal(stored["time"], np.linspace(0, case.end, case.records))
    assert stored["log_values"].shape == (case.records, 2, case.rank)
    assert np.all(stored["errors"] < 1e-7)
    awake = stored["log_values"][-1] > -4
    assert awake.sum() >= 2 * case.rank - 1


@pytest.mark.parametrize("name", CASES)
def test_stored_flow_begins_with_the_exponential_of_the_linear_flow(name):
    """While weights are small G is constant, and zero for W_K W_Q^T."""
    stored = np.load(DATA / f"full_flow_{name}.npz")
    X, Y, log_values, rank = stored["X"], stored["Y"], stored["log_values"], stored["log_values"].shape[2]
    linear = log_values.max(axis=(1, 2)) < -40
    assert sum(linear) > 7
    means = np.broadcast_to(X.mean(axis=1, keepdims=True), X.shape)  # what equal attention weights make of X
    G = (means.transpose(0, 2, 1) @ Y).sum(axis=0) / X.size
    with mpmath.workdps(100):
        J = mpmath.matrix(np.block([[np.zeros((4, 4)), G], [G.T, np.zeros((4, 4))]]).tolist())
        start = mpmath.matrix(np.concatenate(stored["theta_0"][2:]).tolist())
        for time, (KQ, VO) in zip(stored["time"][linear][::3], log_values[linear][::3], strict=True):
            weights = mpmath.expm(float(time) * J) * start
            expected = log_singular_values(np.array((weights[:4, :] * weights[4:, :].T).tolist()), rank)
            np.testing.assert_allclose(VO, expected + 2 * stored["ln_alpha"], rtol=0, atol=1e-10)
            np.testing.assert_allclose(KQ, log_values[0, 0], rtol=0, atol=1e-10)
    assert stored["loss"][0] == pytest.approx((Y**2).mean() / 2, rel=1e-12)
