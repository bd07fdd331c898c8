"""What the rule of linear attention writes and its figure draws, against a plain second integration and the formula."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp

from test_wiring_figures import curves, panels
from wired import LINEAR_ATTENTION_TABLES

DIM, CONTEXT, RANKS, ALPHAS, SEEDS, POINTS = 3, 20, (1, 2, 3), ("1e-2", "1e-3"), (4, 9), 41
KINDS = [("merged", DIM), *(("separate", rank) for rank in RANKS)]
ACTIVE = 0.1


def levels(lam):
    """The closed form, term by term."""
    found = [sum(lam)]
    for one in lam:
        found.append(found[-1] - one / (1 + (1 + sum(lam) / one) / CONTEXT))
    return np.array(found)


@cache
def drawn(seed):
    """Eigenvalues and initial weights of a problem: a dict kind -> list of heads, each (v, U) or (v, K, Q)."""
    spectrum, *streams = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5))
    samples = spectrum.standard_normal((2 * DIM, DIM))
    lam = np.sort(np.linalg.svd(samples, compute_uv=False) ** 2)[::-1]
    weights = {}
    for (name, rank), rng in zip(KINDS, streams, strict=True):
        heads = 1 if name == "merged" else int(np.ceil(DIM / rank))
        shapes = [(), (DIM, DIM)] if name == "merged" else [(), (rank, DIM), (rank, DIM)]
        weights[name, rank] = list(zip(*(rng.standard_normal((heads, *shape)) for shape in shapes), strict=True))
    return lam / sum(lam), weights


def product(head):
    return head[0] * (head[1] if len(head) == 2 else head[1].T @ head[2])


def loss(lam, M):
    """E (w x - beta M x)^2, entry by entry."""
    second = [(1 + 1 / CONTEXT) * one**2 + sum(lam) * one / CONTEXT for one in lam]
    cost = sum(second[d] * M[d, e] ** 2 * lam[e] for d in range(DIM) for e in range(DIM))
    return sum(lam) - 2 * sum(M[d, d] * lam[d] ** 2 for d in range(DIM)) + cost


@cache
def integrated(seed, kind, alpha, end):
    """The flow by an implicit method in the weights: a function of time that gives loss, singular values and |v|."""
    lam, weights = drawn(seed)
    shapes = [[np.shape(part) for part in head] for head in weights[kind]]

    def heads_of(theta):
        heads, place = [], 0
        for head in shapes:
            parts = []
            for shape in head:
                size = int(np.prod(shape))
                parts.append(theta[place : place + size].reshape(shape))
                place += size
            heads.append(parts)
        return heads

    def velocity(_, theta):
        heads, parts = heads_of(theta), []
        M = sum(map(product, heads))
        second = np.diag((1 + 1 / CONTEXT) * lam**2 + sum(lam) * lam / CONTEXT)
        A = np.diag(lam) @ np.diag(lam) - second @ M @ np.diag(lam)
        for v, *others in heads:
            if len(others) == 1:
                parts += [np.sum(others[0] * A), v * A]
            else:
                K, Q = others
                parts += [np.trace(K @ A @ Q.T), v * Q @ A.T, v * K @ A]
        return np.concatenate([np.ravel(part) for part in parts])

    start = float(alpha) * np.concatenate([np.ravel(part) for head in weights[kind] for part in head])
    solution = solve_ivp(velocity, (0, end), start, "Radau", dense_output=True, rtol=1e-8, atol=1e-9 * float(alpha))

    def at(time):
        heads = heads_of(solution.sol(time))
        M = sum(map(product, heads))
        learned = np.linalg.svd(np.diag(lam**0.5) @ M @ np.diag(lam**0.5), compute_uv=False)
        return loss(lam, M), learned, np.array([abs(float(head[0])) for head in heads])

    return at


def rows_of(wired, table, kind, alpha, seed):
    rows = wired.table(f"tables/{table}")
    rows = rows[(rows["key_query"] == kind[0]) & (rows["rank"] == kind[1])]
    rows = rows[(rows["alpha"] == alpha) & (rows["seed"] == seed)]
    return rows.sort_values("stage" if table == "linear_attention" else "time")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def test_tables_are_those_of_a_second_integration(wired, kind, seed):
    lam, _ = drawn(seed)
    for alpha in ALPHAS:
        stages, losses = (rows_of(wired, table, kind, alpha, seed) for table in LINEAR_ATTENTION_TABLES)
        np.testing.assert_allclose(stages["level"], levels(lam), rtol=1e-10)
        end = losses["time"].max()
        at = integrated(seed, kind, alpha, end)
        # A fall takes a time of order 1, anywhere up to `end`: a small error in time is a large one in the loss.
        shift = 1e-6 * end
        for time, value in losses[["time", "loss"]].to_numpy():
            early, late = (at(min(max(time + way * shift, 0), end))[0] for way in (-1, 1))
            assert late - 1e-3 <= value <= early + 1e-3
        assert len(losses) <= POINTS and losses["time"].min() == 0
        for k, time in enumerate(stages["measured_time"].iloc[1:]):
            assert at(time - 2e-3 * time)[1][k] < ACTIVE**2 < at(time + 2e-3 * time)[1][k]
        times = np.append(stages["measured_time"].fillna(0), end)
        found = [at((a + b) / 2)[0] for a, b in zip(times, times[1:], strict=False)]
        np.testing.assert_allclose(stages["loss"], found, atol=2e-3)


def test_stages_are_counted_at_the_middle_of_the_predicted_ones(wired):
    for seed in SEEDS:
        for kind, alpha in (("separate", 1), "1e-3"), (("separate", 2), "1e-3"):
            stages = rows_of(wired, "linear_attention", kind, alpha, seed)
            end = rows_of(wired, "linear_attention_losses", kind, alpha, seed)["time"].max()
            times = np.append(stages["predicted_time"].fillna(0), end)
            for row, a, b in zip(stages.to_dict("records"), times, times[1:], strict=False):
                _, learned, values = integrated(seed, kind, alpha, end)((a + b) / 2)
                assert row["directions"] == sum(learned > ACTIVE**2)
                assert row["heads"] == sum(values > ACTIVE)


def test_tables_hold_every_parametrisation_scale_and_problem(wired):
    for table in LINEAR_ATTENTION_TABLES:
        rows = wired.table(f"tables/{table}")
        parts = [wired.table(f"linear_attention/seed_{seed}/{table}").assign(seed=seed) for seed in SEEDS]
        columns = list(rows.columns)
        expected = pd.concat(parts)[columns].sort_values(columns, ignore_index=True)
        pd.testing.assert_frame_equal(
            rows.sort_values(columns, ignore_index=True), expected, check_dtype=False, check_exact=True
        )
        found = set(rows[["key_query", "rank", "alpha", "seed"]].itertuples(index=False, name=None))
        assert found == {(*kind, alpha, seed) for kind in KINDS for alpha in ALPHAS for seed in SEEDS}


def test_figure_shows_losses_of_its_problem_over_the_levels_of_the_formula(wired):
    *axes, times = panels(wired.figure("fig_linear_attention"))
    titles = ["merged key and query", "heads of rank 1", "heads of rank 2", "one head of full rank"]
    for panel, kind, letter, title in zip(axes, KINDS, "abcd", titles, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) {title}"
        *drawn_levels, first, second = curves(panel)
        np.testing.assert_allclose([height for _, _, [height, _], _ in drawn_levels], levels(drawn(4)[0]), rtol=1e-10)
        for curve, alpha in zip((first, second), ALPHAS, strict=True):
            assert curve[0] == f"α = {alpha}"
            rows = rows_of(wired, "linear_attention_losses", kind, alpha, 4)
            time, size = rows["time"].to_numpy(), -np.log(float(alpha))
            if kind == ("separate", DIM):
                time = time - rows_of(wired, "linear_attention", kind, alpha, 4)["measured_time"].min()
            shown = time > 0 if kind == ("separate", DIM) else time >= 0
            unit = float(alpha) if kind[1] < DIM else 1 / size
            np.testing.assert_allclose(curve[1], unit * time[shown], rtol=1e-9)
            np.testing.assert_allclose(curve[2], rows["loss"][shown], rtol=1e-9)
    stages = wired.table("tables/linear_attention")
    stages = stages[(stages["key_query"] == "separate") & (stages["stage"] > 0)]
    for (_, x, y, _), alpha in zip(curves(times), ALPHAS, strict=True):
        rows = stages[stages["alpha"] == alpha].dropna(subset="measured_time")
        expected = float(alpha) * rows[["predicted_time", "measured_time"]].to_numpy()
        np.testing.assert_allclose(sorted(zip(x, y, strict=True)), sorted(map(tuple, expected)), rtol=1e-9)
