from dataclasses import replace

import numpy as np
import pytest

from rank_increase.notation import log_alpha
from rank_increase.toy.full_flow import full_run
from rank_increase.toy.greedy import descend, stages


class Separate:
    """Loss of both products as half their squared distance to targets: each singular pair is a problem of its own."""

    def __init__(self, *targets):
        self.targets = np.stack(targets)
        self.shape = self.targets.shape

    def loss_and_gradients(self, products):
        G = self.targets - products
        return 0.5 * np.sum(G**2), G


class Turning:
    """A loss whose gradient turns its singular vectors by `angle` while the first of them grows."""

    def __init__(self, values, angle):
        self.shape = 2, len(values), len(values)
        self.before = np.diag(values)
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(len(values))
        turn[1:3, 1:3] = [[c, -s], [s, c]]
        self.after = turn @ self.before @ turn.T

    def loss_and_gradients(self, products):
        first, second = products
        grown = np.clip(2 * first[0, 0] / self.before[0, 0], 0, 1)
        G = np.stack([(1 - grown) * self.before + grown * self.after - first, -second])
        return 0.5 * np.sum(G**2), G


def rotated(values, seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((len(values), len(values))))[0] for _ in range(2))
    return left @ np.diag(values) @ right.T


@pytest.mark.parametrize("dim_head", [3, 2])
def test_stages_of_separate_targets_are_known_in_closed_form(dim_head):
    # The singular pair of value g grows at the rate g throughout, and so wakes at 1 / g.
    values = [3.0, 1.1, 0.4], [2.0, 1.3, 0.7]
    head = Separate(*(rotated(v, seed) for seed, v in enumerate(values)))
    found = list(stages(head, dim_head, max_time=100))
    expected = sorted(
        (1 / g, product, index) for product in (0, 1) for index, g in enumerate(values[product][:dim_head])
    )
    assert [(stage.coordinate // dim_head, stage.coordinate % dim_head) for stage in found] == [e[1:] for e in expected]
    np.testing.assert_allclose([stage.time for stage in found], [time for time, *_ in expected], rtol=1e-6)
    gaps = np.diff([time for time, *_ in expected])
    np.testing.assert_allclose([stage.gap_to_next for stage in found[:-1]], gaps, rtol=1e-5)
    assert found[-1].gap_to_next == np.inf
    for number, stage in enumerate(found, start=1):
        awake = [[g for i, g in enumerate(values[p][:dim_head]) if (1 / g, p, i) in expected[:number]] for p in (0, 1)]
        padded = [of + [0.0] * (dim_head - len(of)) for of in awake]
        np.testing.assert_allclose(stage.product.reshape(2, -1), padded, atol=1e-6)
        left = sum(g**2 for of in values for g in of) - sum(g**2 for of in awake for g in of)
        assert stage.loss == pytest.approx(left / 2, abs=1e-6)


def test_stages_end_with_the_time():
    head = Separate(rotated([3.0, 1.1], 0), rotated([2.0, 0.1], 1))
    assert [len(list(stages(head, 2, max_time=time))) for time in (0.3, 0.4, 0.6, 9.0, 11.0)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("seed", "teacher", "dim_head"), [(0, "diagonal", 4), (2, "dense", 4), (4, "dense", 3)])
def test_the_flow_tends_to_the_greedy_limit(small_problem, seed, teacher, dim_head):
    problem = small_problem(seed, samples=40, tokens=3, dim=4, weights="full", teacher=teacher)
    problem = replace(problem, theta_0=problem.theta_0[:, :, :dim_head].copy())
    found = list(stages(problem.head(), dim_head, max_time=150))
    assert len(found) >= 4
    errors = []
    for alpha in ("1e-100", "1e-300"):
        ln_alpha = log_alpha(alpha)
        run = full_run(problem, ln_alpha, np.array([0.0, -150 * ln_alpha]), 1e-3, weight=0.1)
        rising = {event.coordinate: event.time / -ln_alpha for event in run.events if event.direction == 1}
        errors.append(np.array([rising[stage.coordinate] - stage.time for stage in found]))
        order = sorted(rising, key=rising.get)
        gaps = np.diff([stage.time for stage in found])
    assert abs(errors[1]).max() < 1
    np.testing.assert_allclose(errors[0] / errors[1], 3, rtol=0.35)  # as 1 / ln(1/alpha)
    if gaps.min() > 2 * abs(errors[1]).max():
        assert order == [stage.coordinate for stage in found]
    ranks = np.linalg.matrix_rank(found[-1].products, tol=1e-4)
    assert [sum(c // dim_head == p for c in rising) for p in (0, 1)] == ranks.tolist()
    np.testing.assert_allclose(run.values[-1].ravel(), found[-1].product, atol=2e-3)


def test_exponents_add_largest_with_largest_across_a_turn():
    # With generic overlaps, the larger of two exponents goes on at the larger rate, whichever vectors it came from.
    head = Turning([2.0, 1.0, 0.5], angle=0.9)
    assert abs(head.after - head.before).max() > 0.3
    first, second, third = stages(head, 3, max_time=100)
    assert first.time == pytest.approx(0.5)
    assert (second.time, third.time) == pytest.approx((1.0, 2.0), rel=1e-5)


def test_a_turn_by_a_right_angle_has_no_overlap_and_is_refused():
    with pytest.raises(ArithmeticError, match="orthogonal"):
        list(stages(Turning([2.0, 1.0, 0.5, 0.2], angle=np.pi / 2), 4, max_time=100))


class Leaving(Separate):
    """The target of the first product changes its sign while the second one grows."""

    def loss_and_gradients(self, products):
        first, second = products
        grown = np.clip(2 * np.trace(second) / np.trace(self.targets[1]), 0, 1)
        G = np.stack([(1 - 2 * grown) * self.targets[0] - first, self.targets[1] - second])
        return 0.5 * np.sum(G**2), G


def test_a_singular_value_that_leaves_is_refused():
    head = Leaving(np.diag([3.0, 0.5]), np.diag([2.0, 0.1]))
    with pytest.raises(ArithmeticError, match="leaves"):
        list(stages(head, 2, max_time=10))


def test_a_flow_that_lingers_at_a_saddle_is_followed_to_its_rest():
    """Beside the second direction by an angle of 3e-3, the flow leaves the saddle there after ln(1 / 3e-3) / gap."""
    gap, angle = 3e-5, 3e-3
    assert np.log(1 / angle) / gap > 1.9e5
    start = 0.03 * np.array([[np.sin(angle)], [np.cos(angle)]])
    head = Separate(np.diag([1.0, 1.0 - gap]))
    left, right = descend(head, [start, start.copy()])
    np.testing.assert_allclose(left @ right.T, np.diag([1.0, 0.0]), atol=1e-3)
    with pytest.raises(ArithmeticError, match="has not come to rest by time 100000"):
        descend(head, [start, start.copy()], patience=1e5)
