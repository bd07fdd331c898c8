from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase import toy
from rank_increase.algorithm1 import stages
from rank_increase.flow import diagonal_run
from rank_increase.kernels import NEGLIGIBLE, compile_head, softmax_rows
from rank_increase.notation import log_alpha
from rank_increase.toy import DiagonalHead, FullHead, Problem, attention, balance, descent_run, recorded_events
from reference import torch_loss_and_velocity

# The compiled loops take five tokens at a time.
TOKENS = [1, 2, 4, 5, 6, 7, 10, 11]


def central_differences(function, at, change=1e-6):
    slopes = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += change
        down[index] -= change
        slopes[index] = (function(up) - function(down)) / (2 * change)
    return slopes


@pytest.mark.parametrize("tokens", TOKENS)
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


def test_at_zero_only_the_value_products_feel_the_loss(small_problem):
    g = small_problem().head().loss_and_g(np.zeros(12))[1]
    assert not g[:6].any()
    assert g[6:].all()


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_attention_agrees_with_loops(form):
    rng = np.random.default_rng(3)
    samples, tokens, dim = 2, 3, 4
    X = rng.standard_normal((samples, tokens, dim))
    theta = rng.standard_normal((4, dim) if form == "diagonal" else (4, dim, dim))
    W_K, W_Q, W_V, W_O = [np.diag(weight) for weight in theta] if form == "diagonal" else theta
    expected = np.zeros(X.shape)
    for sample in range(samples):
        keys = [[sum(x[k] * W_K[k, r] for k in range(dim)) for r in range(dim)] for x in X[sample]]
        queries = [[sum(x[k] * W_Q[k, r] for k in range(dim)) for r in range(dim)] for x in X[sample]]
        values = [[sum(x[k] * W_V[k, r] for k in range(dim)) for r in range(dim)] for x in X[sample]]
        for i in range(tokens):
            # Paper, eq. (1): X W_K W_Q^T X^T, so that the tokens that attend are multiplied by W_K.
            weights = [exp(sum(keys[i][r] * queries[j][r] for r in range(dim))) for j in range(tokens)]
            for j in range(tokens):
                for k in range(dim):
                    share = weights[j] / sum(weights)
                    expected[sample, i, k] += share * sum(values[j][r] * W_O[k, r] for r in range(dim))
    np.testing.assert_allclose(attention(X, theta), expected, rtol=1e-12)


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
            lambda X, Y, q, b, dq, db: note("loops", q, b) or diagonal(X, Y, q, b, dq, db),
            lambda X, Y, A, B: note("loops", A, B) or full(X, Y, A, B),
        )

    loss_and_g, velocity, values = DiagonalHead.loss_and_g, FullHead.velocity, FullHead.values
    monkeypatch.setattr(toy, "compile_head", spied_on)
    monkeypatch.setattr(DiagonalHead, "loss_and_g", lambda self, p: note("head", p) or loss_and_g(self, p))
    monkeypatch.setattr(FullHead, "velocity", lambda self, theta: note("head", values(theta)) or velocity(self, theta))
    return met


def flow_of(problem):
    unit = -log_alpha("1e-300")
    run = diagonal_run(problem, -unit, np.linspace(0, 200, 21) * unit, 1e-10, 1e-6, weight=0.1)
    assert len(run.events) >= 4


def descent_of(problem):
    descent_run(problem, log_alpha("1e-156"), [0.0, 5.0], step=0.5, weight=0.1)


def stages_of(problem):
    assert len(list(stages(problem.head(), 12, max_time=100, epsilon=1e-157))) >= 2


@pytest.mark.parametrize(
    ("task", "weights"),
    [(flow_of, "diagonal"), (stages_of, "diagonal"), (descent_of, "diagonal"), (descent_of, "full")],
)
def test_no_subnormal_number_reaches_the_compiled_loops(small_problem, met, task, weights):
    task(small_problem(weights=weights))
    assert is_subnormal(np.array(met["head"])).any()
    assert min(met["loops"]) > (NEGLIGIBLE if weights == "diagonal" else 1e-8 * NEGLIGIBLE)  # times an entry of X


def test_what_is_flushed_changes_no_result(small_problem, monkeypatch):
    problem, unit = small_problem(), -log_alpha("1e-300")
    times = np.linspace(0, 200, 21) * unit
    flushed = diagonal_run(problem, -unit, times, 1e-10, 1e-6, weight=0.1)
    monkeypatch.setattr(toy, "flush", lambda p: p)
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
        run = descent_run(problem, ln_alpha, [0.0, 1.0], step=0.5, weight=0.1)
    W_K, W_Q, W_V, W_O = 1e-100 * problem.theta_0
    np.testing.assert_allclose(run.values[0], [W_K * W_Q, W_V * W_O], rtol=1e-9)
    assert 0 < abs(run.values[0]).max() < NEGLIGIBLE


def test_softmax_has_no_entry_that_is_negligible_but_not_zero():
    gaps = np.array([0.0, -1.0, -300.0, -345.0, -346.0, -709.0, -720.0, -745.0, -800.0, -1e15])
    rows = np.array([gaps, gaps[::-1] + 3, np.full(10, 7.0), np.r_[np.nan, gaps[1:]]])
    S = np.pad(rows, ((0, 6), (0, 0)))
    softmax_rows(S, 10, 1)
    expected = np.where(gaps > -345.5, np.exp(gaps), 0) / (1 + np.exp(-1))
    np.testing.assert_allclose(S[0], expected, rtol=1e-14)
    np.testing.assert_allclose(S[1], expected[::-1], rtol=1e-14)
    np.testing.assert_allclose(S[2], 0.1, rtol=1e-14)
    assert np.isnan(S[3]).any()


@pytest.mark.parametrize(
    ("weights", "teacher"), [("diagonal", "diagonal"), ("full", "diagonal"), ("full", "dense"), ("diagonal", "dense")]
)
def test_the_same_seed_gives_the_same_problem_and_another_seed_another(small_problem, weights, teacher):
    first, second, other = (small_problem(seed, weights=weights, teacher=teacher) for seed in (1, 1, 2))
    for name in ("X", "Y", "theta_0", "teacher"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert (getattr(first, name) != getattr(other, name)).all()


def test_data_teacher_and_student_have_streams_of_their_own(small_problem):
    diagonal, full, dense = small_problem(), small_problem(weights="full"), small_problem(teacher="dense")
    np.testing.assert_array_equal(diagonal.X, full.X)
    np.testing.assert_array_equal(diagonal.teacher, full.teacher)
    np.testing.assert_array_equal(diagonal.Y, full.Y)
    np.testing.assert_array_equal(diagonal.X, dense.X)
    np.testing.assert_array_equal(diagonal.theta_0, dense.theta_0)
    more = small_problem(samples=40)
    np.testing.assert_array_equal(diagonal.X, more.X[:20])
    np.testing.assert_array_equal(diagonal.theta_0, more.theta_0)
    everything = np.concatenate([diagonal.X.ravel(), diagonal.teacher.ravel(), diagonal.theta_0.ravel()])
    assert len(np.unique(everything)) == everything.size


@pytest.mark.parametrize("teacher", ["diagonal", "dense"])
def test_the_teacher_attains_zero_loss(small_problem, teacher):
    problem = small_problem(weights="diagonal" if teacher == "diagonal" else "full", teacher=teacher)
    assert problem.teacher.shape == problem.theta_0.shape
    loss, velocity = problem.head().velocity(problem.teacher)
    assert loss < 1e-28
    assert abs(velocity).max() < 1e-14


def test_a_dense_teacher_has_logits_and_outputs_as_large_as_a_diagonal_one(small_problem):
    def variances(teacher):
        problems = [small_problem(seed, samples=5, tokens=5, dim=50, teacher=teacher) for seed in range(40)]
        entries = [p.teacher if p.teacher.ndim == 3 else [np.diag(w) for w in p.teacher] for p in problems]
        logits = [p.X @ W[0] @ W[1].T @ p.X.transpose(0, 2, 1) for p, W in zip(problems, entries, strict=True)]
        values = [p.X @ W[2] @ W[3].T for p, W in zip(problems, entries, strict=True)]
        off_diagonal = ~np.eye(5, dtype=bool)
        return np.var(np.array(logits)[..., off_diagonal]), np.var(values)

    # The products have variance 0.36^2 and 0.64^2 an entry of the data: 50 x 0.36^2 for a logit between two tokens.
    expected = [50 * 0.36**2, 0.64**2]
    np.testing.assert_allclose(variances("diagonal"), expected, rtol=0.2)
    np.testing.assert_allclose(variances("dense"), expected, rtol=0.2)


@pytest.mark.parametrize(("weights", "teacher"), [("diagonal", "diagonal"), ("full", "diagonal"), ("full", "dense")])
def test_a_saved_problem_loads_unchanged(small_problem, tmp_path, weights, teacher):
    problem = small_problem(weights=weights, teacher=teacher)
    with open(tmp_path / "problem.npz", "wb") as file:
        problem.save(file)
    loaded = Problem.load(tmp_path / "problem.npz")
    for name in ("X", "Y", "theta_0", "teacher"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(problem, name))
    assert type(loaded.head()) is type(problem.head()) is (DiagonalHead if weights == "diagonal" else FullHead)
    with np.load(tmp_path / "problem.npz") as arrays:
        assert set(arrays) == {"X", "Y"} | {f"{of}W_{name}" for of in ("", "teacher_") for name in "KQVO"}


def test_loading_a_problem_unpickles_nothing(small_problem, tmp_path):
    problem = small_problem()
    path = tmp_path / "problem.npz"
    with open(path, "wb") as file:
        problem.save(file)
    with np.load(path) as arrays:
        hostile = dict(arrays) | {"Y": np.array([{"an": "object"}], dtype=object)}
    np.savez(path, **hostile)
    with pytest.raises(ValueError, match="allow_pickle"):
        Problem.load(path)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [("0.1", log(0.1)), ("1e-32", -32 * log(10)), ("1e-3000", -3000 * log(10)), ("2.5e-8", log(2.5e-8))],
)
def test_log_alpha_of_numbers_beyond_float64(alpha, expected):
    assert log_alpha(alpha) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("alpha", ["0", "-1", "abc", "", "nan", "inf", "0.0", "1e", "-1e-3000"])
def test_log_alpha_refuses_what_is_no_positive_number(alpha):
    with pytest.raises(ValueError, match=f"alpha must be a positive number, not '{alpha}'"):
        log_alpha(alpha)


def gradient_descent(problem, alpha, step, steps):
    head, theta = problem.head(), alpha * problem.theta_0
    visited = [theta]
    for _ in range(steps):
        theta = theta + step * head.velocity(theta)[1]
        visited.append(theta)
    return visited


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_gradient_descent_records_loss_and_values_after_whole_steps(small_problem, weights):
    problem = small_problem(weights=weights)
    called = []
    run = descent_run(problem, log(0.1), [0.0, 1.0, 1.1, 7.4, 20.0], step=0.5, weight=0.1, on_step=called.append)
    np.testing.assert_array_equal(run.time, [0.0, 1.0, 7.5, 20.0])
    assert called == run.time.tolist()
    visited = gradient_descent(problem, 0.1, 0.5, 40)
    for record, steps in enumerate([0, 2, 15, 40]):
        assert run.loss[record] == pytest.approx(problem.head().velocity(visited[steps])[0], rel=1e-10)
        np.testing.assert_allclose(run.values[record], problem.head().values(visited[steps]), rtol=1e-9)
    assert run.values.shape == (4, 2, 6)


@pytest.mark.parametrize("weights", ["diagonal", "full"])
def test_a_short_step_conserves_what_gradient_flow_does_and_a_longer_one_less(small_problem, weights):
    problem = small_problem(weights=weights)
    runs = [descent_run(problem, log(0.1), [0, 40], step=step, weight=0.1) for step in (0.01, 0.1)]
    drift = np.array([run.conservation[-1, :, 0] / run.conservation[-1, :, 1] for run in runs])
    assert (runs[0].conservation[0, :, 0] == 0).all()
    assert (drift[0] < 0.01).all()
    np.testing.assert_allclose(drift[1] / drift[0], 10, rtol=0.1)  # Lemma 4.1 is about the limit of short steps


def test_balance_of_diagonal_weights_is_the_difference_of_squares():
    start = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    theta = np.array([[2.0, 2.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    found = balance(theta, start)
    np.testing.assert_allclose(found, [[3, np.hypot(1, 3), 9], [0, 3, 7]])
    full = balance(*(np.stack([np.diag(weight) for weight in weights]) for weights in (theta, start)))
    np.testing.assert_allclose(full, found)


def test_sgd_with_all_samples_in_a_batch_is_gradient_descent(small_problem):
    problem = small_problem()
    options = {"step": 0.5, "weight": 0.1}
    gd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), **options)
    sgd = descent_run(problem, log(0.1), np.linspace(0, 100, 11), batch_size=20, **options)
    np.testing.assert_allclose(sgd.values, gd.values, rtol=1e-10, atol=1e-13)


def test_sgd_visits_every_sample_once_an_epoch_in_an_order_of_its_seed(small_problem):
    problem = small_problem()
    # With weights that do not move, the sum of the steps of an epoch is the gradient of all samples.
    small, steps = 1e-6, 5
    run = descent_run(problem, log(0.1), [0, steps * small], step=small, batch_size=4, weight=0.1)
    moved = (run.values[1] - run.values[0]) / (steps * small)
    theta = 0.1 * problem.theta_0
    velocity = problem.head().velocity(theta)[1]
    expected = [
        velocity[0] * theta[1] + theta[0] * velocity[1],
        velocity[2] * theta[3] + theta[2] * velocity[3],
    ]
    np.testing.assert_allclose(moved, expected, atol=1e-5 * abs(np.array(expected)).max())
    times = [0.0, 4.0]
    orders = [descent_run(problem, log(0.1), times, step=1.0, batch_size=4, weight=0.1, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0].values, orders[1].values)
    assert (orders[0].values[1] != orders[2].values[1]).all()


def test_a_loss_that_is_not_finite_says_to_take_a_shorter_step(small_problem):
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            FloatingPointError, match=r"the loss is not finite after \d+ steps of 1000.0: take a shorter step"
        ),
    ):
        descent_run(small_problem(), log(0.1), np.linspace(0, 1e6, 101), step=1000.0, weight=0.1)


def test_recorded_events_lie_on_lines_between_logarithms():
    time = np.array([0.0, 1.0, 2.0, 4.0])
    values = np.empty((4, 2, 2))
    values[:, 0, 0] = [1e-4, 1e-3, 1e-1, 1.0]  # passes 0.1^2 halfway between times 1 and 2
    values[:, 0, 1] = [0.5, 0.5, 0.5, 0.5]  # active all along
    values[:, 1, 0] = [-1.0, -1.0, -1.0, -1e-3]  # leaves 2/3 of the way from time 2 to 4
    values[:, 1, 1] = [0.0, 0.0, -1.0, -1.0]  # from exactly zero: next to the end of the interval
    events = recorded_events(time, values, 0.1)
    assert [event[1:] for event in events] == [(0, 1), (3, 1), (2, -1)]
    np.testing.assert_allclose([event[0] for event in events], [1.5, 2 - log(1e2) / log(1e300), 2 + 4 / 3], rtol=1e-12)


def test_a_run_without_activations_has_no_events():
    assert recorded_events(np.arange(3.0), np.full((3, 2, 2), 1e-8), 0.1) == []
