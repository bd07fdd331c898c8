import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from rank_increase.tables import read_table
from rank_increase.toy.frames import linear_attention_frame, linear_attention_losses
from rank_increase.toy.linear_attention import ACTIVE_WEIGHT, Flow, Merged, Separate, Task, drawn_eigenvalues, flow
from scripts.toy import run_linear_attention

TASK = Task(np.array([0.9, 0.6, 0.25]), 5)
KINDS = [Merged(3), Separate(3, 1), Separate(3, 2), Separate(3, 3)]


def drawn(heads, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in heads.shapes]


def torch_product(parts):
    """M from the definition, head by head."""
    if len(parts) == 2:
        return sum(v * U for v, U in zip(*parts, strict=True))
    return sum(v * K.T @ Q for v, K, Q in zip(*parts, strict=True))


def torch_loss(task, parts):
    """E (y_q - beta^T M x_q)^2 with the moments of a Wishart matrix, from matrices instead of eigenvalues."""
    covariance, M, N = torch.diag(torch.tensor(task.eigenvalues)), torch_product(parts), task.context
    second = covariance @ covariance * (N + 1) / N + torch.trace(covariance) * covariance / N
    explained = torch.trace(M @ covariance @ covariance)
    return torch.trace(covariance) - 2 * explained + torch.trace(M.T @ second @ M @ covariance)


def torch_velocity(task, parts):
    parts = [torch.tensor(part, requires_grad=True) for part in parts]
    loss = torch_loss(task, parts)
    loss.backward()
    return loss.item(), [-part.grad.numpy() / 2 for part in parts]


def attention_error(rng, task, weights, sequences):
    """Squared errors of multi-head linear attention on drawn sequences, with all its weight matrices."""
    dim, N = len(task.eigenvalues), task.context
    x = rng.standard_normal((sequences, dim, N + 1)) * np.sqrt(task.eigenvalues)[:, None]
    w = rng.standard_normal((sequences, 1, dim))
    X = np.concatenate([x, w @ x], axis=1)
    X[:, -1, -1] = 0
    out = X.copy()
    for v, K, Q in zip(*weights, strict=True):
        W_V, W_K, W_Q = np.zeros((dim + 1, dim + 1)), *np.zeros((2, len(K), dim + 1))
        W_V[-1, -1], W_K[:, :dim], W_Q[:, :dim] = v, K, Q
        out += W_V @ X @ X.transpose(0, 2, 1) @ W_K.T @ W_Q @ X / N
    return (out[:, -1, -1] - (w @ x)[:, 0, -1]) ** 2


def test_loss_is_that_of_linear_attention_on_sequences():
    weights = [2.0 * part for part in drawn(Separate(3, 2))]
    errors = attention_error(np.random.default_rng(1), TASK, weights, 100_000)
    expected = TASK.loss(Separate.product(*weights))
    assert errors.mean() == pytest.approx(expected, abs=5 * errors.std() / np.sqrt(len(errors)))
    assert abs(expected - TASK.eigenvalues.sum()) > 0.5  # far from that of no prediction


@pytest.mark.parametrize("heads", KINDS, ids=lambda heads: f"{heads.key_query}-{heads.rank}")
def test_loss_and_velocity_are_those_of_autograd(heads):
    parts = drawn(heads)
    M = heads.product(*parts)
    loss, expected = torch_velocity(TASK, parts)
    assert TASK.loss(M) == pytest.approx(loss, rel=1e-12)
    for one, other in zip(heads.velocity(TASK.descent(M), *parts), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_levels_are_the_closed_form_and_the_least_losses_of_each_rank():
    lam, N = TASK.eigenvalues, 5
    for k in range(4):
        closed = sum(lam) - sum(lam[d] / (1 + (1 + sum(lam) / lam[d]) / N) for d in range(k))
        M = np.diag(np.where(np.arange(3) < k, TASK.solution, 0))
        assert TASK.levels[k] == pytest.approx(closed, rel=1e-13) == pytest.approx(TASK.loss(M), rel=1e-13)
        np.testing.assert_allclose(TASK.descent(M)[:k], 0, atol=1e-15)


@pytest.mark.parametrize("heads", KINDS, ids=lambda heads: f"{heads.key_query}-{heads.rank}")
def test_flow_is_the_one_of_autograd_in_the_weights(heads):
    theta_0, alpha = drawn(heads, 3), 0.1
    run = flow(TASK, heads, theta_0, alpha)
    ends = np.cumsum([part.size for part in theta_0])[:-1]

    def parts(theta):
        return [part.reshape(one.shape) for part, one in zip(np.split(theta, ends), theta_0, strict=True)]

    def velocity(_, theta):
        return np.concatenate([part.ravel() for part in torch_velocity(TASK, parts(theta))[1]])

    times = run.time[run.time < 60][::5]
    start = alpha * np.concatenate([part.ravel() for part in theta_0])
    expected = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-9, atol=1e-11).y.T
    records = np.searchsorted(run.time, times)
    np.testing.assert_allclose(run.loss[records], [torch_velocity(TASK, parts(y))[0] for y in expected], atol=1e-5)
    np.testing.assert_allclose(run.values[records], [abs(parts(y)[0]) for y in expected], atol=1e-5)
    root = np.diag(np.sqrt(TASK.eigenvalues))
    for record, y in zip(records, expected, strict=True):
        M = torch_product([torch.tensor(part) for part in parts(y)]).numpy()
        singular = np.linalg.svd(root @ M @ root, compute_uv=False)
        np.testing.assert_allclose(run.learned[record], singular, atol=1e-5)
    assert run.loss[records[-1]] < 0.8 * run.loss[0]


@settings(max_examples=20)
@given(
    st.lists(st.floats(0.5, 5), min_size=3, max_size=3),
    st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3),
)
def test_aligned_heads_of_rank_one_diverge_one_after_the_other_in_closed_form(waits, signs):
    # A head along an eigenvector with |v| = |K| = |Q| has dv/dt = lambda^2 v^2 and diverges at 1 / (lambda^2 |v|).
    times, signs = np.cumsum(waits), np.array(signs)
    sizes = 1 / (TASK.eigenvalues**2 * times)
    K = np.diag(sizes)[:, None]
    s, c = Separate.jumps(TASK, signs * sizes, K, signs[:, None, None] * K)
    np.testing.assert_allclose(s, times, rtol=1e-4)
    np.testing.assert_array_equal(c, 0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_head_diverges_when_a_quadrature_says(rank, sign):
    # With dtau = v dt, K + Q and K - Q grow and decay exponentially on each eigenvector, and v^2 follows from d(v^2) =
    # 2 tr(K A Q^T) dtau. A start with a large v keeps it from zero.
    rng, rates = np.random.default_rng(rank), TASK.eigenvalues**2
    K, Q = rng.standard_normal((2, 1, rank, 3))
    v = np.array([sign * (1 + np.sum((K - sign * Q) ** 2))])
    up, down = (np.sum((K + way * sign * Q) ** 2, axis=(0, 1)) / 4 for way in (1, -1))

    def speed(tau):
        grown, left = np.expm1(2 * rates * tau), np.expm1(-2 * rates * tau)
        return np.sqrt(v[0] ** 2 + up @ grown + down @ left)

    expected, _ = quad(lambda tau: 1 / speed(tau), 0, 60, limit=200)
    others = [np.full((1,), 1e-3), np.full((1, rank, 3), 1e-3), np.full((1, rank, 3), 1e-3)]  # heads that come later
    weights = [np.concatenate([other, one, other]) for one, other in zip((v, K, Q), others, strict=True)]
    s, _ = Separate.jumps(TASK, *weights)
    np.testing.assert_allclose(s[:rank], expected, rtol=1e-4)


def test_times_within_a_head_are_those_by_hand():
    lam = TASK.eigenvalues
    m = lam / ((1 + 1 / 5) * lam**2 + lam.sum() * lam / 5)
    first = (1 / lam[1] ** 2 - 1 / lam[0] ** 2) / m[0] ** (1 / 3)
    second = (1 / lam[2] ** 2 - 1 / lam[1] ** 2) / (m[0] + m[1]) ** (1 / 3)
    np.testing.assert_allclose(Separate.jumps(TASK, *drawn(Separate(3, 3)))[1], [0, first, first + second], rtol=1e-12)
    np.testing.assert_allclose(Separate.jumps(TASK, *drawn(Separate(3, 2)))[1], [0, first, 0], rtol=1e-12)
    np.testing.assert_allclose(Merged.jumps(TASK, *drawn(Merged(3)))[1], 3 * [1 / np.sqrt(np.sum(lam**4))], rtol=1e-12)


@pytest.mark.parametrize("heads", KINDS[1:], ids=lambda heads: f"rank-{heads.rank}")
def test_stages_are_found_at_the_levels_and_times_that_are_known(heads):
    errors = []
    for alpha in (1e-3, 1e-5):
        run = flow(TASK, heads, drawn(heads, 7), alpha)
        times, losses = run.found()
        errors.append(abs(times / run.predicted - 1).max())
    np.testing.assert_allclose(losses, TASK.levels, atol=1e-3)
    np.testing.assert_array_equal(run.active()[0], range(4))
    np.testing.assert_array_equal(run.active()[1], [-(-k // heads.rank) for k in range(4)])
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 10


def test_a_merged_head_falls_once():
    heads, spread, first = Merged(3), [], []
    for alpha in (1e-5, 1e-9):
        run = flow(TASK, heads, drawn(heads, 7), alpha)
        times, losses = run.found()
        first.append(times[0])
        spread.append(np.ptp(times))
    assert losses[[0, -1]] == pytest.approx(TASK.levels[[0, -1]], abs=1e-6)
    assert np.diff(first) == pytest.approx(np.log(1e4) / np.linalg.norm(TASK.eigenvalues**2), rel=1e-3)
    assert abs(np.diff(spread)) < 0.01 * np.diff(first)


def planted():
    """A run in which directions are learned at times 4 and 12 of 20, and a third one never."""
    time = np.arange(21.0)
    learned = np.where(time[:, None] >= [4, 12, 99], 0.05, 1e-9)
    values = np.where(time[:, None] >= [4, 99], 0.2, 0.05)
    return Flow(time, 3.0 - (time >= 4) - (time >= 12), learned, values, np.array([5.0, 14.0, 18.0]))


def test_found_and_active_read_a_run_at_its_own_and_at_the_predicted_plateaus():
    run = planted()
    times, losses = run.found()
    # Logarithms are interpolated between records.
    share = np.log(ACTIVE_WEIGHT**2 / 1e-9) / np.log(0.05 / 1e-9)
    np.testing.assert_allclose(times, [3 + share, 11 + share, np.nan])
    np.testing.assert_array_equal(losses, [3, 2, np.nan, np.nan])
    np.testing.assert_array_equal(run.active(), [[0, 1, 2, 2], [0, 1, 1, 1]])


def test_rows_have_a_plateau_for_each_stage_and_a_thinned_curve():
    rows = linear_attention_frame(TASK, planted())
    assert rows["stage"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(rows["level"], TASK.levels)
    np.testing.assert_array_equal(rows["predicted_time"], [np.nan, 5, 14, 18])
    run = flow(TASK, KINDS[1], drawn(KINDS[1]), 1e-3)
    rows = linear_attention_losses(run, 30)
    assert len(rows) <= 30 and set(rows["time"]) <= set(run.time)
    assert (rows["time"].iloc[0], rows["time"].iloc[-1]) == (run.time[0], run.time[-1])
    assert abs(np.diff(rows["loss"])).max() < 0.3 * np.ptp(run.loss)


def test_eigenvalues_are_descending_with_sum_1():
    eigenvalues = drawn_eigenvalues(np.random.default_rng(0), 6)
    assert eigenvalues.sum() == pytest.approx(1) and (np.diff(eigenvalues) < 0).all() and eigenvalues[-1] > 0


def test_a_job_takes_given_eigenvalues_in_any_order(tmp_path):
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("linear_attention", "linear_attention_losses")}
    options = {"dim": 2, "context": 5, "ranks": [1], "alphas": ["0.01"], "points": 9, "provenance": {}}
    run_linear_attention.main(outputs, seed=1, eigenvalues=[0.4, 0.8], **options)
    rows = read_table(outputs["linear_attention"])
    for _, run in rows.groupby("key_query", observed=True):
        np.testing.assert_allclose(run["level"], Task(np.array([0.8, 0.4]), 5).levels)
    assert set(rows["key_query"]) == {"merged", "separate"}
    assert read_table(outputs["linear_attention_losses"]).groupby("key_query", observed=True).size().max() <= 9
