"""The constants C_k and what follows from them, against the flow at tiny init scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.notation import log_alpha
from rank_increase.toy.algorithm1 import stages
from rank_increase.toy.diagonal_flow import LogCoordinates, diagonal_run, initial_state, integrate
from rank_increase.toy.orbits import follow_orbits, resolved_from
from rank_increase.toy.problem import make_problem
from rank_increase.toy.theorem import activation_levels


def orbits_of(problem, max_time):
    head = problem.head()
    found = list(stages(head, 2 * head.dim, max_time=max_time))
    levels = activation_levels(found)
    return found, levels, list(follow_orbits(head, *initial_state(problem.theta_0, 0.0), found, levels))


def measured_delays(problem, found, levels, alpha, max_time):
    """(T - T_k) ln(1/alpha) of each stage, by the flow; its coordinate may come again."""
    unit = -log_alpha(alpha)
    start = initial_state(problem.theta_0, -unit)
    _, crossings = integrate(
        problem.head(), *start, np.array([0.0, max_time * unit]), rtol=1e-10, atol=1e-8, thresholds=[np.sqrt(levels)]
    )
    delays, seen = [], []
    for stage in found:
        rises = [c.time for c in crossings if c.coordinate == stage.coordinate and c.direction > 0]
        rises = rises[seen.count(stage.coordinate) :]
        seen.append(stage.coordinate)
        delays.append(rises[0] - stage.time * unit if rises else np.nan)
    return np.array(delays)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_delays_are_those_of_the_flow(seed):
    options = {"weights": "diagonal", "teacher": "diagonal", "teacher_std_KQ": 0.6, "teacher_std_VO": 0.8}
    problem = make_problem(seed, samples=30, tokens=4, dim=5, **options)
    found, levels, orbits = orbits_of(problem, 300.0)
    assert len(found) >= 3
    predicted = np.array([orbit.delay for orbit in orbits])
    errors = [abs(measured_delays(problem, found, levels, f"1e-{n}", 320.0) - predicted) for n in (30, 300, 3000)]
    assert errors[2].max() < 0.02
    assert errors[0].max() > 10 * errors[1].max() or errors[0].max() < 0.1


def test_a_coordinate_that_leaves_and_its_stage_are_followed(small_problem):
    """Seed 4 of this size has one that leaves."""
    options = {"weights": "diagonal", "teacher": "diagonal", "teacher_std_KQ": 0.6, "teacher_std_VO": 0.8}
    problem = make_problem(4, samples=50, tokens=4, dim=20, **options)
    found, levels, orbits = orbits_of(problem, 80.0)
    assert any(stage.deactivated for stage in found)
    measured = measured_delays(problem, found, levels, "1e-3000", 85.0)
    np.testing.assert_allclose([orbit.delay for orbit in orbits], measured, rtol=2e-3, atol=0.02)


def test_the_first_delay_is_the_closed_form(small_problem):
    problem = small_problem()
    head = problem.head()
    first = next(stages(head, 12, max_time=100.0))
    g, i = head.loss_and_g(np.zeros(12))[1], first.coordinate
    u, v = (problem.theta_0[rows].ravel()[i] for rows in ([0, 2], [1, 3]))
    level = 1e-6  # far below rest, where the growth is exponential
    [orbit] = follow_orbits(head, *initial_state(problem.theta_0, 0.0), [first], np.full(12, level))
    expected = np.log(2 * np.sqrt(level) / abs(u + np.sign(g[i]) * v)) / abs(g[i])
    np.testing.assert_allclose(orbit.delay, expected, rtol=1e-4)


def test_delays_of_independent_coordinates_are_closed_forms(quadratic):
    """With H = 1, each product follows a logistic curve, whatever the others do."""
    target, u, v = np.array([2.0, -0.5, 1.0]), np.array([0.4, 1.1, 0.7]), np.array([0.3, -0.2, 0.9])
    head, start = quadratic(np.eye(3), target), LogCoordinates.of(u, v)
    found = list(stages(head, 3, max_time=10.0))
    assert [stage.coordinate for stage in found] == [0, 2, 1]
    orbits = list(follow_orbits(head, *start, found, abs(target) / 2))
    # z = ln|p| grows at 2 (|a| - |p|): p passes |a|/2 when its exponential growth would have taken it to |a|.
    for stage, orbit in zip(found, orbits, strict=True):
        i = stage.coordinate
        size = abs(target[i])
        delay = np.log(2 * np.sqrt(size) / abs(u[i] + stage.sign * v[i])) / size
        np.testing.assert_allclose(orbit.delay, delay, rtol=1e-4)
        # The loss of a logistic curve, a^2/2 (1 - sigma)^2 with sigma = 1 / (1 + exp(-2 a (t - delay))).
        time = np.linspace(delay - 40 / size, delay + 40 / size, 200001)
        loss = size**2 / 2 * (1 - 1 / (1 + np.exp(-2 * size * (time - delay)))) ** 2
        limit = np.where(time < 0, size**2 / 2, 0)
        np.testing.assert_allclose(orbit.area, np.trapezoid(abs(loss - limit), time), rtol=1e-3)


def test_a_level_that_is_not_reached_has_no_delay(quadratic):
    head, start = quadratic(np.eye(1), [0.5]), LogCoordinates.of(np.array([0.4]), np.array([0.3]))
    found = list(stages(head, 1, max_time=10.0))
    [orbit] = follow_orbits(head, *start, found, np.array([0.6]))
    assert np.isnan(orbit.delay)
    assert orbit.area > 0


def test_an_orbit_that_leads_elsewhere_is_an_error(quadratic):
    head, start = quadratic(np.eye(1), [0.5]), LogCoordinates.of(np.array([0.4]), np.array([0.3]))
    [stage] = stages(quadratic(np.eye(1), [0.7]), 1, max_time=10.0)
    with pytest.raises(ArithmeticError, match="has not come to rest"):
        list(follow_orbits(head, *start, [stage], np.array([0.1])))


def test_areas_add_up_to_the_distance_from_the_limit(small_problem):
    problem, max_time = small_problem(1), 200.0
    found, _, orbits = orbits_of(problem, max_time)
    assert found[-1].time < max_time - 10
    errors = []
    for alpha in ("1e-300", "1e-3000"):
        unit = -log_alpha(alpha)
        run = diagonal_run(problem, -unit, np.linspace(0, max_time * unit, 101), 1e-10, 1e-6, weight=0.1)
        times = np.array([0.0, *(stage.time * unit for stage in found), max_time * unit])
        heights, distance = [run.loss[0], *(stage.loss for stage in found)], 0.0
        for start, end, height in zip(times, times[1:], heights, strict=False):
            grid = np.union1d(run.time[(run.time > start) & (run.time < end)], [start, end])
            distance += np.trapezoid(abs(np.interp(grid, run.time, run.loss) - height), grid)
        errors.append(distance / sum(orbit.area for orbit in orbits) - 1)
    assert np.abs(errors).max() < 0.005


@given(st.lists(st.floats(1, 50), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_stages_are_resolved_below_their_init_scale_and_not_above(gaps, random):
    """By counting which stages have come at T_j + C_j / ln(1/alpha) by the middle of each."""
    times = np.cumsum(gaps)
    delays = np.array([random.uniform(-300, 300) for _ in gaps])
    middles = (times + np.append(times[1:], times[-1] + 10)) / 2
    bounds = resolved_from(times, delays, middles)
    for k, (bound, middle) in enumerate(zip(bounds, middles, strict=True)):
        for size, right in ((bound * 1.001 + 1e-6, True), (bound * 0.999, False)):
            if size > 1e-6:
                come = times + delays / size <= middle
                assert (come == (np.arange(len(times)) <= k)).all() == right
    assert len(resolved_from(np.zeros(0), np.zeros(0), np.zeros(0))) == 0
