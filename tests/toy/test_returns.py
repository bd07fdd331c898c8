import numpy as np

from rank_increase.toy.algorithm1 import stages
from rank_increase.toy.returns import perturbed_ends
from reference import flow_in_weights


def ends_of(head, found, chosen, stds=(0.05,), draws=2, seed=0):
    rng = np.random.default_rng(seed)
    return list(perturbed_ends(head, found, chosen, stds=stds, draws=draws, rng=rng))


def test_ends_are_those_of_the_flow_of_the_weights(small_problem):
    head = small_problem(2, samples=50).head()
    found, rng = list(stages(head, 12, max_time=150.0)), np.random.default_rng(5)
    assert len(found) > 3
    returns = iter(ends_of(head, found, [1, 3], stds=(0.05, 0.3), seed=5))
    for k in (1, 3):
        goal = found[k - 1].product
        before = found[k - 2].product if k > 1 else 0 * goal
        for assumption, at in (("4.3", goal), ("4.4", before)):
            for std in (0.05, 0.3):
                for draw in range(2):
                    u = np.sqrt(abs(at)) + std * rng.standard_normal(12)
                    u[goal == 0] = 0  # the support of theta_k is that before and the new coordinate
                    v = np.sign(goal) * u
                    end = flow_in_weights(head, u, v, np.array([0.0, 3e4]))[-1].prod(axis=0)
                    one = next(returns)
                    assert (one.assumption, one.stage, one.std, one.draw) == (assumption, k, std, draw)
                    np.testing.assert_allclose(one.start_distance, abs(u * v - goal).max())
                    np.testing.assert_allclose(one.end_distance, abs(end - goal).max(), atol=1e-6)
    assert next(returns, None) is None


class Cubic:
    """Loss 2 p - 1.5 p^2 + p^3 / 3 of one product: minima at p = 0 (its edge) and 2, a maximum at 1."""

    def subset(self, samples):
        return self

    def loss_and_g(self, p):
        return float((2 * p - 1.5 * p**2 + p**3 / 3).sum()), -(2 - 3 * p + p**2)


def test_noise_that_is_too_large_for_the_minimum_does_not_return(quadratic):
    stage = next(stages(quadratic(np.eye(1), [2.0]), 1, max_time=10))
    np.testing.assert_allclose(stage.product, 2.0)
    near, far = (ends_of(Cubic(), [stage], [1], stds=(std,), draws=20) for std in (0.01, 0.5))
    assert max(one.end_distance for one in near if one.assumption == "4.3") < 1e-9
    of_far = [one.end_distance for one in far if one.assumption == "4.3"]
    assert min(of_far) < 1e-9
    np.testing.assert_allclose(max(of_far), 2.0)  # it has left the support


def test_a_flow_that_does_not_come_to_rest_counts_as_infinitely_far(quadratic):
    # Along a valley there is no strict minimum.
    stage = next(stages(quadratic(np.eye(2), [0.5, 0.4]), 2, max_time=10))
    valley = quadratic(np.ones((2, 2)), [0.5, 0.5])
    both = stage.__class__(**{**vars(stage), "product": np.array([0.5, 0.5])})
    [one] = ends_of(valley, [both], [1], draws=1)[:1]
    assert one.end_distance == np.inf
