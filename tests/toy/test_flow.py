from decimal import Decimal, localcontext
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from rank_increase.notation import log_alpha
from rank_increase.toy.descent import descent_run
from rank_increase.toy.diagonal_flow import LogCoordinates, diagonal_run, initial_state, integrate
from reference import flow_in_weights, passages

TOLERANCES = {"rtol": 1e-10, "atol": 1e-6}

weights = st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3)
pairs = st.lists(st.tuples(weights, weights), min_size=1, max_size=6).filter(
    lambda pairs: all(abs(abs(u) - abs(v)) > 1e-3 for u, v in pairs)
)


@given(pairs=pairs, exponent=st.sampled_from([0.0, -1.0, -8.0, -100.0]))
def test_weights_become_a_state_and_come_back(pairs, exponent):
    u, v = np.array(pairs).T
    scale = 10.0**exponent
    coordinates, s = LogCoordinates.of(u, v, exponent * log(10))
    found_u, found_v = coordinates.weights(s)
    np.testing.assert_allclose(found_u, scale * u, rtol=1e-8)
    np.testing.assert_allclose(found_v, scale * v, rtol=1e-8)
    np.testing.assert_allclose(coordinates.product(s), scale**2 * u * v, rtol=1e-8)
    np.testing.assert_allclose(coordinates.slope(s), scale**2 * (u**2 + v**2), rtol=1e-8)


@given(pairs=pairs)
def test_the_smallest_init_scale_loses_no_digit(pairs):
    u, v = np.array(pairs).T
    ln_alpha = log_alpha("1e-3000")
    coordinates, s = LogCoordinates.of(u, v, ln_alpha)
    np.testing.assert_array_equal(s, LogCoordinates.of(u, v)[1])
    np.testing.assert_allclose(coordinates.log_c - 2 * ln_alpha, np.log(abs(u**2 - v**2)), atol=1e-11)
    assert not coordinates.product(s).any()
    # As large as 1 again: |u v| = |c| / 4 exp(2 s) within one part in |c|^-2.
    grown = -coordinates.log_c / 2 + log(2)
    for side in (1, -1):
        np.testing.assert_allclose(coordinates.product(side * grown), side, rtol=1e-11)
        np.testing.assert_allclose(coordinates.slope(side * grown), 2, rtol=1e-11)
        found_u, found_v = coordinates.weights(side * grown)
        np.testing.assert_allclose(abs(found_u), 1, rtol=1e-11)
        np.testing.assert_allclose(found_u * found_v, side, rtol=1e-11)
        larger_before, larger_now = np.where(abs(u) > abs(v), u, v), np.where(abs(u) > abs(v), found_u, found_v)
        np.testing.assert_array_equal(np.sign(larger_now), np.sign(larger_before))


@given(pairs=pairs, s=st.floats(-8, 8), exponent=st.sampled_from([0.0, -2.0]))
def test_slope_is_the_derivative_of_the_product(pairs, s, exponent):
    coordinates = LogCoordinates.of(*np.array(pairs).T, exponent * log(10))[0]
    s, change = np.full(len(pairs), s), 1e-5
    differences = (coordinates.product(s + change) - coordinates.product(s - change)) / (2 * change)
    np.testing.assert_allclose(coordinates.slope(s), differences, rtol=1e-7)


@given(pairs=pairs, exponent=st.floats(-4, 2), side=st.sampled_from([1, -1]))
def test_reach_is_where_the_larger_weight_gets_to_a_size(pairs, exponent, side):
    coordinates, wanted = LogCoordinates.of(*np.array(pairs).T, -3.0)[0], 10.0**exponent
    reach = coordinates.reach(wanted)
    larger = np.maximum(*(abs(weight) for weight in coordinates.weights(side * reach)))
    least = np.exp(coordinates.log_c / 2)
    np.testing.assert_allclose(larger, np.maximum(wanted, least), rtol=1e-7)
    np.testing.assert_array_equal(reach[least >= wanted], 0)


@pytest.mark.parametrize(("u", "v"), [([1.0, 0.5], [2.0, -0.5]), ([0.0], [0.0])])
def test_weights_of_equal_size_are_refused(u, v):
    with pytest.raises(ValueError, match="Assumption 4.2"):
        LogCoordinates.of(np.array(u), np.array(v))


def test_initial_state_pairs_keys_with_queries_and_values_with_outputs(small_problem):
    theta_0 = small_problem().theta_0
    coordinates, s = initial_state(theta_0, log(0.1))
    expected = 0.01 * np.concatenate([theta_0[0] * theta_0[1], theta_0[2] * theta_0[3]])
    np.testing.assert_allclose(coordinates.product(s), expected, rtol=1e-10)
    u, v = coordinates.weights(s)
    np.testing.assert_allclose(np.stack([u[:6], v[:6], u[6:], v[6:]]), 0.1 * theta_0, rtol=1e-10)


def test_the_flow_agrees_with_one_in_the_weights_and_obeys_the_conservation_law(small_problem):
    problem = small_problem()
    head, times = problem.head(), np.linspace(0, 300, 31)
    coordinates, s = initial_state(problem.theta_0, log(0.1))
    u, v = coordinates.weights(s)
    expected = flow_in_weights(head, u, v, times)
    states, _ = integrate(head, coordinates, s, times, **TOLERANCES)
    found_u, found_v = coordinates.weights(states)
    assert abs(expected - expected[0]).max() > 0.5
    np.testing.assert_allclose(found_u, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found_v, expected[:, 1], atol=1e-5)
    # Lemma 4.1, in the independent solution and in ours.
    np.testing.assert_allclose(expected[:, 0] ** 2 - expected[:, 1] ** 2, [u**2 - v**2] * 31, atol=1e-11)
    np.testing.assert_allclose(found_u**2 - found_v**2, [u**2 - v**2] * 31, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_flow_agrees_with_one_in_the_weights_through_many_stages(small_problem, seed):
    problem = small_problem(seed, samples=50)
    head, times = problem.head(), np.linspace(0, 3000, 61)
    coordinates, s = initial_state(problem.theta_0, log(1e-6))
    u, v = flow_in_weights(head, *coordinates.weights(s), times).transpose(1, 0, 2)
    states, crossings = integrate(head, coordinates, s, times, thresholds=[0.1], **TOLERANCES)
    np.testing.assert_allclose(coordinates.product(states), u * v, atol=1e-4)
    active = np.maximum(abs(u), abs(v)) > 0.1
    assert active[-1].sum() >= 6
    for i, before, after in zip(range(12), active[0], active[-1], strict=True):
        assert sum(crossing.direction for crossing in crossings if crossing.coordinate == i) == int(after) - int(before)


@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_the_flow_with_weight_decay_agrees_with_one_in_the_weights(small_problem, alpha):
    problem, decay, times = small_problem(samples=50), 0.004, np.linspace(0, 1500, 7501)
    head, (coordinates, s) = problem.head(), initial_state(problem.theta_0, log(alpha), decay=0.004)

    def velocity(t, theta):
        u, v = theta.reshape(2, -1)
        g = head.loss_and_g(u * v)[1]
        return np.concatenate([v * g - decay * u, u * g - decay * v])

    start, records = np.concatenate(coordinates.weights(s)), times[::500]
    solution = solve_ivp(velocity, (0, 1500), start, "DOP853", times, rtol=1e-10, atol=1e-15)
    u, v = solution.y.T.reshape(7501, 2, -1).swapaxes(0, 1)
    states, crossings = integrate(head, coordinates, s, records, thresholds=[0.2], **TOLERANCES)
    later = coordinates.after(records[:, None])
    assert abs(u * v).max() > 0.2
    for found, expected in zip(later.weights(states), (u, v), strict=True):
        np.testing.assert_allclose(found, expected[::500], atol=1e-5)
    np.testing.assert_allclose(later.log_c, np.log(abs(u**2 - v**2)[0]) - 2 * decay * records[:, None], atol=1e-9)
    early = times < 100  # while c is not lost beside u^2
    c = (u**2 - v**2)[0] * np.exp(-2 * decay * times[:, None])
    np.testing.assert_allclose((u**2 - v**2)[early], c[early], rtol=1e-5)
    expected = passages(times, np.maximum(abs(u), abs(v)), 0.2)
    assert len(expected) >= 2
    assert [(crossing.coordinate, crossing.direction) for crossing in crossings] == [event[1:] for event in expected]
    np.testing.assert_allclose([crossing.time for crossing in crossings], [event[0] for event in expected], atol=0.05)


class TwoFactors:
    """Exact gradient flow of the loss 0.5 (u v - target)^2 with weights alpha (u, v), at any alpha.

    In w = exp(2 s) and C = |u^2 - v^2| / 2, ds/dt = target - C sinh(2 s) is the logistic equation
    dw/dt = -C (w - w_plus) (w - w_minus) with w_plus, w_minus = target / C +- sqrt((target / C)^2 + 1).
    """

    def __init__(self, u, v, target, alpha):
        u, v, target = Decimal(u), Decimal(v), Decimal(target)
        self.mirror = target < 0  # the coordinates (u, -v) have the target -target
        v, target = (-v, -target) if self.mirror else (v, target)
        self.C = abs(u * u - v * v) / 2 * Decimal(alpha) ** 2
        ratio = u * v / abs(u * u - v * v)  # sinh(2 s) / 2
        self.w_start = 2 * ratio + (4 * ratio * ratio + 1).sqrt()
        self.w_plus = target / self.C + ((target / self.C) ** 2 + 1).sqrt()
        self.w_minus = -1 / self.w_plus
        self.rate = self.C * (self.w_plus - self.w_minus)
        self.share = (self.w_start - self.w_plus) / (self.w_start - self.w_minus)

    def product(self, time):
        decayed = self.share * (-self.rate * Decimal(float(time))).exp()
        w = (self.w_plus - self.w_minus * decayed) / (1 - decayed)
        return float(self.C * (w - 1 / w) / 2) * (-1 if self.mirror else 1)

    def events(self, weight):
        """(time, direction) of each passage of max(|u|, |v|) through `weight`; w goes from w_start to w_plus."""
        ratio = Decimal(weight) / (2 * self.C).sqrt()  # cosh(s)
        if ratio <= 1:
            return []
        w_active = (ratio + (ratio * ratio - 1).sqrt()) ** 2
        found, growing = [], self.w_plus > self.w_start
        for w, direction in ((w_active, 1), (1 / w_active, -1)):
            if min(self.w_start, self.w_plus) < w < max(self.w_start, self.w_plus):
                share = (w - self.w_plus) / (w - self.w_minus)
                found.append((float((self.share / share).ln() / self.rate), direction if growing else -direction))
        return found


def exact_flow(cases, alpha, times, weight):
    """Products at `times` and events by time, each (time, coordinate, direction)."""
    with localcontext() as context:
        context.prec = 60
        factors = [TwoFactors(*case, alpha) for case in cases]
        products = np.array([[factor.product(time) for factor in factors] for time in times])
        events = [(t, i, direction) for i, factor in enumerate(factors) for t, direction in factor.events(weight)]
    return products, sorted(events)


@pytest.mark.parametrize("alpha", ["0.3", "1e-4", "1e-32", "1e-300", "1e-3000"])
def test_flow_and_events_agree_with_the_closed_form_of_two_factors(quadratic, alpha):
    cases = [(0.7, -0.4, 1.0), (-0.3, 1.1, 0.5), (1.2, 0.2, -0.8), (0.1, 0.9, 0.375)]
    u, v, target = np.array(cases).T
    coordinates, s = LogCoordinates.of(u, v, log_alpha(alpha))
    times = np.linspace(0, 6 * max(-log_alpha(alpha), 5.0), 61)
    states, crossings = integrate(quadratic(np.eye(4), target), coordinates, s, times, thresholds=[0.5], **TOLERANCES)
    expected, events = exact_flow(cases, alpha, times, "0.5")
    np.testing.assert_allclose(coordinates.product(states), expected, atol=2e-5)
    np.testing.assert_allclose(expected[-1], target, atol=1e-4)
    assert [(crossing.coordinate, crossing.direction) for crossing in crossings] == [event[1:] for event in events]
    assert sorted(event[1:] for event in events) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    np.testing.assert_allclose([crossing.time for crossing in crossings], [event[0] for event in events], atol=1e-4)
    for crossing in crossings:
        assert coordinates.reach(0.5)[crossing.coordinate] == pytest.approx(abs(crossing.state[crossing.coordinate]))


def test_a_coordinate_that_leaves_is_reported_with_direction_minus_one(quadratic):
    # The first shrinks for good, the second returns with the other sign, the third stays.
    cases = [(1.0, -0.999, 0.0), (-0.999, 1.0, 0.5), (0.9, 0.8, 0.5)]
    u, v, target = np.array(cases).T
    coordinates, s = LogCoordinates.of(u, v)
    times = np.linspace(0, 200, 101)
    states, crossings = integrate(quadratic(np.eye(3), target), coordinates, s, times, thresholds=[0.1], **TOLERANCES)
    expected, events = exact_flow(cases, "1", times, "0.1")
    np.testing.assert_allclose(coordinates.product(states), expected, atol=2e-5)
    assert sorted(event[1:] for event in events) == [(0, -1), (1, -1), (1, 1)]
    assert [(crossing.coordinate, crossing.direction) for crossing in crossings] == [event[1:] for event in events]
    np.testing.assert_allclose([crossing.time for crossing in crossings], [event[0] for event in events], rtol=1e-4)


def test_states_do_not_depend_on_which_other_times_are_wanted(small_problem):
    problem = small_problem()
    coordinates, s = initial_state(problem.theta_0, log_alpha("1e-8"))
    fine = np.linspace(0, 2000, 201)
    states, crossings = integrate(problem.head(), coordinates, s, fine, thresholds=[0.1], **TOLERANCES)
    for times in (fine[::7][:-1], fine[[0, 3]], fine[[0, 200]]):
        times = np.append(times, 2000.0) if times[-1] < 2000 else times
        few, same = integrate(problem.head(), coordinates, s, times, thresholds=[0.1], **TOLERANCES)
        np.testing.assert_allclose(few, states[np.isin(fine, times)], rtol=1e-12)
        assert [crossing.time for crossing in same] == [crossing.time for crossing in crossings]


def test_a_threshold_at_the_very_end_of_a_solver_step_is_crossed_once(small_problem):
    problem = small_problem()
    head, steps = problem.head(), []
    coordinates, s = initial_state(problem.theta_0, log_alpha("1e-8"))
    integrate(head, coordinates, s, np.array([0.0, 2000.0]), on_step=lambda time, _: steps.append(time), **TOLERANCES)
    times = np.array([0.0, *steps])
    states, _ = integrate(head, coordinates, s, times, **TOLERANCES)
    i = int(np.argmax(abs(states[-1])))
    larger = np.maximum(*(abs(weight) for weight in coordinates.weights(states)))[:, i]
    rising = np.flatnonzero((larger[1:-1] > 1e-3) & (larger[1:-1] < 0.3) & (larger[2:] > larger[1:-1])) + 1
    assert len(rising) > 5
    for k in rising:
        for threshold in larger[k] * (1 + np.array([-1e-8, -1e-12, 1e-12, 1e-8])):
            _, crossings = integrate(head, coordinates, s, times[[0, -1]], thresholds=[threshold], **TOLERANCES)
            passed = [crossing for crossing in crossings if crossing.coordinate == i]
            assert [crossing.direction for crossing in passed] == [1]
            assert passed[0].time == pytest.approx(times[k], abs=1e-3)


def test_plateaus_cost_no_more_steps_the_longer_they_are(small_problem):
    problem = small_problem(2, samples=50)

    def steps(alpha, limit):
        taken = []

        def count(time, _):
            taken.append(time)
            assert len(taken) < limit, "the Jacobian is of no help to the solver"

        coordinates, s = initial_state(problem.theta_0, log_alpha(alpha))
        times = np.array([0.0, -300 * log_alpha(alpha)])
        integrate(problem.head(), coordinates, s, times, on_step=count, **TOLERANCES)
        return len(taken)

    assert steps("1e-3000", 4000) < 1.5 * steps("1e-300", 4000)


def test_gradient_descent_tends_to_the_flow_in_proportion_to_its_step(small_problem):
    problem = small_problem()
    times = np.linspace(0, 400, 11)
    run = diagonal_run(problem, log(0.01), times, 1e-10, 1e-9, weight=0.1)
    flow = run.values[np.isin(run.time, times)]
    coarse, half, quarter = (
        descent_run(problem, log(0.01), times, method="gd", step=step, weight=0.1).values for step in (0.5, 0.25, 0.125)
    )
    assert abs(flow[-1]).max() > 0.5
    error, half_error = abs(coarse - flow).max(), abs(half - flow).max()
    assert 1e-3 < error < 0.1
    assert 1.8 < error / half_error < 2.2
    # Richardson: the error of first order cancels, and what is left falls with the square of the step.
    left, half_left = abs(2 * half - coarse - flow).max(), abs(2 * quarter - half - flow).max()
    assert left < error / 20
    assert 3 < left / half_left < 5


def test_gradient_descent_shrinks_what_the_flow_conserves(small_problem):
    problem = small_problem()
    head, step = problem.head(), 0.5
    theta = 0.1 * problem.theta_0
    start = np.concatenate([theta[0] ** 2 - theta[1] ** 2, theta[2] ** 2 - theta[3] ** 2])
    kept = np.ones(12)
    for _ in range(2000):
        g = head.loss_and_g(np.concatenate([theta[0] * theta[1], theta[2] * theta[3]]))[1]
        kept *= 1 - step**2 * g**2
        theta = theta + step * head.velocity(theta)[1]
    assert kept.min() < 0.9999
    end = np.concatenate([theta[0] ** 2 - theta[1] ** 2, theta[2] ** 2 - theta[3] ** 2])
    np.testing.assert_allclose(end, start * kept, atol=1e-15)


def test_a_run_of_the_flow_records_loss_products_and_events(small_problem):
    problem = small_problem()
    times, called = np.linspace(0, 3000, 31), []
    run = diagonal_run(problem, log_alpha("1e-8"), times, **TOLERANCES, weight=0.1, on_step=called.append)
    assert np.isin(times, run.time).all()
    assert (np.diff(run.time) > 0).all()
    assert run.values.shape == (len(run.time), 2, 6)
    losses = [problem.head().loss_and_g(values.ravel())[0] for values in run.values]
    np.testing.assert_allclose(run.loss, losses, rtol=1e-12)
    assert (np.diff(run.loss) <= 1e-9).all()
    assert called == sorted(called)
    assert called[-1] == 3000
    # A coordinate with max(|u|, |v|) well above 0.1 at the end has become active, one well below has not.
    active = {event.coordinate for event in run.events if event.direction == 1}
    size = abs(run.values[-1].ravel())
    assert {i for i in range(12) if size[i] > 0.02} <= active <= {i for i in range(12) if size[i] > 0.005}
    assert len(active) >= 3


@pytest.mark.parametrize("alpha", ["0.01", "1e-8", "1e-300"])
def test_a_run_is_recorded_where_it_moves(small_problem, alpha):
    """Areas under its curves do not need a fine grid: they are those of a grid of ten thousand times."""
    problem, end = small_problem(), -300 * log_alpha(alpha)
    coarse, fine = (
        diagonal_run(problem, log_alpha(alpha), np.linspace(0, end, count), **TOLERANCES, weight=0.1)
        for count in (2, 10001)
    )
    assert len(coarse.time) < 400
    area, expected = (np.trapezoid(run.loss, run.time) for run in (coarse, fine))
    assert area == pytest.approx(expected, abs=5e-4 * fine.loss[0] * end)


def test_coordinates_may_have_thresholds_of_their_own(small_problem):
    problem, times = small_problem(), np.linspace(0, 3000, 3)
    coordinates, s = initial_state(problem.theta_0, log_alpha("1e-8"))
    own = np.where(np.arange(12) % 2, 0.3, 0.05)
    _, crossings = integrate(problem.head(), coordinates, s, times, thresholds=[own, 0.05, 0.3], **TOLERANCES)
    passed = [(each.time, each.coordinate) for each in crossings if each.threshold is own]
    low, high = (
        [(each.time, each.coordinate) for each in crossings if each.threshold is not own and each.threshold == weight]
        for weight in (0.05, 0.3)
    )
    assert passed == sorted([(t, i) for t, i in low if not i % 2] + [(t, i) for t, i in high if i % 2])
    assert {i % 2 for _, i in passed} == {0, 1}


@pytest.mark.parametrize("weight", [0.03, 0.1, 0.3])
def test_events_of_the_flow_are_passages_of_the_larger_weight(small_problem, weight):
    problem, alpha, times = small_problem(), 0.01, np.linspace(0, 1000, 4001)
    theta = alpha * problem.theta_0
    u, v = flow_in_weights(problem.head(), theta[[0, 2]].ravel(), theta[[1, 3]].ravel(), times).transpose(1, 0, 2)
    expected = passages(times, np.maximum(abs(u), abs(v)), weight)
    events = diagonal_run(problem, log(alpha), times[[0, -1]], **TOLERANCES, weight=weight).events
    assert [event[1:3] for event in events] == [event[1:] for event in expected]
    assert len(events) >= 3
    np.testing.assert_allclose([event[0] for event in events], [event[0] for event in expected], atol=0.02)


@pytest.mark.parametrize("weight", [0.1, 0.3])
def test_events_of_descent_are_passages_of_recorded_values_through_the_square(small_problem, weight):
    problem, times = small_problem(weights="full"), np.linspace(0, 500, 251)
    run = descent_run(problem, log(0.01), times, method="gd", step=0.5, weight=weight)
    expected = passages(times, run.values.reshape(251, -1), weight**2)
    assert [event[1:3] for event in run.events] == [event[1:] for event in expected]
    assert len(run.events) >= 2
    np.testing.assert_allclose([event.time for event in run.events], [event[0] for event in expected], rtol=1e-9)


def test_an_event_says_how_far_the_largest_waiting_product_is(small_problem):
    problem, ln_alpha = small_problem(samples=50), log_alpha("1e-8")
    run = diagonal_run(problem, ln_alpha, np.array([0.0, 3000.0]), **TOLERANCES, weight=0.1)
    rising = [event for event in run.events if event.direction == 1]
    assert len(rising) >= 4
    coordinates, s = initial_state(problem.theta_0, ln_alpha)
    for event in rising:
        states, _ = integrate(problem.head(), coordinates, s, np.array([0.0, event.time]), **TOLERANCES)
        sizes = abs(coordinates.product(states[1])) / 0.01
        waiting = (sizes < 1) & (np.arange(12) != event.coordinate)
        own = waiting & (np.arange(12) // 6 == event.coordinate // 6)
        assert event.log_next == pytest.approx(np.log(sizes[waiting].max()), abs=1e-3)
        assert event.log_next_own == pytest.approx(np.log(sizes[own].max(initial=0)), abs=1e-3)


def test_logarithms_of_products_are_recorded_where_the_products_underflow(small_problem):
    problem, ln_alpha = small_problem(), log_alpha("1e-3000")
    run = diagonal_run(problem, ln_alpha, np.array([0.0, 1.0]), **TOLERANCES, weight=0.1)
    assert not run.values[0].any()
    products = problem.theta_0[::2] * problem.theta_0[1::2]
    np.testing.assert_allclose(run.log_values[0], np.log(abs(products)) + 2 * ln_alpha, rtol=1e-12)
    near = diagonal_run(problem, log(0.1), np.array([0.0, 500.0]), **TOLERANCES, weight=0.1)
    np.testing.assert_allclose(near.log_values, np.log(abs(near.values)), rtol=1e-9)
