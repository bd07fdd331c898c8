from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rank_increase.notation import log_alpha
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.full_flow import FullFlow, full_run
from rank_increase.toy.problem import Problem
from reference import passages

DATA = Path(__file__).parents[1] / "data"


def thin(problem, dim_head):
    return replace(problem, theta_0=problem.theta_0[:, :, :dim_head].copy())


def in_the_weights(problem, alpha, times):
    """Losses and singular values of the flow by an explicit method of high order in the weights."""
    head, shape = problem.head(), problem.theta_0.shape
    solution = solve_ivp(
        lambda t, theta: head.velocity(theta.reshape(shape))[1].ravel(),
        (0, times[-1]),
        alpha * problem.theta_0.ravel(),
        "DOP853",
        times,
        rtol=1e-11,
        atol=1e-14,
    )
    weights = solution.y.T.reshape(-1, *shape)
    return (
        np.array([head.velocity(theta)[0] for theta in weights]),
        np.array([head.values(theta)[:, : shape[2]] for theta in weights]),
    )


@pytest.mark.parametrize("alpha", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize(("teacher", "dim_head"), [("diagonal", 6), ("dense", 6), ("dense", 3)])
def test_the_flow_agrees_with_an_explicit_method_of_high_order(small_problem, teacher, dim_head, alpha):
    problem = thin(small_problem(weights="full", teacher=teacher), dim_head)
    times = np.linspace(0, 150 * np.log(1 / alpha), 21)
    loss, values = in_the_weights(problem, alpha, times)
    assert values[-1].max() > 0.3
    for tolerance in (1e-2, 1e-4):
        run = full_run(problem, np.log(alpha), times, tolerance, weight=0.1)
        np.testing.assert_allclose(run.values, values, atol=10 * tolerance)
        np.testing.assert_allclose(run.loss, loss, atol=3 * tolerance)
        assert np.median(abs(run.log_values - np.log(values))) < 5 * tolerance
    np.testing.assert_array_equal(run.time, times)
    np.testing.assert_allclose(run.values, np.exp(run.log_values))
    expected = passages(times, values.reshape(21, -1), 0.01)
    assert [event[1:3] for event in run.events] == [event[1:] for event in expected]
    between = np.diff(times)[0]
    np.testing.assert_allclose([event.time for event in run.events], [event[0] for event in expected], atol=between)


@pytest.mark.parametrize("name", ["diagonal_teacher", "dense_teacher", "rectangular"])
def test_the_flow_agrees_with_one_of_many_digits_at_1e_minus_30(name):
    # tests/toy/make_full_reference.py made it, with an estimate of its own error.
    with np.load(DATA / f"full_flow_{name}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    problem = Problem(arrays["X"], arrays["Y"], arrays["theta_0"], np.empty((4, 0, 0)))
    times, expected = arrays["time"], arrays["log_values"]
    assert (arrays["errors"] < 1e-7).all()
    assert (expected[-1] > np.log(0.01)).sum() > expected[-1].size / 2
    errors = []
    for tolerance in (1e-2, 1e-3, 1e-4):
        run = full_run(problem, float(arrays["ln_alpha"]), times, tolerance, weight=0.1)
        wrong, order = abs(run.log_values - expected), tolerance ** (2 / 3)  # of a method of second order
        # The largest errors are where a singular value rises in a moment that is early or late, or passes zero.
        assert wrong.max() < 25 * order
        assert abs(run.loss - arrays["loss"]).max() < order * arrays["loss"][0]
        errors.append(np.median(wrong))
        assert errors[-1] < 0.05 * order
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


class OnDiagonal:
    """The loss of a head with diagonal weights, as a function of full products."""

    def __init__(self, head):
        self.head = head

    def loss_and_gradients(self, products):
        loss, g = self.head.loss_and_g(np.concatenate([np.diag(product) for product in products]))
        return loss, np.stack([np.diag(part) for part in np.split(g, 2)])


@pytest.mark.parametrize("alpha", ["1e-4", "1e-32", "1e-300"])
def test_with_diagonal_weights_the_flow_is_that_of_diagonal_weights(small_problem, monkeypatch, alpha):
    problem, ln_alpha = small_problem(samples=50), log_alpha(alpha)
    times = np.linspace(0, -300 * ln_alpha, 16)
    expected = diagonal_run(problem, ln_alpha, times, 1e-10, 1e-6, weight=0.1)
    wanted = np.isin(expected.time, times)
    theta = np.stack([np.diag(row) for row in problem.theta_0])
    head = OnDiagonal(problem.head())
    monkeypatch.setattr(Problem, "head", lambda self: head)
    run = full_run(replace(problem, theta_0=theta), ln_alpha, times, 1e-3, weight=0.1)
    np.testing.assert_allclose(run.values, -np.sort(-abs(expected.values[wanted])), atol=5e-3)
    np.testing.assert_allclose(
        run.log_values, -np.sort(-expected.log_values[wanted]), atol=5e-3 * -ln_alpha, err_msg="logarithms"
    )
    # Of diagonal weights, an event is a passage of the larger weight, which is one of the product up to alpha^4.
    measured = [event.time / -ln_alpha for event in run.events if event.direction == 1]
    known = [event.time / -ln_alpha for event in expected.events if event.direction == 1]
    assert len(known) >= 4
    np.testing.assert_allclose(measured, known, atol=1 / -ln_alpha)


@pytest.mark.parametrize("alpha", ["0.01", "1e-30", "1e-300"])
def test_what_the_flow_conserves_is_kept_in_units_of_alpha_squared(small_problem, alpha):
    problem, ln_alpha = small_problem(weights="full"), log_alpha(alpha)
    K, Q, V, O = problem.theta_0  # noqa: E741
    initial = [np.linalg.norm(K.T @ K - Q.T @ Q), np.linalg.norm(V.T @ V - O.T @ O)]
    times = np.linspace(0, -200 * ln_alpha, 11)
    for tolerance, allowed in ((1e-2, 2e-2), (1e-4, 1e-3)):
        run = full_run(problem, ln_alpha, times, tolerance, weight=0.1)
        assert run.values[-1].max() > 0.3
        assert run.log_unit == 2 * ln_alpha
        np.testing.assert_allclose(run.conservation[:, :, 1], [initial] * 11, rtol=1e-9)
        assert (run.conservation[:, :, 0] < allowed * run.conservation[:, :, 1]).all()


def test_half_the_tolerance_changes_no_event(small_problem):
    problem, ln_alpha = small_problem(weights="full", samples=50), log_alpha("1e-100")
    times = np.linspace(0, -300 * ln_alpha, 3)
    coarse, fine = (full_run(problem, ln_alpha, times, tolerance, weight=0.1) for tolerance in (1e-2, 5e-3))
    assert len(coarse.events) >= 6
    assert [event.coordinate for event in coarse.events] == [event.coordinate for event in fine.events]
    for column, error in (("time", 1e-3 * times[-1]), ("log_next", 0.3)):
        np.testing.assert_allclose(
            [getattr(event, column) for event in coarse.events],
            [getattr(event, column) for event in fine.events],
            atol=error,
        )


def test_an_event_is_where_a_singular_value_passes_the_square_of_the_weight(small_problem):
    problem, ln_alpha = small_problem(weights="full"), log_alpha("1e-16")
    run = full_run(problem, ln_alpha, np.array([0.0, -200 * ln_alpha]), 1e-3, weight=0.2)
    assert len(run.events) >= 4
    again = full_run(problem, ln_alpha, np.array([0.0, *(event.time for event in run.events)]), 1e-3, weight=0.2)
    for event, log_values in zip(run.events, again.log_values[1:], strict=True):
        above = log_values - np.log(0.04)
        assert above.ravel()[event.coordinate] == pytest.approx(0, abs=0.02)
        waiting = np.delete(above.ravel(), event.coordinate)
        assert event.log_next == pytest.approx(waiting[waiting < 0].max(), abs=0.05)


def test_longer_plateaus_cost_few_more_gradients(small_problem):
    problem, gradients = small_problem(weights="full"), []
    for alpha in ("1e-30", "1e-300"):
        ln_alpha = log_alpha(alpha)
        flow = FullFlow(problem.head(), problem.theta_0, ln_alpha, 1e-2)
        end = -100 * ln_alpha
        while flow.time < end:
            flow.step(end)
        gradients.append(flow.gradients)
    assert gradients[1] < 6 * gradients[0]
