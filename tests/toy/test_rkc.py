import numpy as np
import pytest

from rank_increase.toy.rkc import _step, integrate


class Counted:
    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, y):
        self.calls += 1
        return self.f(y)


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
            y = _step(lambda y: -y * y, y, -y * y, 2.0 / steps, stages)
        return abs(y - 1 / (1 / np.array([1.0, 0.5]) + 2)).max()

    assert error(80) < 1e-3
    assert error(40) / error(80) == pytest.approx(4, rel=0.1)
    assert error(80) / error(160) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("stages", [2, 5, 20, 60])
def test_a_step_is_stable_as_far_as_its_stages_allow(stages):
    # 0.65 (s^2 - 1) is what `integrate` counts on; at 0.66 the step is no longer stable.
    rates = -np.linspace(0, 0.65 * (stages**2 - 1), 2001)
    grown = _step(lambda y: rates * y, np.ones(2001), rates, 1.0, stages)
    assert abs(grown).max() <= 1 + 1e-12
    assert abs(grown[rates < -0.15 * stages**2 - 1]).max() < 0.96


def test_errors_fall_with_the_tolerance():
    def error(tolerance):
        times = np.linspace(0, 10, 21)
        found = list(integrate(lambda y: 1 - y * y, np.tanh([-1.0]), times, rtol=tolerance, atol=tolerance))
        return abs(np.array(found)[:, 0] - np.tanh(times - 1)).max()

    # The local error is of third order, the global one of second: a factor 100 in one is 100^(2/3) in the other.
    errors = [error(tolerance) for tolerance in (1e-3, 1e-5, 1e-7)]
    assert errors[0] < 5e-2
    assert errors[0] / errors[1] == pytest.approx(100 ** (2 / 3), rel=0.5)
    assert errors[1] / errors[2] == pytest.approx(100 ** (2 / 3), rel=0.3)


def test_a_stiff_equation_takes_far_fewer_evaluations_than_an_explicit_method():
    A, start, exact = heat_equation()
    f = Counted(lambda y: A @ y)
    times = np.array([0.0, 1e-3, 1e-2, 0.1])
    found = list(integrate(f, start, times, rtol=1e-3, atol=1e-5))
    for y, time in zip(found, times, strict=True):
        np.testing.assert_allclose(y, exact(time), atol=5e-4)
    explicit_steps = 0.1 * abs(np.linalg.eigvalsh(A)).max() / 2
    assert explicit_steps > 8000
    assert f.calls < explicit_steps / 5


def test_the_first_time_gives_the_start_itself_and_leaves_it_alone():
    start = np.array([1.0, 2.0])
    kept = start.copy()
    found = list(integrate(lambda y: -y, start, [0.0, 1.0], rtol=1e-6, atol=1e-9))
    np.testing.assert_array_equal(found[0], kept)
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_allclose(found[1], kept * np.exp(-1), rtol=1e-4)
    assert [y.tolist() for y in integrate(lambda y: -y, start, [3.0], rtol=1e-6, atol=1e-9)] == [[1.0, 2.0]]


def test_many_times_within_one_step_cost_nothing_and_lie_on_the_solution():
    def solve(times):
        f = Counted(lambda y: -y)
        found = np.array(list(integrate(f, np.array([1.0, 2.0]), times, rtol=1e-5, atol=1e-8)))
        return found, f.calls

    times = np.linspace(0, 5, 2001)
    found, calls = solve(times)
    few, few_calls = solve(times[[0, -1]])
    assert calls == few_calls < 1000
    np.testing.assert_array_equal(few[1], found[-1])
    np.testing.assert_allclose(found, np.exp(-times)[:, None] * [1.0, 2.0], atol=5e-4)


def test_a_start_at_rest_stays_there():
    found = list(integrate(np.zeros_like, np.array([1.0, -2.0]), np.linspace(0, 1e6, 5), rtol=1e-6, atol=1e-9))
    np.testing.assert_allclose(found, [[1.0, -2.0]] * 5, rtol=1e-12)


def test_a_solution_that_leaves_the_finite_numbers_raises():
    solution = integrate(lambda y: y * y, np.array([1.0]), [0.0, 0.5, 2.0], rtol=1e-6, atol=1e-9)
    assert next(solution)[0] == 1.0
    assert next(solution)[0] == pytest.approx(2.0, rel=1e-4)
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError, match="no longer finite"):
        next(solution)
