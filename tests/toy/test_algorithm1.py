from dataclasses import replace

import numpy as np
import pytest

from rank_increase.notation import log_alpha
from rank_increase.toy.algorithm1 import descend, stages, time_until_active
from rank_increase.toy.diagonal_flow import LogCoordinates, initial_state, integrate

TOLERANCES = {"rtol": 1e-10, "atol": 1e-6}


def test_time_until_active_is_that_of_equation_8():
    b = np.array([1.0, 1.0, 0.5, 1.5, 0.5, 1.5, 0.0, 2.0])
    g = np.array([0.1, -0.1, 0.25, 0.25, -0.25, -0.25, -0.4, 0.4])
    # A coordinate becomes active at b = 0 if g is positive, at b = 2 if it is negative.
    expected = [10.0, 10.0, 2.0, 6.0, 6.0, 2.0, 5.0, 5.0]
    np.testing.assert_allclose(time_until_active(b, g, np.zeros(8, bool)), expected)


def test_the_support_and_coordinates_without_slope_wait_forever():
    b, g = np.array([0.0, 1.0, 2.0, 1.0]), np.array([1e-17, 0.0, -1e-17, 0.5])
    support = np.array([True, False, True, False])
    np.testing.assert_array_equal(time_until_active(b, g, support), [np.inf, np.inf, np.inf, 2.0])


def test_stages_of_a_separable_loss_are_known_in_closed_form(quadratic):
    slopes, targets = np.array([0.5, 2.0, 1.0, 0.3, 4.0]), np.array([0.8, -0.3, 0.05, -1.5, 0.12])
    head = quadratic(np.diag(slopes), targets)
    # g_i stays at its value at zero until i is active, so that T = 1 / |g_i(0)|; part (B) ends at the target.
    times = 1 / abs(slopes * targets)
    order = np.argsort(times)
    found = list(stages(head, 5, max_time=1e6))
    assert [stage.coordinate for stage in found] == order.tolist()
    np.testing.assert_allclose([stage.time for stage in found], times[order], rtol=1e-8)
    assert [stage.sign for stage in found] == np.sign(targets[order]).tolist()
    for number, stage in enumerate(found, start=1):
        learned = order[:number]
        expected = np.where(np.isin(np.arange(5), learned), targets, 0)
        np.testing.assert_allclose(stage.product, expected, atol=1e-10)
        np.testing.assert_array_equal(stage.product == 0, expected == 0)
        assert stage.loss == pytest.approx(0.5 * slopes[order[number:]] @ targets[order[number:]] ** 2, abs=1e-15)
        # L(u, s u) = slope / 2 (s u^2 - target)^2 has the second derivative 4 slope |target| at its minimum.
        assert stage.curvature == pytest.approx((4 * slopes * abs(targets))[learned].min(), rel=1e-5)
        assert stage.deactivated == ()
    gaps = np.append(np.diff(times[order]), np.inf)
    np.testing.assert_allclose([stage.gap_to_next for stage in found], gaps, rtol=1e-8)


def test_weight_decay_takes_from_the_growth_and_moves_the_end_of_the_wait():
    b, g = np.array([1.0, 1.0, 0.5, 0.5, 1.0, 1.0]), np.array([0.5, -0.5, 0.3, -0.3, 0.2, -0.1])
    # At time 4, with decay 0.2, a coordinate becomes active at b = 0 or at b = 2 (1 + 0.2 x 4) = 3.6.
    expected = [1 / 0.3, 2.6 / 0.3, 0.5 / 0.1, 3.1 / 0.1, np.inf, np.inf]
    np.testing.assert_allclose(time_until_active(b, g, np.zeros(6, bool), 0.2, 1.8), expected)


def test_stages_with_decay_are_known_in_closed_form_and_weak_coordinates_have_none(quadratic):
    slopes, targets, decay = np.array([0.5, 2.0, 1.0, 0.3, 4.0]), np.array([0.8, -0.3, 0.05, -1.5, 0.03]), 0.15
    # g_i stays slope x target until i is active: three exceed the decay. The end is where slope |target - p| = decay.
    order = [1, 3, 0]
    found = list(stages(quadratic(np.diag(slopes), targets), 5, max_time=1e6, decay=decay))
    assert [stage.coordinate for stage in found] == order
    rates = abs(slopes * targets) - decay
    np.testing.assert_allclose([stage.time for stage in found], 1 / rates[order], rtol=1e-8)
    ends = np.where(rates > 0, targets - np.sign(targets) * decay / slopes, 0)
    np.testing.assert_allclose(found[-1].product, ends, atol=1e-10)
    # L(u, s u) + decay u^2 has the second derivative 4 slope u^2 there.
    curvature = (4 * slopes * abs(ends))[order]
    np.testing.assert_allclose([s.curvature for s in found], np.minimum.accumulate(curvature), rtol=1e-4)
    assert found[-1].gap_to_next == np.inf
    residuals = slopes * (targets - found[-1].product) ** 2
    assert found[-1].loss == pytest.approx(residuals.sum() / 2, rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_flow_with_decay_agrees_with_the_stages(quadratic, seed):
    rng, alpha, decay = np.random.default_rng(seed), "1e-3000", 0.05
    A = rng.standard_normal((6, 6))
    head = quadratic(A @ A.T / 6 + 0.3 * np.eye(6), rng.standard_normal(6))
    found = list(stages(head, 6, max_time=40, decay=decay))
    unit = -log_alpha(alpha)
    coordinates, s = LogCoordinates.of(rng.standard_normal(6), rng.standard_normal(6), log_alpha(alpha))
    coordinates = replace(coordinates, decay=decay)
    states, crossings = integrate(head, coordinates, s, np.array([0, 40.0]) * unit, thresholds=[0.02], **TOLERANCES)
    risen = [crossing for crossing in crossings if crossing.direction > 0]
    assert len(found) >= 3
    assert [crossing.coordinate for crossing in risen] == [stage.coordinate for stage in found]
    np.testing.assert_allclose([c.time / unit for c in risen], [stage.time for stage in found], atol=300 / unit)
    np.testing.assert_allclose(coordinates.after(40 * unit).product(states[-1]), found[-1].product, atol=1e-5)


def test_coordinates_that_become_active_together_are_named(quadratic):
    head = quadratic(np.array([[1.0, 0, 0], [0, 1, 1], [0, 1, 1]]), [0.5, 0.4, 0.4])
    with pytest.raises(
        ArithmeticError, match="coordinates 1, 2 become active together at time 1.25, but Assumption 4.2"
    ):
        list(stages(head, 3, max_time=10))


def test_identical_heads_become_active_together(small_problem):
    problem = small_problem(layers=1, heads=2)
    with pytest.raises(ArithmeticError, match="become active together"):
        list(stages(problem.head(), 24, max_time=100))
    told_apart = small_problem(layers=1, heads=2, bias_std=1.0)
    assert len(list(stages(told_apart.head(), 24, max_time=20))) >= 3


def test_only_stages_up_to_the_wanted_time_are_given(quadratic):
    head = quadratic(np.eye(3), [1.0, 0.5, 0.25])  # T = 1, 2, 4
    for max_time, expected in ((0.99, 0), (1.0, 1), (3.9, 2), (4.0, 3), (1e9, 3)):
        assert len(list(stages(head, 3, max_time=max_time))) == expected


def test_a_loss_without_slope_has_no_stage(quadratic):
    assert list(stages(quadratic(np.eye(3), np.zeros(3)), 3, max_time=1e6)) == []


# Two features so correlated that the wrong one, 0, is learned first: g(0) = (0.5, 0.41), although the best p is
# (-0.2, 1). By hand: coordinate 0 activates at T = 1 / 0.5 and goes to p_0 = 0.5; there g_1 = 0.41 - 0.7 x 0.5 = 0.06
# and b_1 = 1 - 0.41 x 2 = 0.18, so that 1 follows 3 later. With both active p_0 falls to zero and leaves,
# p_1 = 0.41 / 0.55 and g_0 = 0.5 - 0.7 p_1 < 0; from b_0 = 0 it takes 2 / |g_0| to come back with the other sign.
H, A = np.array([[1.0, 0.7], [0.7, 0.55]]), np.array([-0.2, 1.0])
P_1 = 0.41 / 0.55
TIMES = [2.0, 5.0, 5.0 + 2 / (0.7 * P_1 - 0.5)]
PRODUCTS = [(0.5, 0.0), (0.0, P_1), (-0.2, 1.0)]
SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize("signs", SIGNS)
def test_a_coordinate_leaves_the_support_and_comes_back_with_the_other_sign(quadratic, signs):
    signs = np.array(signs)
    head = quadratic(np.outer(signs, signs) * H, signs * A)
    found = list(stages(head, 2, max_time=1e4))
    assert [stage.coordinate for stage in found] == [0, 1, 0]
    assert [stage.deactivated for stage in found] == [(), (0,), ()]
    assert [stage.sign for stage in found] == [signs[0], signs[1], -signs[0]]
    np.testing.assert_allclose([stage.time for stage in found], TIMES, rtol=1e-7)
    np.testing.assert_allclose([stage.product for stage in found], signs * PRODUCTS, atol=1e-9)
    assert [stage.product[0] == 0 for stage in found] == [False, True, False]
    dp_du = 2 * np.sqrt(abs(A))
    expected = [4 * 0.5, 4 * 0.41, np.linalg.eigvalsh(H * np.outer([-1, 1], [-1, 1]) * np.outer(dp_du, dp_du))[0]]
    np.testing.assert_allclose([stage.curvature for stage in found], expected, rtol=1e-4)
    assert found[-1].gap_to_next == np.inf


@pytest.mark.parametrize("signs", SIGNS)
def test_with_decay_too_a_coordinate_leaves_and_comes_back_when_the_flow_says(quadratic, signs):
    signs, decay, unit = np.array(signs), 0.002, -log_alpha("1e-3000")
    head = quadratic(np.outer(signs, signs) * H, signs * A)
    found = list(stages(head, 2, max_time=300, decay=decay))
    coordinates, s = LogCoordinates.of(np.array([1.3, 0.4]), np.array([0.6, -0.9]), -unit)
    coordinates = replace(coordinates, decay=decay)
    _, crossings = integrate(head, coordinates, s, np.array([0, 300.0]) * unit, thresholds=[0.1], **TOLERANCES)
    risen = [(crossing.coordinate, crossing.time / unit) for crossing in crossings if crossing.direction > 0]
    assert [stage.deactivated for stage in found] == [(), (0,), ()]
    assert [stage.coordinate for stage in found] == [coordinate for coordinate, _ in risen] == [0, 1, 0]
    np.testing.assert_allclose([stage.time for stage in found], [time for _, time in risen], atol=300 / unit)


def test_a_coordinate_that_leaves_slowly_is_not_carried_across_zero(quadratic):
    # As above but for a_0 = -0.01: g_0 ends at -0.001, and a Newton step from there leads to p_0 < 0.
    head = quadratic(H, [-0.01, 1.0])
    first, second, third = stages(head, 2, max_time=1e4)
    assert (second.coordinate, second.deactivated) == (1, (0,))
    np.testing.assert_allclose(second.product, [0.0, 0.543 / 0.55], atol=1e-9)
    assert third.coordinate == 0
    assert third.time - second.time == pytest.approx(2 / (0.7 * 0.543 / 0.55 - 0.69), rel=1e-6)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("alpha", ["1e-300", "1e-3000"])
def test_the_flow_agrees_that_a_coordinate_leaves_and_comes_back(quadratic, alpha, signs):
    signs = np.array(signs)
    head = quadratic(np.outer(signs, signs) * H, signs * A)
    coordinates, s = LogCoordinates.of(np.array([1.3, 0.4]), np.array([0.6, -0.9]), log_alpha(alpha))
    unit = -log_alpha(alpha)
    times = np.array([0.0, 1.0, 3.5, 5.0 + 20 / unit, 5.2, 50.0, 98.0]) * unit
    states, crossings = integrate(head, coordinates, s, times, thresholds=[0.1], **TOLERANCES)
    products = coordinates.product(states)
    np.testing.assert_allclose(products[[1, 2, 5, 6]], signs * [(0, 0), *PRODUCTS], atol=1e-4)
    assert [(crossing.coordinate, crossing.direction) for crossing in crossings] == [(0, 1), (1, 1), (0, -1), (0, 1)]
    measured = np.array([crossing.time for crossing in crossings]) / unit
    close = 200 / unit  # the theorem's limit is approached like 1 / ln(1/alpha)
    np.testing.assert_allclose(measured, [TIMES[0], TIMES[1], TIMES[1], TIMES[2]], atol=close)
    # b is the logarithm of u + v to the base alpha where that of theta_0 is positive, as s is 1 - b.
    b = 1 - states[:, 0] / unit
    left, back = (0, 2) if signs[0] > 0 else (2, 0)
    assert b[2] == pytest.approx(left, abs=close)
    assert b[4] == pytest.approx(left - signs[0] * -0.2 * (0.7 * P_1 - 0.5), abs=close)
    assert b[6] == pytest.approx(back, abs=close)


def test_descend_follows_the_flow_to_the_minimum_it_leads_to(quadratic):
    rng = np.random.default_rng(5)
    factor = rng.standard_normal((4, 6))
    head = quadratic(factor @ factor.T, np.array([1.0, 2.0, 0.5, 0.7]))
    p, curvature = descend(head, np.array([1e-6, 1e-6, 1e-6, 1e-6]))
    np.testing.assert_allclose(p, head.a, rtol=1e-8)
    dp_du = 2 * np.sqrt(head.a)
    assert curvature == pytest.approx(np.linalg.eigvalsh(head.H * np.outer(dp_du, dp_du))[0], rel=1e-4)
    p, _ = descend(head, np.array([1e-6, 0.0, 0.0, 1e-6]))
    assert (p[[1, 2]] == 0).all()
    np.testing.assert_allclose(head.loss_and_g(p)[1][[0, 3]], 0, atol=1e-8)


def test_descend_raises_if_the_loss_has_no_minimum(quadratic):
    with pytest.raises(ArithmeticError, match="has not come to rest"):
        descend(quadratic([[-1.0]], [-1.0]), np.array([1e-6]))


@pytest.fixture(scope="module", params=[0, 2, 4])
def attention_problem(request, small_problem):
    problem = small_problem(request.param, samples=50)
    return problem, list(stages(problem.head(), 12, max_time=250))


def test_stages_of_an_attention_head_end_in_strict_minima_on_their_support(attention_problem):
    problem, found = attention_problem
    head = problem.head()
    assert len(found) >= 6
    supports = [set(np.flatnonzero(stage.product)) for stage in found]
    for before, support, stage in zip([set(), *supports], supports, found, strict=False):
        assert support - before == {stage.coordinate}
        assert before - support == set(stage.deactivated)
        active = sorted(support)
        assert abs(head.loss_and_g(stage.product)[1][active]).max() < 1e-9
        assert np.sign(stage.product[stage.coordinate]) == stage.sign
        assert stage.loss == pytest.approx(head.loss_and_g(stage.product)[0], rel=1e-12)
        assert stage.curvature > 0
    losses = [stage.loss for stage in found]
    assert losses == sorted(losses, reverse=True)
    times = [stage.time for stage in found]
    assert times == sorted(times)


def hessian_in_u(head, product, active, change=1e-5):
    """Second derivatives of L(u, s u) along u_i of the support, by differences of its slope -2 s u g."""
    sign, u = np.sign(product), np.sqrt(abs(product))

    def slope(u):
        return -2 * sign * u * head.loss_and_g(sign * u * u)[1]

    columns = []
    for i in active:
        step = change * (np.arange(len(u)) == i)
        columns.append((slope(u + step) - slope(u - step))[active] / (2 * change))
    hessian = np.array(columns)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-7)
    return hessian


def test_curvature_is_the_least_eigenvalue_of_the_hessian_at_the_end_of_the_stage(attention_problem):
    problem, found = attention_problem
    expected = []
    for stage in found:
        hessian = hessian_in_u(problem.head(), stage.product, np.flatnonzero(stage.product))
        expected.append(np.linalg.eigvalsh(hessian)[0])
    np.testing.assert_allclose([stage.curvature for stage in found], expected, rtol=1e-3)


def test_the_first_stage_is_the_steepest_value_product(attention_problem):
    problem, found = attention_problem
    g = problem.head().loss_and_g(np.zeros(12))[1]
    assert found[0].coordinate == abs(g).argmax() >= 6
    assert found[0].time == pytest.approx(1 / abs(g).max(), rel=1e-12)
    assert found[0].sign == np.sign(g[found[0].coordinate])


def test_stages_do_not_depend_on_epsilon(attention_problem):
    problem, found = attention_problem
    finer = list(stages(problem.head(), 12, max_time=250, epsilon=1e-4))
    assert [stage.coordinate for stage in finer] == [stage.coordinate for stage in found]
    np.testing.assert_allclose([stage.time for stage in finer], [stage.time for stage in found], rtol=1e-7)
    np.testing.assert_allclose([s.product for s in finer], [s.product for s in found], atol=1e-8)


def measured_stages(problem, found, alpha):
    """(T - T_k) ln(1/alpha) and the distance to theta_k in the middle of the stage, for all stages but the last."""
    unit = -log_alpha(alpha)
    coordinates, s = initial_state(problem.theta_0, -unit)
    ends = np.array([stage.time for stage in found])
    times = np.concatenate([[0.0], (ends[1:] + ends[:-1]) / 2 * unit, [ends[-1] * unit]])
    states, crossings = integrate(problem.head(), coordinates, s, times, thresholds=[0.1], **TOLERANCES)
    first = {}
    for crossing in crossings:
        first.setdefault(crossing.coordinate, crossing.time / unit)
    delays = [(first.get(stage.coordinate, np.nan) - stage.time) * unit for stage in found[:-1]]
    expected = [stage.product for stage in found[:-1]]
    return np.array(delays), abs(coordinates.product(states[1:-1]) - expected).max(axis=1)


def test_trajectories_approach_algorithm_1_as_the_theorem_says(attention_problem):
    problem, found = attention_problem
    alphas = ("1e-8", "1e-32", "1e-300", "1e-3000")
    delays, distances = zip(*(measured_stages(problem, found, alpha) for alpha in alphas), strict=True)
    # Theorem 4.5, and its rate: T - T_k falls like 1 / ln(1/alpha), with the same constant at every small alpha.
    np.testing.assert_allclose(delays[2], delays[3], rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(delays[1], delays[2], rtol=0.05, atol=5)
    assert abs(delays[2]).max() < 1000
    medians = [np.median(distance) for distance in distances]
    assert medians[0] > 20 * medians[1] > 400 * medians[2]
    assert distances[2].max() < 1e-5
    assert distances[3].max() < 1e-6
