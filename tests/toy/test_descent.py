from math import log

import numpy as np
import pytest

from rank_increase.toy.descent import descent_run
from rank_increase.toy.runs import balance, recorded_events


def gradient_descent(problem, alpha, step, steps):
    head, theta = problem.head(), alpha * problem.theta_0
    visited = [theta]
    for _ in range(steps):
        theta = theta + step * head.velocity(theta)[1]
        visited.append(theta)
    return visited


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_gradient_descent_records_loss_and_values_after_whole_steps(small_problem, weights):
    problem = small_problem(weights=weights)
    called = []
    run = descent_run(problem, log(0.1), [0.0, 1.0, 1.1, 7.4, 20.0], step=0.5, weight=0.1, on_step=called.append)
    np.testing.assert_array_equal(run.time, [0.0, 1.0, 7.5, 20.0])
    assert called == run.time.tolist()
    visited = gradient_descent(problem, 0.1, 0.5, 40)
    for record, steps in enumerate([0, 2, 15, 40]):
        assert run.loss[record] == pytest.approx(problem.head().velocity(visited[steps])[0], rel=1e-10)
        np.testing.assert_allclose(run.values[record], problem.head().values(visited[steps]), rtol=1e-9)
    assert run.values.shape == (4, 2, 6)


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_a_short_step_conserves_what_gradient_flow_does_and_a_longer_one_less(small_problem, weights):
    problem = small_problem(weights=weights)
    runs = [descent_run(problem, log(0.1), [0, 40], step=step, weight=0.1) for step in (0.01, 0.1)]
    drift = np.array([run.conservation[-1, :, 0] / run.conservation[-1, :, 1] for run in runs])
    assert (runs[0].conservation[0, :, 0] == 0).all()
    assert (drift[0] < 0.01).all()
    np.testing.assert_allclose(drift[1] / drift[0], 10, rtol=0.1)  # Lemma 4.1 is about the limit of short steps


def test_balance_of_diagonal_weights_is_the_difference_of_squares():
    start = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    theta = np.array([[2.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    found = balance(theta, start)
    np.testing.assert_allclose(found, [[3, np.hypot(1, 3), 9], [0, 3, 7]])
    full = balance(*(np.stack([np.diag(weight) for weight in weights]) for weights in (theta, start)))
    np.testing.assert_allclose(full, found)


def test_sgd_with_all_samples_in_a_batch_is_gradient_descent(small_problem):
    problem = small_problem()
    options = {"step": 0.5, "weight": 0.1}
    gd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), **options)
    sgd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), batch_size=20, **options)
    np.testing.assert_allclose(sgd.values, gd.values, rtol=1e-10, atol=1e-13)


def test_sgd_visits_every_sample_once_an_epoch_in_an_order_of_its_seed(small_problem):
    problem = small_problem()
    # With weights that do not move, the sum of the steps of an epoch is the gradient of all samples.
    small, steps = 1e-6, 5
    run = descent_run(problem, log(0.1), [0, steps * small], step=small, batch_size=4, weight=0.1)
    moved = (run.values[1] - run.values[0]) / (steps * small)
    theta = 0.1 * problem.theta_0
    velocity = problem.head().velocity(theta)[1]
    expected = [
        velocity[0] * theta[1] + theta[0] * velocity[1],
        velocity[2] * theta[3] + theta[2] * velocity[3],
    ]
    np.testing.assert_allclose(moved, expected, atol=1e-5 * abs(np.array(expected)).max())
    times = [0.0, 4.0]
    orders = [descent_run(problem, log(0.1), times, step=1.0, batch_size=4, weight=0.1, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0].values, orders[1].values)
    assert (orders[0].values[1] != orders[2].values[1]).all()


def test_a_loss_that_is_not_finite_says_to_take_a_shorter_step(small_problem):
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            FloatingPointError, match=r"the loss is not finite after \d+ steps of 1000.0: take a shorter step"
        ),
    ):
        descent_run(small_problem(), log(0.1), np.linspace(0, 1e6, 101), step=1000.0, weight=0.1)


def test_recorded_events_lie_on_lines_between_logarithms():
    time = np.array([0.0, 1.0, 2.0, 4.0])
    values = np.empty((4, 2, 2))
    values[:, 0, 0] = [1e-4, 1e-3, 1e-1, 1.0]  # passes 0.1^2 halfway between times 1 and 2
    values[:, 0, 1] = [0.5, 0.5, 0.5, 0.5]  # active all along
    values[:, 1, 0] = [-1.0, -1.0, -1.0, -1e-3]  # leaves 2/3 of the way from time 2 to 4
    values[:, 1, 1] = [0.0, 0.0, -1.0, -1.0]  # from exactly zero: next to the end of the interval
    events = recorded_events(time, values, 0.1)
    assert [event[1:3] for event in events] == [(0, 1), (3, 1), (2, -1)]
    lowest = log(1e-300 / 0.01)
    assert events[0].log_next == pytest.approx(lowest / 2)  # VO 1 is halfway there
    assert events[0].log_next_own == -np.inf
    assert (events[1].log_next, events[1].log_next_own) == (-np.inf, -np.inf)
    np.testing.assert_allclose([event[0] for event in events], [1.5, 2 - log(1e2) / log(1e300), 2 + 4 / 3], rtol=1e-12)


def test_a_run_without_activations_has_no_events():
    assert recorded_events(np.arange(3.0), np.full((3, 2, 2), 1e-8), 0.1) == []
