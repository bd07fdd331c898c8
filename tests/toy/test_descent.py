from math import log
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

from rank_increase.toy.descent import LogWeights, descent_run
from rank_increase.toy.diagonal_flow import diagonal_run
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
    options = {"method": "gd", "step": 0.5, "weight": 0.1}
    run = descent_run(problem, log(0.1), [0.0, 1.0, 1.1, 7.4, 20.0], **options, on_step=called.append)
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
    runs = [descent_run(problem, log(0.1), [0, 40], method="gd", step=step, weight=0.1) for step in (0.01, 0.1)]
    drift = np.array([run.conservation[-1, :, 0] / run.conservation[-1, :, 1] for run in runs])
    assert (runs[0].conservation[0, :, 0] == 0).all()
    assert (drift[0] < 0.01).all()
    np.testing.assert_allclose(drift[1] / drift[0], 10, rtol=0.1)  # Lemma 4.1 is about the limit of short steps


def test_balance_of_diagonal_weights_is_the_difference_of_squares():
    start = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    theta = np.array([[2.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    found = balance(theta, start)
    np.testing.assert_allclose(found, [[3, np.hypot(1, 3)], [0, 3]])
    full = balance(*(np.stack([np.diag(weight) for weight in weights]) for weights in (theta, start)))
    np.testing.assert_allclose(full, found)


def test_sgd_with_all_samples_in_a_batch_is_gradient_descent(small_problem):
    problem = small_problem()
    options = {"method": "sgd", "step": 0.5, "weight": 0.1}
    gd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), **options)
    sgd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), batch_size=20, **options)
    np.testing.assert_allclose(sgd.values, gd.values, rtol=1e-10, atol=1e-13)


def test_sgd_visits_every_sample_once_an_epoch_in_an_order_of_its_seed(small_problem):
    problem = small_problem()
    # With weights that do not move, the sum of the steps of an epoch is the gradient of all samples.
    small, steps = 1e-6, 5
    run = descent_run(problem, log(0.1), [0, steps * small], method="sgd", step=small, batch_size=4, weight=0.1)
    moved = (run.values[1] - run.values[0]) / (steps * small)
    theta = 0.1 * problem.theta_0
    velocity = problem.head().velocity(theta)[1]
    expected = [
        velocity[0] * theta[1] + theta[0] * velocity[1],
        velocity[2] * theta[3] + theta[2] * velocity[3],
    ]
    np.testing.assert_allclose(moved, expected, atol=1e-5 * abs(np.array(expected)).max())
    times = [0.0, 4.0]
    options = {"method": "sgd", "step": 1.0, "batch_size": 4, "weight": 0.1}
    orders = [descent_run(problem, log(0.1), times, **options, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0].values, orders[1].values)
    assert (orders[0].values[1] != orders[2].values[1]).all()


def test_a_loss_that_is_not_finite_says_to_take_a_shorter_step(small_problem):
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            FloatingPointError, match=r"the loss is not finite after \d+ steps of 1000.0: take a shorter step"
        ),
    ):
        descent_run(small_problem(), log(0.1), np.linspace(0, 1e6, 101), method="gd", step=1000.0, weight=0.1)


def test_recorded_events_lie_on_lines_between_logarithms():
    time = np.array([0.0, 1.0, 2.0, 4.0])
    values = np.empty((4, 2, 2))
    values[:, 0, 0] = [1e-4, 1e-3, 1e-1, 1.0]  # passes 0.1^2 halfway between times 1 and 2
    values[:, 0, 1] = [0.5, 0.5, 0.5, 0.5]  # active all along
    values[:, 1, 0] = [-1.0, -1.0, -1.0, -1e-3]  # leaves 2/3 of the way from time 2 to 4
    values[:, 1, 1] = [0.0, 0.0, -1.0, -1.0]  # from exactly zero: next to the end of the interval
    events = recorded_events(time, values, 0.1)
    assert [event[1:3] for event in events] == [(0, 1), (3, 1), (2, -1)]
    # VO 1 is halfway from 1e-300 to 1.
    assert events[0].log_next == pytest.approx(log(1e-150 / 0.01))
    assert events[0].log_next_own == -np.inf
    assert (events[1].log_next, events[1].log_next_own) == (-np.inf, -np.inf)
    np.testing.assert_allclose([event[0] for event in events], [1.5, 2 - log(1e2) / log(1e300), 2 + 4 / 3], rtol=1e-12)


def test_a_run_without_activations_has_no_events():
    assert recorded_events(np.arange(3.0), np.full((3, 2, 2), 1e-8), 0.1) == []


@pytest.mark.parametrize(
    ("step", "batch_size", "count"), [(0.5, None, 60), (8.0, None, 60), (2.0, 4, 60), (100.0, 1, 2)]
)
def test_gradient_descent_in_log_coordinates_is_that_of_the_weights(small_problem, step, batch_size, count):
    problem = small_problem()
    theta, head, rng = 0.01 * problem.theta_0, problem.head(), np.random.default_rng(0)
    visited = [theta]
    while len(visited) <= count:
        order = rng.permutation(20) if batch_size else np.arange(20)
        for chosen in order.reshape(-1, batch_size or 20)[: count + 1]:
            theta = theta + step * head.subset(chosen).velocity(theta)[1]
            visited.append(theta)
    options = {"method": "sgd" if batch_size else "gd", "batch_size": batch_size, "weight": 0.1}
    run = descent_run(problem, log(0.01), step * np.arange(count + 1), step=step, **options)
    assert step != 8 or abs(run.values[-1]).max() > 0.1  # it has learned something
    flips = [step * abs(head.subset([k]).loss_and_g(np.zeros(12))[1]).max() > 1 for k in range(20)]
    assert step != 100 or np.mean(flips) > 0.8  # signs of u + v and u - v change
    del visited[count + 1 :]
    np.testing.assert_allclose(run.values, [head.values(theta) for theta in visited], rtol=1e-9, atol=1e-16)
    expected = [balance(100 * theta, problem.theta_0) for theta in visited]
    np.testing.assert_allclose(run.conservation, expected, rtol=1e-8, atol=1e-9)


def test_gradient_descent_at_1e_30_is_that_of_exact_arithmetic(quadratic, monkeypatch):
    # A loss 0.5 (p - a)^T H (p - a) has g = H (a - p), which mpmath computes with 60 digits, step by step.
    H, a, step, steps = np.array([[1.0, 0.7], [0.7, 0.55]]), np.array([-0.2, 1.0]), 0.9, 700
    theta_0 = np.array([[1.3], [0.6], [0.4], [-0.9]])
    mpmath.mp.dps = 60
    u, v = ([mpmath.mpf("1e-30") * mpmath.mpf(float(theta_0[i, 0])) for i in rows] for rows in ((0, 2), (1, 3)))
    visited = []
    for _ in range(steps + 1):
        visited.append([float(u[0] * v[0]), float(u[1] * v[1])])
        g = [sum(float(H[i, j]) * (float(a[j]) - u[j] * v[j]) for j in range(2)) for i in range(2)]
        u, v = [u[i] + step * g[i] * v[i] for i in range(2)], [v[i] + step * g[i] * u[i] for i in range(2)]
    problem = SimpleNamespace(theta_0=theta_0, head=lambda: quadratic(H, a))
    moves = []
    move = LogWeights.move
    monkeypatch.setattr(LogWeights, "move", lambda *args: moves.append(move(*args)) or moves[-1])
    records = np.array([0, 100, 200, 250, 300, 400, 700])
    run = descent_run(problem, -30 * log(10), step * records, method="gd", step=step, weight=0.1)
    np.testing.assert_allclose(run.values.reshape(-1, 2), np.array(visited)[records], rtol=1e-9)
    assert abs(run.values[-1, 1]) > 0.5
    assert max(moves) > 50  # the first plateau was not walked step by step
    assert [event[1:3] for event in run.events][:2] == [(0, 1), (1, 1)]


@pytest.mark.parametrize("digits", [300, 3000])
def test_plateaus_of_gradient_descent_are_skipped_without_a_change(small_problem, monkeypatch, digits):
    # The time of a plateau is that of one waiting coordinate: ln of its growth over ln(1 + step |g|).
    problem, L, step = small_problem(), digits * log(10), 2.0
    run = descent_run(problem, -L, [0.0, 200.0 * L], method="gd", step=step, weight=0.1)
    time, i = run.events[0][:2]
    g = problem.head().loss_and_g(np.zeros(12))[1][i]
    u, v = (problem.theta_0[rows].ravel()[i] for rows in ([0, 2], [1, 3]))
    growth = log(0.2 / abs(u + np.sign(g) * v)) + L
    assert time == pytest.approx(step * growth / np.log1p(step * abs(g)), rel=5 / L)
    assert len(run.events) >= 3


def test_the_flow_is_the_limit_of_short_steps(small_problem):
    problem, L = small_problem(), 8 * log(10)
    times = np.linspace(0, 150 * L, 3)
    flow = diagonal_run(problem, -L, times, 1e-10, 1e-8, weight=0.1)
    late = []
    for step in (0.4, 0.1):
        run = descent_run(problem, -L, times, method="gd", step=step, weight=0.1)
        assert [event[1:3] for event in run.events] == [event[1:3] for event in flow.events]
        late.append(np.array(run.events)[:, 0] - np.array(flow.events)[:, 0])
    np.testing.assert_allclose(late[0] / late[1], 4, rtol=0.2)


@pytest.mark.parametrize(("method", "weights"), [("gd", "diagonal"), ("gd", "full"), ("sign", "diagonal")])
def test_each_coordinate_may_have_its_own_level(small_problem, method, weights):
    problem, levels = small_problem(weights=weights), np.linspace(0.05, 0.3, 12)
    options = {"method": method, "step": 1.0 if method == "gd" else 0.01}
    times = options["step"] * np.arange(401 if method == "gd" else 101)
    found = descent_run(problem, log(0.1), times, weight=levels, **options).events
    alone = [descent_run(problem, log(0.1), times, weight=level, **options).events for level in levels]
    expected = sorted(event[:3] for i, events in enumerate(alone) for event in events if event.coordinate == i)
    assert len(expected) > 2
    np.testing.assert_allclose([event[:3] for event in found], expected, rtol=1e-12)


def test_sign_descent_with_a_step_above_alpha_keeps_products_of_the_wrong_sign_at_zero(small_problem):
    problem, step = small_problem(), 1e-3
    run = descent_run(problem, -8 * log(10), step * np.array([0, 50, 51]), method="sign", step=step, weight=0.1)
    # Those of W_V W_O^T: the gradient of those of W_K W_Q^T is zero at the start, but for terms of order alpha^2.
    start, *later = run.values[:, 1]
    wrong = start * problem.head().loss_and_g(np.zeros(12))[1][6:] < 0
    assert 0 < wrong.sum() < 6
    assert (abs(np.array(later)[:, wrong]) < 1.1 * step**2).all()
    assert (abs(np.array(later)[:, ~wrong]) > 2000 * step**2).all()


def test_steps_so_long_that_weights_change_sign_lead_to_the_weights_they_should(small_problem):
    problem, step = small_problem(), 100.0
    head, theta = problem.head(), 0.01 * problem.theta_0
    student = LogWeights(problem.theta_0, log(0.01), step, 0.1)
    for sample in range(2):
        theta = theta + step * head.subset([sample]).velocity(theta)[1]
        student.move(head.subset([sample]), 1)
    u, v = student.coordinates.weights(student.s)
    np.testing.assert_allclose(np.stack([u[:6], v[:6], u[6:], v[6:]]), theta, rtol=1e-8)
    assert (np.sign(theta) != np.sign(problem.theta_0)).any()
