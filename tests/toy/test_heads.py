import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase.notation import log_alpha
from rank_increase.toy import heads
from rank_increase.toy.algorithm1 import stages
from rank_increase.toy.descent import descent_run
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.heads import DiagonalHead, FullHead
from rank_increase.toy.kernels import NEGLIGIBLE, compile_head
from rank_increase.toy.problem import attention
from reference import torch_loss_and_velocity


def central_differences(function, at, change=1e-6):
    slopes = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += change
        down[index] -= change
        slopes[index] = (function(up) - function(down)) / (2 * change)
    return slopes


@pytest.mark.parametrize("tokens", [1, 2, 5, 10, 11])
@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_loss_and_gradient_agree_with_autograd(small_problem, weights, tokens):
    problem = small_problem(tokens=tokens, weights=weights)
    loss, velocity = problem.head().velocity(0.5 * problem.theta_0)
    expected_loss, expected_velocity = torch_loss_and_velocity(problem, 0.5 * problem.theta_0)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(velocity, expected_velocity, rtol=1e-9, atol=1e-13 * abs(expected_velocity).max())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 12),
    shape=st.sampled_from([(1, 6), (4, 6), (6, 1), (7, 6), (11, 6), (5, 13)]),
    weights=st.sampled_from(["diagonal", "full"]),
    scale=st.sampled_from([1e-3, 0.3, 1.0, 3.0]),
)
def test_loss_and_gradient_agree_with_autograd_for_any_shape(small_problem, seed, samples, shape, weights, scale):
    tokens, dim = shape
    problem = small_problem(seed, samples, tokens, dim, weights)
    loss, velocity = problem.head().velocity(scale * problem.theta_0)
    expected_loss, expected_velocity = torch_loss_and_velocity(problem, scale * problem.theta_0)
    assert loss == pytest.approx(expected_loss, rel=1e-11, abs=1e-300)
    np.testing.assert_allclose(velocity, expected_velocity, rtol=1e-7, atol=1e-12 * abs(expected_velocity).max())


@pytest.mark.parametrize("tokens", [4, 11])
@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_velocity_is_minus_the_slope_of_the_loss(small_problem, weights, tokens):
    problem = small_problem(samples=5, tokens=tokens, weights=weights)
    head, theta = problem.head(), 0.5 * problem.theta_0
    slopes = central_differences(lambda theta: head.velocity(theta)[0], theta)
    np.testing.assert_allclose(head.velocity(theta)[1], -slopes, atol=1e-7 * abs(slopes).max())


def test_g_is_minus_the_slope_of_the_loss_in_the_products(small_problem):
    head = small_problem(tokens=7).head()
    p = np.random.default_rng(0).standard_normal(12)
    slopes = central_differences(lambda p: head.loss_and_g(p)[0], p)
    np.testing.assert_allclose(head.loss_and_g(p)[1], -slopes, atol=1e-7 * abs(slopes).max())


def test_full_gradients_are_minus_the_slopes_of_the_loss_in_the_products(small_problem):
    head = small_problem(tokens=7, weights="full").head()
    products = np.random.default_rng(0).standard_normal((2, 6, 6))
    slopes = central_differences(lambda products: head.loss_and_gradients(products)[0], products)
    np.testing.assert_allclose(head.loss_and_gradients(products)[1], -slopes, atol=1e-7 * abs(slopes).max())


@pytest.mark.parametrize("inner", [1, 4])
def test_weights_may_have_fewer_columns_than_rows(small_problem, inner):
    problem = small_problem(weights="full")
    head, theta = problem.head(), problem.theta_0[:, :, :inner]
    loss, velocity = head.velocity(theta)
    expected_loss, expected_velocity = torch_loss_and_velocity(problem, theta)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(velocity, expected_velocity, atol=1e-12 * abs(expected_velocity).max())
    values = head.values(theta)
    assert values.shape == (2, 6)
    assert (values[:, :inner] > 0.01).all()
    assert (values[:, inner:] < 1e-12).all()


def test_at_zero_only_the_value_products_feel_the_loss(small_problem):
    g = small_problem().head().loss_and_g(np.zeros(12))[1]
    assert not g[:6].any()
    assert g[6:].all()


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_logits_in_the_thousands_do_not_overflow(small_problem, weights):
    problem = small_problem(weights=weights)
    theta = problem.theta_0.copy()
    theta[:2] *= 100
    W_K, W_Q = theta[:2] if weights == "full" else [np.diag(weight) for weight in theta[:2]]
    assert abs(problem.X @ W_K @ W_Q.T @ problem.X.transpose(0, 2, 1)).max() > 5000
    loss, velocity = problem.head().velocity(theta)
    expected_loss, expected_velocity = torch_loss_and_velocity(problem, theta)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    np.testing.assert_allclose(velocity, expected_velocity, atol=1e-9 * abs(expected_velocity).max())
    assert np.isfinite(attention(problem.X, theta)).all()


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_the_loss_is_the_mean_over_subsets_of_the_samples(small_problem, weights):
    problem = small_problem(weights=weights)
    head = problem.head()
    parts = [head.subset(slice(0, 5)), head.subset(np.array([7, 5, 6, 9, 8])), head.subset(np.arange(10, 20))]
    found = [part.velocity(problem.theta_0) for part in parts]
    loss, velocity = head.velocity(problem.theta_0)
    shares = [0.25, 0.25, 0.5]
    assert loss == pytest.approx(sum(share * part[0] for share, part in zip(shares, found, strict=True)), rel=1e-12)
    mean = sum(share * part[1] for share, part in zip(shares, found, strict=True))
    np.testing.assert_allclose(velocity, mean, atol=1e-14)


def test_full_matrices_that_are_diagonal_give_the_diagonal_model(small_problem):
    problem = small_problem(tokens=6)
    matrices = np.stack([np.diag(weight) for weight in problem.theta_0])
    full, diagonal = FullHead(problem.X, problem.Y), DiagonalHead(problem.X, problem.Y)
    loss, velocity = full.velocity(matrices)
    expected_loss, expected_velocity = diagonal.velocity(problem.theta_0)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(np.diagonal(velocity, axis1=1, axis2=2), expected_velocity, atol=1e-14)
    descending = np.sort(abs(diagonal.values(problem.theta_0)))[:, ::-1]
    np.testing.assert_allclose(full.values(matrices), descending, rtol=1e-12)


def test_a_call_leaves_the_weights_and_earlier_results_alone(small_problem):
    problem = small_problem(weights="full")
    head, theta = problem.head(), problem.theta_0.copy()
    loss, velocity = head.velocity(theta)
    kept = velocity.copy()
    head.velocity(2 * theta)
    np.testing.assert_array_equal(velocity, kept)
    np.testing.assert_array_equal(theta, problem.theta_0)
    np.testing.assert_array_equal(head.velocity(theta)[1], velocity)


def is_subnormal(x):
    return (x != 0) & (abs(x) < np.finfo(float).tiny)


@pytest.fixture
def met(monkeypatch):
    """Smallest sizes, other than zero, of what the heads are asked for and of what their compiled loops are given."""
    met = {"head": [], "loops": []}

    def note(where, *arrays):
        met[where] += [abs(array[array != 0]).min(initial=np.inf) for array in arrays]

    def spied_on(*shape):
        diagonal, full = compile_head(*shape)
        return (
            lambda X, Y, q, b, *rest: note("loops", q, b) or diagonal(X, Y, q, b, *rest),
            lambda X, Y, Q, B, *rest: note("loops", Q, B) or full(X, Y, Q, B, *rest),
        )

    loss_and_g, velocity, values = DiagonalHead.loss_and_g, FullHead.velocity, FullHead.values
    monkeypatch.setattr(heads, "compile_head", spied_on)
    monkeypatch.setattr(DiagonalHead, "loss_and_g", lambda self, p: note("head", p) or loss_and_g(self, p))
    monkeypatch.setattr(FullHead, "velocity", lambda self, theta: note("head", values(theta)) or velocity(self, theta))
    return met


def flow_of(problem):
    unit = -log_alpha("1e-300")
    run = diagonal_run(problem, -unit, np.linspace(0, 200, 21) * unit, 1e-10, 1e-6, weight=0.1)
    assert len(run.events) >= 4


def descent_of(problem):
    descent_run(problem, log_alpha("1e-156"), [0.0, 5.0], method="gd", step=0.5, weight=0.1)


def stages_of(problem):
    assert len(list(stages(problem.head(), 12, max_time=100, epsilon=1e-157))) >= 2


@pytest.mark.parametrize(
    ("task", "weights"),
    [(flow_of, "diagonal"), (stages_of, "diagonal"), (descent_of, "diagonal"), (descent_of, "full")],
)
def test_no_subnormal_number_reaches_the_compiled_loops(small_problem, met, task, weights):
    task(small_problem(weights=weights))
    assert is_subnormal(np.array(met["head"])).any()
    assert min(met["loops"]) > NEGLIGIBLE


def test_what_is_flushed_changes_no_result(small_problem, monkeypatch):
    problem, unit = small_problem(), -log_alpha("1e-300")
    times = np.linspace(0, 200, 21) * unit
    flushed = diagonal_run(problem, -unit, times, 1e-10, 1e-6, weight=0.1)
    monkeypatch.setattr(heads, "flush", lambda p: p)
    exact = diagonal_run(problem, -unit, times, 1e-10, 1e-6, weight=0.1)
    assert [event[1:] for event in flushed.events] == [event[1:] for event in exact.events]
    np.testing.assert_allclose([event[0] for event in flushed.events], [event[0] for event in exact.events], rtol=1e-12)
    np.testing.assert_allclose(flushed.values, exact.values, rtol=1e-9)
    np.testing.assert_allclose(flushed.loss, exact.loss, rtol=1e-12)


@pytest.mark.parametrize("run", ["flow", "descent"])
def test_products_too_small_to_matter_are_recorded_as_they_are(small_problem, run):
    problem, ln_alpha = small_problem(), log_alpha("1e-100")
    if run == "flow":
        run = diagonal_run(problem, ln_alpha, np.array([0.0, 1.0]), 1e-10, 1e-6, weight=0.1)
    else:
        run = descent_run(problem, ln_alpha, [0.0, 1.0], method="gd", step=0.5, weight=0.1)
    W_K, W_Q, W_V, W_O = 1e-100 * problem.theta_0
    np.testing.assert_allclose(run.values[0], [W_K * W_Q, W_V * W_O], rtol=1e-9)
    assert 0 < abs(run.values[0]).max() < NEGLIGIBLE
