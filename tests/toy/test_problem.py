from math import exp

import numpy as np
import pytest

from rank_increase.toy.heads import DiagonalHead, FullHead
from rank_increase.toy.problem import Problem, attention
from rank_increase.toy.transformer import products


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


STRUCTURES = [
    {"layers": 2, "heads": 3, "bias_std": 0.7},
    {"layers": 1, "heads": 1, "loss": "cross_entropy"},
    {"layers": 1, "heads": 2, "loss": "cross_entropy", "labels": "hard"},
    {"loss": "cross_entropy"},
]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_teacher_is_a_rest_point_of_the_squared_error_and_of_soft_labels(small_problem, structure):
    problem = small_problem(**structure)
    loss, g = problem.head().loss_and_g(products(problem.teacher))
    assert (abs(g).max() < 1e-14) == (structure.get("labels") != "hard")
    if "loss" not in structure:
        assert loss < 1e-28


def test_structures_keep_the_data_and_draw_fixed_weights_in_a_stream_of_their_own(small_problem):
    plain, one, two = small_problem(), small_problem(layers=1, bias_std=2.0), small_problem(layers=1, bias_std=1.0)
    np.testing.assert_array_equal(plain.X, one.X)
    np.testing.assert_array_equal(plain.theta_0, one.theta_0[:, 0, 0])
    np.testing.assert_array_equal(plain.teacher, one.teacher[:, 0, 0])
    np.testing.assert_allclose(one.fixed["bias"], 2 * two.fixed["bias"])
    np.testing.assert_array_equal(one.fixed["W_A"], two.fixed["W_A"])
    assert one.fixed["bias"].shape == (1, 1, 4, 4) and plain.fixed == {}
    many = small_problem(dim=60, layers=2, heads=4, bias_std=3.0).fixed
    assert np.std(many["bias"]) == pytest.approx(3, rel=0.2)
    assert np.std(many["W_A"]) == pytest.approx(60**-0.5, rel=0.05) == pytest.approx(np.std(many["W_B"]), rel=0.05)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_saved_problem_with_a_structure_loads_unchanged(small_problem, tmp_path, structure):
    problem = small_problem(**structure)
    with open(tmp_path / "problem.npz", "wb") as file:
        problem.save(file)
    loaded, p = Problem.load(tmp_path / "problem.npz"), products(problem.theta_0)
    np.testing.assert_array_equal(loaded.theta_0, problem.theta_0)
    found, expected = loaded.head().loss_and_g(p), problem.head().loss_and_g(p)
    assert found[0] == expected[0] and (found[1] == expected[1]).all()


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
        assert set(arrays) == {"X", "Y", "loss"} | {f"{of}W_{name}" for of in ("", "teacher_") for name in "KQVO"}


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
