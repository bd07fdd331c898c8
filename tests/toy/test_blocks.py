from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rank_increase.notation import log_alpha
from rank_increase.toy import algorithm1, greedy
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.full_flow import full_run
from rank_increase.toy.heads import BlockHead
from rank_increase.toy.problem import Problem, attention


def whole(blocks):
    """Block-diagonal matrices, (4, dim, dim), of blocks one below the other, (4, dim, block)."""
    _, dim, size = blocks.shape
    matrices = np.zeros((4, dim, dim))
    for start in range(0, dim, size):
        matrices[:, start : start + size, start : start + size] = blocks[:, start : start + size]
    return matrices


@pytest.mark.parametrize("block", [1, 2, 4])
def test_factors_are_those_of_the_blocks_of_both_products(small_problem, block):
    problem = small_problem(dim=4, weights="full", block=block)
    assert problem.theta_0.shape == (4, 4, block) and problem.shape == (2, 4)
    W_K, W_Q, W_V, W_O = whole(problem.theta_0)
    products = problem.factors[::2] @ problem.factors[1::2].swapaxes(1, 2)
    assert products.shape == problem.head().shape == (8 // block, block, block)
    for number, product in enumerate(products):
        of_head, start = (W_K @ W_Q.T, W_V @ W_O.T)[number // (4 // block)], number % (4 // block) * block
        np.testing.assert_allclose(product, of_head[start : start + block, start : start + block], atol=1e-14)
    loss = problem.head().loss_and_gradients(products)[0]
    assert loss == pytest.approx(np.mean((attention(problem.X, whole(problem.theta_0)) - problem.Y) ** 2) / 2)


def test_gradients_are_derivatives_of_the_loss(small_problem):
    problem = small_problem(dim=4)
    head, rng = BlockHead(problem.X, problem.Y, 2), np.random.default_rng(1)
    products, direction = rng.standard_normal((2, 4, 2, 2))
    change = 1e-5 * direction
    after, before = (head.loss_and_gradients(products + sign * change)[0] for sign in (1, -1))
    _, gradients = head.loss_and_gradients(products)
    assert (before - after) / 2e-5 == pytest.approx(np.sum(gradients * direction), rel=1e-6)


@pytest.mark.parametrize("block", [1, 2])
def test_a_saved_problem_loads_with_its_blocks(small_problem, tmp_path, block):
    problem = small_problem(dim=4, weights="full", block=block)
    with open(tmp_path / "problem.npz", "wb") as file:
        problem.save(file)
    loaded = Problem.load(tmp_path / "problem.npz")
    assert loaded.block == block
    np.testing.assert_array_equal(loaded.factors, problem.factors)


@pytest.mark.parametrize("alpha", ["1e-4", "1e-300"])
def test_blocks_of_one_are_diagonal_weights(small_problem, alpha):
    blocks, diagonal = small_problem(dim=4, weights="full", block=1), small_problem(dim=4)
    np.testing.assert_array_equal(blocks.theta_0[:, :, 0], diagonal.theta_0)
    ln_alpha = log_alpha(alpha)
    times = np.linspace(0, -300 * ln_alpha, 31)
    expected = diagonal_run(diagonal, ln_alpha, times, 1e-10, 1e-6, weight=0.1)
    wanted = np.isin(expected.time, times)
    for tolerance in (1e-2, 1e-4):
        run = full_run(blocks, ln_alpha, times, tolerance, weight=0.1)
        np.testing.assert_allclose(run.loss, expected.loss[wanted], atol=tolerance)
        np.testing.assert_allclose(run.values, abs(expected.values[wanted]), atol=3 * tolerance)
        assert np.median(abs(run.log_values - expected.log_values[wanted])) < 10 * tolerance
    known, found = ([event for event in events if event.direction == 1] for events in (expected.events, run.events))
    assert len(known) >= 4
    assert [event.coordinate for event in found] == [event.coordinate for event in known]
    # Of diagonal weights, an event is a passage of the larger weight, which is one of the product up to alpha^4.
    np.testing.assert_allclose([event.time for event in found], [event.time for event in known], atol=1)


def test_one_block_is_full_weights(small_problem):
    ln_alpha = log_alpha("1e-30")
    times = np.linspace(0, -150 * ln_alpha, 11)
    block, full = (small_problem(dim=4, weights="full", block=block) for block in (4, None))
    one, other = (full_run(problem, ln_alpha, times, 1e-2, weight=0.1) for problem in (block, full))
    assert len(one.events) >= 3
    assert one.events == other.events
    for name in ("loss", "log_values", "conservation"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("alpha", [1e-1, 1e-2, 1e-4])
def test_the_flow_of_blocks_agrees_with_an_explicit_method_of_high_order(small_problem, alpha):
    problem = small_problem(dim=4, weights="full", teacher="dense", block=2)
    head, mask = replace(problem, block=0).head(), whole(np.ones((4, 4, 2)))
    times = np.linspace(0, 150 * np.log(1 / alpha), 21)
    # The gradient of full weights, of which only the entries of the blocks are followed.
    solution = solve_ivp(
        lambda t, theta: (mask * head.velocity(theta.reshape(4, 4, 4))[1]).ravel(),
        (0, times[-1]),
        alpha * whole(problem.theta_0).ravel(),
        "DOP853",
        times,
        rtol=1e-11,
        atol=1e-14,
    )
    weights = solution.y.T.reshape(-1, 4, 4, 4)
    products = weights[:, ::2] @ weights[:, 1::2].swapaxes(2, 3)
    parts = np.stack([products[:, :, :2, :2], products[:, :, 2:, 2:]], axis=2)
    values = np.linalg.svd(parts, compute_uv=False).reshape(-1, 2, 4)
    assert values[-1].max() > 0.3
    for tolerance in (1e-2, 1e-4):
        run = full_run(problem, np.log(alpha), times, tolerance, weight=0.1)
        np.testing.assert_allclose(run.values, values, atol=10 * tolerance)
        np.testing.assert_allclose(run.loss, [head.velocity(theta)[0] for theta in weights], atol=3 * tolerance)
        assert np.median(abs(run.log_values - np.log(values))) < 5 * tolerance
        assert run.conservation.shape == (21, 2, 2)
        assert (run.conservation[:, :, 0] < 2 * tolerance * run.conservation[:, :, 1]).all()
    K, Q, V, O = whole(problem.theta_0)  # noqa: E741
    initial = [np.linalg.norm(K.T @ K - Q.T @ Q), np.linalg.norm(V.T @ V - O.T @ O)]
    np.testing.assert_allclose(run.conservation[:, :, 1], [initial] * 21, rtol=1e-9)


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_the_first_stage_is_that_of_the_largest_singular_value_of_all_blocks(small_problem, block):
    problem = small_problem(dim=8, weights="full", teacher="dense", block=block)
    X, Y = problem.X, problem.Y
    averages = np.repeat(X.mean(axis=1, keepdims=True), X.shape[1], axis=1)  # what all tokens attend to at the start
    G = np.einsum("nti,ntj->ij", averages, Y) / X.size  # -dL/d(W_V W_O^T)
    G = [G[start : start + block, start : start + block] for start in range(0, 8, block)]
    largest = max(np.linalg.norm(part, 2) for part in G)
    first = next(greedy.stages(problem.head(), block, max_time=1000))
    assert first.time == pytest.approx(1 / largest)
    alphas, delays = ("1e-30", "1e-300"), []
    for alpha in alphas:
        size = -log_alpha(alpha)
        end = size * (first.time + first.gap_to_next / 2)
        run = full_run(problem, -size, np.array([0.0, end]), 1e-3, weight=np.sqrt(first.product.max() / 2))
        (event,) = run.events
        assert event.coordinate == first.coordinate
        delays.append(event.time - first.time * size)
    assert delays[1] == pytest.approx(delays[0], rel=0.02, abs=0.05)


@pytest.mark.parametrize(("dim", "samples", "seeds"), [(4, 30, range(6)), (8, 12, (9, 27, 36))])
def test_stages_of_blocks_of_one_are_those_of_algorithm_1(small_problem, dim, samples, seeds):
    leaving = 0
    for seed in seeds:
        blocks, diagonal = (
            small_problem(seed, dim=dim, samples=samples, **form) for form in ({"weights": "full", "block": 1}, {})
        )
        found = list(greedy.stages(blocks.head(), 1, max_time=2000))
        expected = list(algorithm1.stages(diagonal.head(), 2 * dim, max_time=2000))
        assert [stage.coordinate for stage in found] == [stage.coordinate for stage in expected]
        assert [stage.deactivated for stage in found] == [stage.deactivated for stage in expected]
        np.testing.assert_allclose([stage.time for stage in found], [stage.time for stage in expected], rtol=1e-4)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.products.ravel(), other.product, atol=1e-5)  # with its sign
        leaving += sum(len(stage.deactivated) for stage in expected)
    assert leaving == {4: 0, 8: 4}[dim]


@pytest.mark.parametrize(("dim", "block", "seed"), [(4, 4, 2), (4, 4, 4), (2, 2, 6), (4, 2, 1), (4, 2, 4)])
def test_the_flow_tends_to_the_limit_where_last_exponents_turn_their_sign(small_problem, dim, block, seed):
    problem = small_problem(seed, samples=40, tokens=3, dim=dim, weights="full", block=block)
    found, ln_alpha = list(greedy.stages(problem.head(), block, max_time=300)), log_alpha("1e-300")
    run = full_run(problem, ln_alpha, np.array([0.0, -300 * ln_alpha]), 1e-2, weight=0.03)
    rising = [event for event in run.events if event.direction == 1]
    assert [event.coordinate for event in rising] == [stage.coordinate for stage in found]
    np.testing.assert_allclose([event.time / -ln_alpha for event in rising], [stage.time for stage in found], atol=1)
    np.testing.assert_allclose(run.values[-1].ravel(), found[-1].product, atol=2e-3)
