"""Singular values of products and of their changes against dense ones, and the table of them."""

from itertools import product as product_of

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase.networks.attention import attention_products
from rank_increase.notation import PRODUCTS, RANDOM_CHANGES
from rank_increase.probes.measures import stable_rank
from rank_increase.probes.spectra import ProductSpectra, singular_values, spectra_frame
from rank_increase.tables import SCHEMAS, read_table
from rank_increase.training.snapshots import Snapshots, snapshot_path, write_snapshot
from scripts.probes import compute_spectra

ERROR = 1e-10  # that is promised, in units of the largest singular value


def dense(matrices):
    return np.linalg.svd(matrices, compute_uv=False)


def product(A, B):
    return A @ B.swapaxes(-1, -2)


def random_factors(seed, shape, change, rank=None):
    """Factors before and after training, as float32 like those of snapshots; a change of `rank`, or of any."""
    rng = np.random.default_rng(seed)
    initial = rng.standard_normal((2, *shape)).astype("f4")
    added = rng.standard_normal((2, *shape))
    if rank is not None:
        added = rng.standard_normal((2, *shape[:-1], rank)) @ rng.standard_normal((2, shape[0], rank, shape[-1]))
    trained = initial + (change * added).astype("f4")
    return initial.astype(float), trained.astype(float)


def relative_error(values, expected):
    """Largest error in units of the largest singular value; singular values that are left out count as zero."""
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, expected.shape[-1] - values.shape[-1])])
    return (np.abs(values - expected).max(-1) / expected[..., 0]).max()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 3),
    dim=st.integers(1, 40),
    dim_head=st.integers(1, 40),
    change=st.sampled_from([1e-5, 1e-2, 1.0, 100.0]),
    rank=st.sampled_from([None, 1, 3]),
)
def test_factors_give_the_dense_singular_values(seed, heads, dim, dim_head, change, rank):
    (A_0, B_0), (A, B) = random_factors(seed, (heads, dim, dim_head), change, rank)
    spectra = ProductSpectra(A_0, B_0)
    trained, delta = spectra.after(A, B)
    assert trained.shape == spectra.initial().shape == (heads, min(dim, dim_head))
    assert delta.shape == (heads, min(dim, 2 * dim_head))
    assert relative_error(spectra.initial(), dense(product(A_0, B_0))) < ERROR
    assert relative_error(trained, dense(product(A, B))) < ERROR
    # The dense difference cancels, by as many digits as the change is smaller than the weights.
    assert relative_error(delta, dense(product(A, B) - product(A_0, B_0))) < ERROR + 1e-13 / change


@pytest.mark.parametrize("shape", [(1, 512, 128), (1, 768, 64), (1, 64, 64)])
@pytest.mark.parametrize("change", [1e-4, 0.1])
def test_error_at_the_sizes_of_the_paper(shape, change):
    (A_0, B_0), (A, B) = random_factors(0, shape, change, rank=4)
    trained, delta = ProductSpectra(A_0, B_0).after(A, B)
    assert relative_error(trained, dense(product(A, B))) < 1e-7
    assert relative_error(delta, dense(product(A, B) - product(A_0, B_0))) < 1e-7


def test_small_singular_values_survive_a_large_factor_that_hardly_meets_the_other():
    # |A| |B| is 1e6 times the largest singular value of the change, which Gram matrices would resolve to 1e-2 of it.
    dim, dim_head = 20, 4
    A_0, B_0 = np.zeros((2, 1, dim, dim_head))
    A, B = A_0.copy(), B_0.copy()
    A[0, 0, 0] = B[0, 0, 1] = 1e3
    A[0, 1, 2] = B[0, 1, 2] = 1.0
    np.testing.assert_allclose(ProductSpectra(A_0, B_0).after(A, B)[1][0], [1] + [0] * 7, atol=1e-9)


@pytest.mark.parametrize("least", [1e-1, 1e-4, 1e-7, 1e-9, 1e-12])
def test_small_singular_values_are_right_in_themselves(least):
    # Above and below where the square roots of eigenvalues no longer are, by one head each; the other heads are at 1.
    rng, (dim, rank) = np.random.default_rng(0), (40, 8)
    left, right = (np.linalg.qr(rng.standard_normal((3, dim, rank)))[0] for _ in range(2))
    expected = np.stack([np.ones(rank), np.geomspace(1, least, rank), np.ones(rank)])
    turn = np.linalg.qr(rng.standard_normal((3, rank, rank)))[0]  # else small columns stay apart from large ones
    A, B, zero = left * expected[:, None] @ turn, right @ turn, np.zeros_like(left)
    for values in (singular_values(A, B), ProductSpectra(zero, zero).after(A, B)[1][:, :rank]):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=0)
        np.testing.assert_allclose(values, expected, rtol=0, atol=ERROR)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_delta_of_low_rank_has_no_other_singular_values(rank):
    # A alone has changed, by a matrix of this rank: repeated singular values, and zeros to round-off.
    rng, (dim, dim_head) = np.random.default_rng(0), (40, 12)
    turn, B = (np.linalg.qr(rng.standard_normal((1, dim, dim_head)))[0] for _ in range(2))
    A = rng.standard_normal((1, dim, dim_head))
    change = np.concatenate([turn[..., :rank], np.zeros((1, dim, dim_head - rank))], axis=-1)
    delta = ProductSpectra(A, B).after(A + change, B)[1][0]
    np.testing.assert_allclose(delta, [1] * rank + [0] * (2 * dim_head - rank), atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 12, 3), (2, 12, 6), (2, 4, 9)])
def test_unchanged_weights_have_a_delta_of_exactly_zero(shape):
    A, B = np.random.default_rng(0).standard_normal((2, *shape))
    trained, delta = ProductSpectra(A, B).after(A, B)
    assert not delta.any()
    np.testing.assert_allclose(trained, ProductSpectra(A, B).initial(), atol=1e-13 * trained.max())


def test_zero_weights_are_no_special_case():
    zero, weight = np.zeros((1, 12, 3)), np.random.default_rng(0).standard_normal((1, 12, 3))
    trained, delta = ProductSpectra(zero, zero).after(weight, weight)
    np.testing.assert_allclose(delta, np.pad(trained, ((0, 0), (0, 3))), atol=1e-12)
    np.testing.assert_allclose(ProductSpectra(weight, weight).after(zero, zero)[0], 0, atol=1e-12)


def test_spectra_do_not_depend_on_rotations():
    rng = np.random.default_rng(0)
    (A_0, B_0), (A, B) = random_factors(0, (2, 15, 3), 0.3)
    left, right = (np.linalg.qr(rng.standard_normal((15, 15)))[0] for _ in range(2))
    turned = ProductSpectra(left @ A_0, right @ B_0).after(left @ A, right @ B)
    for values, expected in zip(turned, ProductSpectra(A_0, B_0).after(A, B), strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-13 * expected.max())


LAYERS, HEADS, DIM, DIM_HEAD, STEPS = 2, 3, 12, 4, [0, 1, 3, 10]
KEYS = ["matrix", "step", "layer", "head", "product"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of the snapshots of a run of 7 steps an epoch; each weight of each head changes by a norm of its own."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("snapshots")
    names = [f"layer_{layer}.W_{letter}" for layer in range(LAYERS) for letter in "KQVO"]
    weights = {name: rng.standard_normal((HEADS, DIM, DIM_HEAD)).astype("f4") for name in names}
    for step in STEPS:
        if step:
            sizes = {name: rng.uniform(0.01, 1, (HEADS, 1, 1)) for name in names}
            weights = {
                name: (weight + sizes[name] * rng.standard_normal(weight.shape)).astype("f4")
                for name, weight in weights.items()
            }
        write_snapshot(snapshot_path(folder, step), weights, attention_products(LAYERS), step=step, epoch=step / 7)
    return folder


def read_rows(folder, tmp_path, seed=0):
    """What the rule makes of a run, by matrix, step, layer, head and product."""
    compute_spectra.main(folder, tmp_path / "spectra.parquet", seed=seed, provenance={})
    rows = read_table(tmp_path / "spectra.parquet").astype({"product": str, "matrix": str})
    np.testing.assert_allclose(rows["epoch"], rows["step"] / 7, rtol=1e-15)
    return rows.set_index(KEYS)


def factors_of(folder, step, layer, name):
    """A and B, stacked."""
    return np.stack(Snapshots(folder).factors(step, (name, layer, *(f"layer_{layer}.W_{letter}" for letter in name))))


def test_table_of_spectra(folder, tmp_path):
    rows = read_rows(folder, tmp_path)
    assert set(rows.reset_index()) == set(SCHEMAS["spectra"].names)
    assert len(rows) == LAYERS * HEADS * len(PRODUCTS) * (1 + 5 * len(STEPS))
    assert not rows.index.has_duplicates
    counts = rows.groupby("matrix").size() // (LAYERS * HEADS * len(PRODUCTS))
    assert counts.to_dict() == {"initial": 1, **dict.fromkeys(("trained", "delta", *RANDOM_CHANGES), len(STEPS))}
    for step, layer, head, name in product_of(STEPS, range(LAYERS), range(HEADS), PRODUCTS):
        initial, trained = (product(*factors_of(folder, moment, layer, name))[head] for moment in (0, step))
        for matrix, value in (("trained", trained), ("delta", trained - initial)):
            values = rows.loc[matrix, step, layer, head, name]["singular_values"]
            assert len(values) == (DIM_HEAD if matrix == "trained" else 2 * DIM_HEAD)
            np.testing.assert_allclose(values, dense(value)[: len(values)], atol=1e-12)
    for layer, head, name in product_of(range(LAYERS), range(HEADS), PRODUCTS):
        of_start = [rows.loc[matrix, 0, layer, head, name]["singular_values"] for matrix in ("initial", "trained")]
        np.testing.assert_allclose(*of_start)
        for matrix in ("delta", *RANDOM_CHANGES):
            assert not rows.loc[matrix, 0, layer, head, name]["singular_values"].any()


def test_progress_counts_products(folder):
    done = []
    spectra_frame(Snapshots(folder), 0, done.append)
    assert done == list(range(1, LAYERS * len(PRODUCTS) + 1))


def test_products_of_any_name_size_and_number_in_a_layer(tmp_path):
    rng = np.random.default_rng(0)
    products = [("first", 0, "a", "b"), ("second", 2, "c", "d"), ("third", 2, "b", "a")]
    shapes = {"a": (1, 6, 2), "b": (1, 6, 2), "c": (2, 5, 9), "d": (2, 5, 9)}
    weights = [{name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2)]
    for step, of_step in enumerate(weights):
        write_snapshot(snapshot_path(tmp_path, step), of_step, products, step=step, epoch=step / 3)
    rows = spectra_frame(Snapshots(tmp_path), seed=0).set_index(KEYS).sort_index()
    heads = rows.reset_index().groupby(["product", "layer"])["head"].agg(set).to_dict()
    assert heads == {("first", 0): {0}, ("second", 2): {0, 1}, ("third", 2): {0}}
    for name, layer, A, B in products:
        before, after = (product(of_step[A], of_step[B]) for of_step in weights)
        for head in range(len(before)):
            found = rows.loc["delta", 1, layer, head, name]["singular_values"]
            np.testing.assert_allclose(found, dense(after - before)[head][: len(found)], atol=1e-12)


def test_the_random_product_has_the_frobenius_norm_of_the_delta(folder, tmp_path):
    rows = read_rows(folder, tmp_path)
    values = rows.loc["random_product"]["singular_values"]
    assert len(values) == LAYERS * HEADS * len(PRODUCTS) * len(STEPS)
    assert {len(spectrum) for spectrum in values} == {min(DIM, 2 * DIM_HEAD)}
    for step, layer, head, name in product_of(STEPS, range(LAYERS), range(HEADS), PRODUCTS):
        (A_0, B_0), (A, B) = (factors_of(folder, moment, layer, name) for moment in (0, step))
        delta = np.linalg.norm(product(A[head], B[head]) - product(A_0[head], B_0[head]))
        np.testing.assert_allclose(np.linalg.norm(values[step, layer, head, name]), delta, rtol=1e-10)


def test_noisy_factors_change_each_factor_by_the_norm_of_its_change(folder, tmp_path):
    rows = read_rows(folder, tmp_path, seed=3)
    for layer, (number, name), step in product_of(range(LAYERS), enumerate(PRODUCTS), STEPS):
        draws = np.random.default_rng([3, layer, number])
        draws.standard_normal((2, HEADS, DIM, min(DIM, 2 * DIM_HEAD)))  # of the random product
        noise = draws.standard_normal((2, HEADS, DIM, DIM_HEAD))
        initial, trained = (factors_of(folder, moment, layer, name) for moment in (0, step))
        for head in range(HEADS):
            noisy = [
                factor + np.linalg.norm(after - factor) * direction / np.linalg.norm(direction)
                for factor, after, direction in zip(initial[:, head], trained[:, head], noise[:, head], strict=True)
            ]
            expected = dense(product(*noisy) - product(*initial[:, head]))[: min(DIM, 2 * DIM_HEAD)]
            found = rows.loc["noisy_factors", step, layer, head, name]["singular_values"]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", RANDOM_CHANGES)
def test_directions_are_drawn_for_each_head_and_seed_and_kept_through_training(folder, tmp_path, kind):
    first, other = (read_rows(folder, tmp_path, seed).loc[kind] for seed in (0, 1))
    last = pd.concat([first.loc[STEPS[-1]], other.loc[STEPS[-1]]])["singular_values"]
    spectra = np.stack([values / np.linalg.norm(values) for values in last])
    apart = np.linalg.norm(spectra[:, None] - spectra, axis=-1) + np.eye(len(spectra))
    assert len(spectra) == 2 * LAYERS * HEADS * len(PRODUCTS)
    assert apart.min() > 1e-3
    assert read_rows(folder, tmp_path, 0).loc[kind].equals(first)
    if kind == "random_product":
        ranks = first.loc[STEPS[1:]]["singular_values"].map(stable_rank).groupby(["layer", "head", "product"])
        np.testing.assert_allclose(ranks.max(), ranks.min(), rtol=1e-12)


def test_noisy_factors_are_those_of_the_dense_difference():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 1, 12, 3))
    values = np.array([[[1.2, 1.6, 0.0]]]), np.array([[[0.5, 0.0, 0.0]]])  # of norms 2 and 0.5
    noisy = ProductSpectra(A, B).random_changes(*values, np.ones((1, 1)), np.random.default_rng(5))["noisy_factors"][0]
    draws = np.random.default_rng(5)
    draws.standard_normal((2, 1, 12, 6))
    N_A, N_B = draws.standard_normal((2, 1, 12, 3))
    changed = product(A + 2 * N_A / np.linalg.norm(N_A), B + 0.5 * N_B / np.linalg.norm(N_B))
    np.testing.assert_allclose(noisy, dense(changed - product(A, B))[:, :6], atol=1e-12)


def test_turned_factors_of_random_factors_are_as_the_factors_themselves():
    """Changes in random directions fit to the factors no more and no less once they are turned."""
    rng = np.random.default_rng(1)
    A, B, dA, dB = rng.standard_normal((4, 400, 10, 2))  # 400 heads
    spectra = ProductSpectra(A, B)
    values = [np.linalg.svd(change, compute_uv=False)[None] for change in (dA, dB)]
    turned = spectra.random_changes(*values, np.ones((1, 400)), rng)["turned_factors"][0]
    _, delta = spectra.after(A + dA, B + dB)
    assert np.abs(turned - delta).max() > 1  # not the same ones
    deviation = np.sqrt(delta.var(0) / 400)
    assert (np.abs(turned.mean(0) - delta.mean(0)) < 5 * deviation).all()
    aligned = spectra.after(A * 2, B * 2)[1].mean(0)  # changes along the factors: not random
    values = [np.linalg.svd(change, compute_uv=False)[None] for change in (A, B)]
    turned = spectra.random_changes(*values, np.ones((1, 400)), rng)["turned_factors"][0].mean(0)
    assert turned[2] > 0.3 and aligned[2] < 1e-9  # A B^T grows threefold, of rank 2; turned ones have rank 4


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 3),
    dim=st.integers(1, 20),
    dim_head=st.integers(1, 20),
    sizes=st.tuples(*[st.sampled_from([0.0, 1e-4, 1.0, 30.0])] * 3),
)
def test_random_changes_of_any_shape_are_dense_ones(seed, heads, dim, dim_head, sizes):
    A, B = np.random.default_rng(seed).standard_normal((2, heads, dim, dim_head))
    shares = np.sort(np.random.default_rng(seed + 1).random((2, 1, heads, min(dim, dim_head))))[..., ::-1]
    shares /= np.linalg.norm(shares, axis=-1, keepdims=True)
    of_A, of_B = sizes[0] * shares[0], sizes[1] * shares[1]
    size = np.full((1, heads), sizes[2])
    found = ProductSpectra(A, B).random_changes(of_A, of_B, size, np.random.default_rng(seed))
    rank, draws = min(dim, 2 * dim_head), np.random.default_rng(seed)
    random = product(*draws.standard_normal((2, heads, dim, rank)))
    random *= size[0][:, None, None] / np.linalg.norm(random, axis=(1, 2), keepdims=True)
    N_A, N_B = (N / np.linalg.norm(N, axis=(1, 2), keepdims=True) for N in draws.standard_normal((2, *A.shape)))
    noisy = product(A, sizes[1] * N_B) + product(sizes[0] * N_A, B + sizes[1] * N_B)
    turned = []
    for values in (of_A, of_B):
        u, _, v = np.linalg.svd(draws.standard_normal(A.shape), full_matrices=False)
        turned.append(u @ (values[0][..., None] * v))
    turned = product(A, turned[1]) + product(turned[0], B + turned[1])
    for kind, expected in (("random_product", random), ("noisy_factors", noisy), ("turned_factors", turned)):
        values, spectrum = found[kind][0], dense(expected)
        assert found[kind].shape == (1, heads, rank)
        assert (np.diff(values) <= 0).all() and (values >= 0).all()
        np.testing.assert_allclose(values, spectrum[:, :rank], rtol=0, atol=ERROR * max(spectrum.max(), 1e-300))
