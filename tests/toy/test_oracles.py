"""Algorithm 1 against two algorithms of others, each written here from its own definition.

- Diagonal linear networks: the successive saddles of Pesme and Flammarion, "Saddle-to-saddle dynamics in diagonal
  linear networks" (NeurIPS 2023), Algorithm 1. s is an integral of -dL/dp. The next saddle comes when some |s_i|
  reaches 1; it is the best regressor that is positive only where s_i = 1 and negative only where s_i = -1.
- Alternating gradient flows: Kunin et al. (NeurIPS 2025, arXiv 2506.06489). A neuron is a pair (u_i, v_i). While
  dormant, its direction climbs its utility and its norm grows at a finite ln(1/alpha) until it is 1; then active
  neurons, from a small norm, descend the loss to rest.
"""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, nnls

from rank_increase.toy.algorithm1 import stages


class LinearNetwork:
    """The regressor p = u * v under half the mean squared error, with the methods of a DiagonalHead."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def subset(self, samples):
        return LinearNetwork(self.X[samples], self.y[samples])

    def loss_and_g(self, p):
        residual = self.y - self.X @ p
        return residual @ residual / (2 * len(self.y)), self.X.T @ residual / len(self.y)


def drawn_network(seed, dim=5, samples=12):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim))
    X = rng.standard_normal((samples, dim)) @ mixing
    return LinearNetwork(X, X @ rng.standard_normal(dim) + 0.3 * rng.standard_normal(samples))


def saddles(network):
    """Times and regressors of the successive saddles, (list of float, list of array)."""
    X, y, dim = network.X, network.y, network.X.shape[1]
    s, p, time, times, found = np.zeros(dim), np.zeros(dim), 0.0, [], []
    while True:
        g = X.T @ (y - X @ p) / len(y)
        free = (abs(g) > 1e-9) & ~((abs(abs(s) - 1) < 1e-9) & (np.sign(g) == np.sign(s)))
        if not free.any():
            return times, found
        waits = np.full(dim, np.inf)
        waits[free] = (np.sign(g[free]) - s[free]) / g[free]
        wait = waits.min()
        s, time = np.clip(s + g * wait, -1, 1), time + wait
        signs = np.where(abs(s) > 1 - 1e-9, np.sign(s), 0)
        p = signs * nnls(X * signs, y)[0]
        times.append(time)
        found.append(p)


def test_some_coordinates_of_these_networks_leave_the_support():
    regressors = [saddles(drawn_network(seed))[1] for seed in range(30)]
    left = [((before != 0) & (after == 0)).any() for p in regressors for before, after in zip(p, p[1:], strict=False)]
    assert sum(left) >= 3


@pytest.mark.parametrize("seed", range(30))
def test_stages_of_a_diagonal_linear_network_are_its_successive_saddles(seed):
    network = drawn_network(seed)
    times, regressors = saddles(network)
    found = list(stages(network, 5, max_time=1e9))
    np.testing.assert_allclose([stage.time for stage in found], times, rtol=1e-7)
    np.testing.assert_allclose([stage.product for stage in found], regressors, atol=1e-7)
    for stage, before in zip(found, [np.zeros(5), *regressors], strict=False):
        new = np.flatnonzero((stage.product != 0) & (before == 0))
        assert set(new) <= {stage.coordinate}
        assert set(stage.deactivated) >= set(np.flatnonzero((stage.product == 0) & (before != 0)))


def log_cosh(x):
    return np.logaddexp(x, -x) - np.log(2)


def alternating_gradient_flows(g, weights, size, end):
    """Times over `size` = ln(1/alpha) and products of the alternations up to `end`; `weights` = (u, v) at alpha = 1.

    The direction of a dormant neuron at angle phi climbs its utility g sin(2 phi) / 2. With x = artanh(sin(2 phi)) that
    is dx/dt = 2 g, and its norm grows as d(ln r)/dt = g tanh(x).
    """
    u, v = weights
    x, log_norm = np.arctanh(2 * u * v / (u**2 + v**2)), np.log(np.hypot(u, v)) - size
    active, p, time, found = np.zeros(len(u), bool), np.zeros(len(u)), 0.0, []
    while True:
        slope, waits = g(p), np.full(len(u), np.inf)
        for i in np.flatnonzero(~active & (abs(slope) > 1e-9)):
            waits[i] = time_to_norm_one(x[i], log_norm[i], slope[i], size)
        i, wait = waits.argmin(), waits.min()
        time += wait
        if time > end * size:
            return found
        after = np.where(active, x, x + 2 * slope * wait)
        log_norm, x = log_norm + (log_cosh(after) - log_cosh(x)) / 2, after
        start = p.copy()
        start[i] = 1e-8 * np.sign(x[i])
        p = rest(g, start)
        active = p != 0
        gone = (start != 0) & ~active
        # It leaves as it came: u^2 - v^2, of size alpha^2, is conserved.
        log_norm[gone], x[gone] = 0.0, np.sign(start[gone]) * 2 * size
        found.append((time / size, int(i), p.copy()))


def time_to_norm_one(x, log_norm, slope, size):
    """When a dormant neuron becomes active. One that has been active shrinks first where its utility is negative."""

    def norm_after(wait):
        return log_norm + (log_cosh(x + 2 * slope * wait) - log_cosh(x)) / 2

    longest = (2 * size + abs(x) + 2) / abs(slope)
    least = np.clip(-x / (2 * slope), 0, longest)
    return brentq(norm_after, least, longest) if norm_after(least) < 0 else 0.0


def rest(g, p):
    """Where active neurons come to rest; zero for those that collapse on the way."""
    resting = False
    while p.any() and not resting:
        p, resting = descend_weights(g, p)
        p[abs(p) < 2e-9] = 0.0
    return p


def descend_weights(g, p):
    """Descent in weights |u| = |v| until a neuron collapses or all are at rest; products, and whether at rest."""
    active = np.flatnonzero(p)
    signs, count, root = np.sign(p[active]), len(active), np.sqrt(abs(p[active]))

    def products(theta):
        full = np.zeros(len(p))
        full[active] = theta[:count] * theta[count:]
        return full

    def velocity(_, theta):
        slope = g(products(theta))[active]
        return np.concatenate([theta[count:] * slope, theta[:count] * slope])

    def size_of_smallest(_, theta):
        return (signs * theta[:count] * theta[count:]).min() - 1e-9

    def speed(_, theta):
        return abs(velocity(0, theta)).max() - 1e-9

    size_of_smallest.terminal = speed.terminal = True
    size_of_smallest.direction = speed.direction = -1
    start, events = np.concatenate([root, signs * root]), [size_of_smallest, speed]
    solution = solve_ivp(velocity, (0, 1e6), start, "LSODA", events=events, rtol=1e-8, atol=1e-11)
    return products(solution.y[:, -1]), not len(solution.t_events[0])


def attention_slope(problem):
    """-dL/dp of an attention head with diagonal weights, by autograd, as a function of its products p."""
    X, Y = torch.tensor(problem.X), torch.tensor(problem.Y)

    def g(p):
        p = torch.tensor(p, requires_grad=True)
        KQ, VO = p.chunk(2)
        loss = ((torch.softmax(X * KQ @ X.mT, dim=-1) @ X * VO - Y) ** 2).mean() / 2
        return -torch.autograd.grad(loss, p)[0].numpy()

    return g


def assert_same_stages(found, expected, size):
    assert [i for _, i, _ in found] == [stage.coordinate for stage in expected]
    np.testing.assert_allclose([time for time, _, _ in found], [stage.time for stage in expected], rtol=300 / size)
    np.testing.assert_allclose([p for _, _, p in found], [stage.product for stage in expected], atol=1e-5)


@pytest.mark.parametrize("seed", [1, 7])
def test_alternating_gradient_flows_of_attention_are_the_stages(small_problem, seed):
    problem, size, end = small_problem(seed, samples=10, tokens=3, dim=3), 1e6, 100
    expected = list(stages(problem.head(), 6, max_time=end))
    assert len(expected) >= 4
    W_K, W_Q, W_V, W_O = problem.theta_0
    weights = np.concatenate([W_K, W_V]), np.concatenate([W_Q, W_O])
    assert_same_stages(alternating_gradient_flows(attention_slope(problem), weights, size, end), expected, size)


@pytest.mark.parametrize("seed", range(12))
def test_alternating_gradient_flows_of_a_diagonal_linear_network_are_the_stages(seed):
    network, size, end = drawn_network(seed), 1e6, 1e3
    weights = np.random.default_rng(seed).standard_normal((2, 5))
    found = alternating_gradient_flows(lambda p: network.loss_and_g(p)[1], weights, size, end)
    assert_same_stages(found, list(stages(network, 5, max_time=end)), size)
