import numpy as np
import pytest

from rank_increase.toy.rkc import Solver


class Counted:
    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, y):
        self.calls += 1
        return self.f(y)


def relative(tolerance):
    """The size of an error whose every entry may be `tolerance`, relative where the solution is above 1."""
    return lambda error, before, after: abs(error / np.maximum(1, abs(after))).max() / tolerance


def one_step(f, y, step, stages):
    return Solver(f, y, size=relative(1.0), step=step)._stages(step, stages)


def solve(f, start, times, tolerance):
    """The solution at each of `times`, ascending from 0."""
    solver, found = Solver(f, start, size=relative(tolerance), step=1e-6), [start]
    while len(found) < len(times):
        segment = solver.advance(times[-1] - solver.time)
        while len(found) < len(times) and times[len(found)] <= segment.end * (1 + 1e-12):
            found.append(segment.at(min(times[len(found)], segment.end)))
    return np.array(found)


def heat_equation(points=200):
    """Second differences on (0, 1) with zero ends, a peaked start, and the exact solution at any time."""
    A = (points + 1) ** 2 * (np.eye(points, k=1) - 2 * np.eye(points) + np.eye(points, k=-1))
    x = np.arange(1, points + 1) / (points + 1)
    start = np.exp(-200 * (x - 0.3) ** 2)
    eigenvalues, modes = np.linalg.eigh(A)
    return A, start, lambda t: modes @ (np.exp(eigenvalues * t) * (modes.T @ start))


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 40])
def test_a_step_is_of_second_order_on_a_nonlinear_equation(stages):
    def error(steps):
        y = np.array([1.0, 0.5])
        for _ in range(steps):
            y = one_step(lambda y: -y * y, y, 2.0 / steps, stages)
        return abs(y - 1 / (1 / np.array([1.0, 0.5]) + 2)).max()

    assert error(80) < 1e-3
    assert error(40) / error(80) == pytest.approx(4, rel=0.1)
    assert error(80) / error(160) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("stages", [2, 5, 20, 60])
def test_a_step_is_stable_as_far_as_its_stages_allow(stages):
    # 0.65 (s^2 - 1) is what `advance` counts on; at 0.66 the step is no longer stable.
    rates = -np.linspace(0, 0.65 * (stages**2 - 1), 2001)
    grown = one_step(lambda y: rates * y, np.ones(2001), 1.0, stages)
    assert abs(grown).max() <= 1 + 1e-12
    assert abs(grown[rates < -0.15 * stages**2 - 1]).max() < 0.96


def test_errors_fall_with_the_tolerance():
    def error(tolerance):
        times = np.linspace(0, 10, 21)
        found = solve(lambda y: 1 - y * y, np.tanh([-1.0]), times, tolerance)
        return abs(found[:, 0] - np.tanh(times - 1)).max()

    # The local error is of third order, the global one of second: a factor 100 in one is 100^(2/3) in the other.
    errors = [error(tolerance) for tolerance in (1e-3, 1e-5, 1e-7)]
    assert errors[0] < 5e-2
    assert errors[0] / errors[1] == pytest.approx(100 ** (2 / 3), rel=0.5)
    assert errors[1] / errors[2] == pytest.approx(100 ** (2 / 3), rel=0.3)


def test_a_stiff_equation_takes_far_fewer_evaluations_than_an_explicit_method():
    A, start, exact = heat_equation()
    f = Counted(lambda y: A @ y)
    times = np.array([0.0, 1e-3, 1e-2, 0.1])
    found = solve(f, start, times, 1e-5)
    for y, time in zip(found, times, strict=True):
        np.testing.assert_allclose(y, exact(time), atol=5e-4)
    explicit_steps = 0.1 * abs(np.linalg.eigvalsh(A)).max() / 2
    assert explicit_steps > 8000
    assert f.calls < explicit_steps / 5


def test_a_step_leaves_the_start_alone_and_ends_where_the_next_begins():
    start = np.array([1.0, 2.0])
    solver = Solver(lambda y: -y, start, size=relative(1e-6), step=0.1)
    first, second = solver.advance(1.0), solver.advance(1.0)
    np.testing.assert_array_equal(start, [1.0, 2.0])
    np.testing.assert_array_equal(first.at(0.0), start)
    np.testing.assert_array_equal(first.at(first.end), second.before)
    assert (first.start, first.end) == (0.0, second.start)
    assert second.end == solver.time
    np.testing.assert_allclose(second.after, start * np.exp(-second.end), rtol=1e-5)


def test_no_step_is_longer_than_asked_for_and_the_next_one_recovers():
    solver = Solver(lambda y: -y, np.array([1.0]), size=relative(1e-2), step=0.1)
    for _ in range(5):
        longest = solver.step
        solver.advance(np.inf)
    short = solver.advance(1e-9)
    assert short.end - short.start == pytest.approx(1e-9)
    after = solver.advance(np.inf)
    assert after.end - after.start >= longest / 2


def test_the_solution_goes_on_in_other_coordinates():
    solver = Solver(lambda y: -y, np.array([1.0, 2.0]), size=relative(1e-6), step=0.01)
    solver.advance(0.01)
    solver.restart(-solver.y[::-1])
    segment = solver.advance(0.01)
    np.testing.assert_allclose(segment.after, -np.array([2.0, 1.0]) * np.exp(-segment.end), rtol=1e-6)


def test_times_within_a_step_lie_on_the_solution():
    times = np.linspace(0, 5, 2001)
    found = solve(lambda y: -y, np.array([1.0, 2.0]), times, 1e-5)
    np.testing.assert_allclose(found, np.exp(-times)[:, None] * [1.0, 2.0], atol=5e-4)


def test_a_start_at_rest_stays_there():
    found = solve(np.zeros_like, np.array([1.0, -2.0]), np.linspace(0, 1e6, 5), 1e-6)
    np.testing.assert_allclose(found, [[1.0, -2.0]] * 5, rtol=1e-12)


def test_a_solution_that_leaves_the_finite_numbers_raises():
    assert solve(lambda y: y * y, np.array([1.0]), np.array([0.0, 0.5]), 1e-6)[1] == pytest.approx(2.0, rel=1e-4)
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError, match="not finite"):
        solve(lambda y: y * y, np.array([1.0]), np.array([0.0, 2.0]), 1e-6)
