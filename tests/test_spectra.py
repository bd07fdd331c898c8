from itertools import product as product_of

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import compute_baselines
from rank_increase.notation import PRODUCTS
from rank_increase.spectra import (
    BASELINES,
    ProductSpectra,
    Snapshots,
    rank_measures,
    singular_values,
    spectra_frame,
)
from rank_increase.tables import read_table, write_table

ERROR = 1e-10  # that is promised, in units of the largest singular value
RANKS = ["stable_rank", "effective_rank", "participation_ratio"]


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


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_projection_has_its_rank_by_every_measure(rank):
    basis = np.linalg.qr(np.random.default_rng(rank).standard_normal((20, rank)))[0]
    measures = rank_measures(singular_values(np.pad(basis, ((0, 0), (0, 5))), np.pad(basis, ((0, 0), (0, 5)))))
    for name in [*RANKS, "numerical_rank", "nuclear_norm"]:
        assert measures[name] == pytest.approx(rank)
    assert measures["frobenius_norm"] == pytest.approx(rank**0.5)
    assert measures["spectral_norm"] == pytest.approx(1)


def test_measures_of_two_singular_values_by_hand():
    measures = rank_measures([3.0, 1.0])
    assert measures["stable_rank"] == pytest.approx(10 / 9)
    assert measures["effective_rank"] == pytest.approx(4 / 3**0.75)  # exp(-(3/4) ln(3/4) - (1/4) ln(1/4))
    assert measures["participation_ratio"] == pytest.approx(100 / 82)
    assert measures["numerical_rank"] == 2
    assert measures["nuclear_norm"] == pytest.approx(4)
    assert rank_measures([3.0, 1.0], rtol=0.5)["numerical_rank"] == 1


spectra_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda values: np.sort(values)[::-1])


@given(values=spectra_lists.filter(lambda values: values[0] > 1e-9), scale=st.floats(1e-60, 1e60))
def test_ranks_are_bounded_and_do_not_depend_on_scale(values, scale):
    values = np.maximum(values, 1e-12 * values[0])  # as in any spectrum with round-off; keeps scale * values a number
    measures, scaled = rank_measures(values), rank_measures(scale * values)
    for name in RANKS:
        assert 1 - 1e-12 <= measures[name] <= len(values) + 1e-9
        assert scaled[name] == pytest.approx(measures[name])
    assert measures["stable_rank"] <= measures["participation_ratio"] * (1 + 1e-9)
    assert measures["participation_ratio"] <= measures["stable_rank"] ** 2 * (1 + 1e-9)
    assert scaled["frobenius_norm"] == pytest.approx(scale * measures["frobenius_norm"])


def test_spectra_do_not_depend_on_rotations():
    rng = np.random.default_rng(0)
    (A_0, B_0), (A, B) = random_factors(0, (2, 15, 3), 0.3)
    left, right = (np.linalg.qr(rng.standard_normal((15, 15)))[0] for _ in range(2))
    turned = ProductSpectra(left @ A_0, right @ B_0).after(left @ A, right @ B)
    for values, expected in zip(turned, ProductSpectra(A_0, B_0).after(A, B), strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-13 * expected.max())


def test_zero_matrix_has_norms_of_zero_and_no_rank():
    measures = rank_measures(np.zeros((2, 3)))
    for name in RANKS:
        assert np.isnan(measures[name]).all()
    for name in ["numerical_rank", "frobenius_norm", "spectral_norm", "nuclear_norm"]:
        assert not measures[name].any()


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, -1.0], [np.nan, 0.0], [np.inf, 1.0]])
def test_what_is_no_spectrum_is_refused(values):
    with pytest.raises(ValueError, match="finite, not negative, and descending"):
        rank_measures(values)


def test_stable_rank_is_that_of_weightwatcher():
    # WeightWatcher takes the eigenvalues of the correlation matrix W^T W / N: stable_rank = sum(evals) / max(evals).
    W = np.random.default_rng(0).standard_normal((30, 12))
    evals = np.linalg.eigvalsh(W.T @ W / 30)
    assert rank_measures(singular_values(W, np.eye(12)))["stable_rank"] == pytest.approx(evals.sum() / evals.max())


LAYERS, HEADS, DIM, DIM_HEAD, EPOCHS = 2, 3, 12, 4, [0, 1, 3, 10]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"layer_{layer}.W_{letter}" for layer in range(LAYERS) for letter in "KQVO"]
    weights = {name: rng.standard_normal((HEADS, DIM, DIM_HEAD)).astype("f4") for name in names}
    for epoch in EPOCHS:
        if epoch:
            weights = {name: weight + np.float32(0.1) * rng.standard_normal(weight.shape).astype("f4")
                       for name, weight in weights.items()}  # fmt: skip
        save_file(weights, tmp_path / f"epoch_{epoch}.safetensors")
    return tmp_path


def read_rows(tmp_path, frame, schema):
    write_table(tmp_path / "table.parquet", frame, schema, {})
    return read_table(tmp_path / "table.parquet")


def test_table_of_spectra(folder):
    rows = read_rows(folder, spectra_frame(Snapshots(folder), {epoch: 7 * epoch for epoch in EPOCHS}), "spectra")
    assert len(rows) == LAYERS * HEADS * 2 * (1 + 2 * len(EPOCHS))
    assert (rows["step"] == 7 * rows["epoch"]).all()
    keys = ["epoch", "layer", "head", "product", "matrix"]
    assert not rows.duplicated(keys).any()
    rows = rows.astype({"product": str, "matrix": str}).set_index(keys)
    initial, trained = (Snapshots(folder).factors(epoch, 1)["VO"] for epoch in (0, 10))
    expected = {"trained": product(*trained)[2], "delta": product(*trained)[2] - product(*initial)[2]}
    for matrix, value in expected.items():
        row = rows.loc[10, 1, 2, "VO", matrix]
        np.testing.assert_allclose(row["singular_values"], dense(value)[: len(row["singular_values"])], atol=1e-12)
        assert row["spectral_norm"] == row["singular_values"][0]
    zero = rows.loc[0, 0, 0, "KQ", "delta"]
    assert zero["frobenius_norm"] == zero["numerical_rank"] == 0
    assert zero[RANKS].isna().all()
    np.testing.assert_allclose(
        *(rows.loc[0, 0, 0, "KQ", matrix]["singular_values"] for matrix in ("initial", "trained"))
    )


@pytest.fixture
def run(tmp_path):
    """Paths of the snapshots of a run and of its spectra; each weight of each head changes by a norm of its own."""
    rng, snapshots, spectra = np.random.default_rng(0), tmp_path / "snapshots", tmp_path / "spectra.parquet"
    names = [f"layer_{layer}.W_{letter}" for layer in range(LAYERS) for letter in "KQVO"]
    weights = {name: rng.standard_normal((HEADS, DIM, DIM_HEAD)).astype("f4") for name in names}
    snapshots.mkdir()
    for epoch in EPOCHS:
        if epoch:
            sizes = {name: rng.uniform(0.01, 1, (HEADS, 1, 1)) for name in names}
            weights = {
                name: (weight + sizes[name] * rng.standard_normal(weight.shape)).astype("f4")
                for name, weight in weights.items()
            }
        save_file(weights, snapshots / f"epoch_{epoch}.safetensors")
    frame = spectra_frame(Snapshots(snapshots), {epoch: 7 * epoch for epoch in EPOCHS})
    write_table(spectra, frame, "spectra", {})
    return snapshots, spectra


def read_baselines(run, tmp_path, seed=0):
    """What the rule makes of a run, by baseline, epoch, layer, head and product."""
    compute_baselines.main(*run, tmp_path / "baselines.parquet", seed=seed, provenance={})
    rows = read_table(tmp_path / "baselines.parquet").astype({"product": str, "baseline": str})
    assert (rows["step"] == 7 * rows["epoch"]).all()
    return rows.set_index(["baseline", "epoch", "layer", "head", "product"])


def test_the_random_product_has_the_frobenius_norm_of_the_delta(run, tmp_path):
    rows = read_baselines(run, tmp_path)
    assert len(rows) == LAYERS * HEADS * len(PRODUCTS) * len(BASELINES) * len(EPOCHS)
    assert {len(values) for values in rows["singular_values"]} == {min(DIM, 2 * DIM_HEAD)}
    for epoch, layer, head, name in product_of(EPOCHS, range(LAYERS), range(HEADS), PRODUCTS):
        (A_0, B_0), (A, B) = (Snapshots(run[0]).factors(moment, layer)[name] for moment in (0, epoch))
        delta = np.linalg.norm(product(A[head], B[head]) - product(A_0[head], B_0[head]))
        row = rows.loc["random_product", epoch, layer, head, name]
        np.testing.assert_allclose(np.linalg.norm(row["singular_values"]), delta, rtol=1e-10)
        np.testing.assert_allclose(row["frobenius_norm"], delta, rtol=1e-10)


def test_noisy_factors_change_each_factor_by_the_norm_of_its_change(run, tmp_path):
    rows = read_baselines(run, tmp_path, seed=3)
    for layer, (number, name), epoch in product_of(range(LAYERS), enumerate(PRODUCTS), EPOCHS):
        draws = np.random.default_rng([3, layer, number])
        draws.standard_normal((2, HEADS, DIM, min(DIM, 2 * DIM_HEAD)))  # of the random product
        noise = draws.standard_normal((2, HEADS, DIM, DIM_HEAD))
        initial, trained = (np.stack(Snapshots(run[0]).factors(moment, layer)[name]) for moment in (0, epoch))
        for head in range(HEADS):
            noisy = [
                factor + np.linalg.norm(after - factor) * direction / np.linalg.norm(direction)
                for factor, after, direction in zip(initial[:, head], trained[:, head], noise[:, head], strict=True)
            ]
            expected = dense(product(*noisy) - product(*initial[:, head]))[: min(DIM, 2 * DIM_HEAD)]
            found = rows.loc["noisy_factors", epoch, layer, head, name]["singular_values"]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("baseline", BASELINES)
def test_directions_are_drawn_for_each_head_and_seed_and_kept_through_training(run, tmp_path, baseline):
    first, other = (read_baselines(run, tmp_path, seed).loc[baseline] for seed in (0, 1))
    last = pd.concat([first.loc[EPOCHS[-1]], other.loc[EPOCHS[-1]]])["singular_values"]
    spectra = np.stack([values / np.linalg.norm(values) for values in last])
    apart = np.linalg.norm(spectra[:, None] - spectra, axis=-1) + np.eye(len(spectra))
    assert len(spectra) == 2 * LAYERS * HEADS * len(PRODUCTS)
    assert apart.min() > 1e-3
    assert read_baselines(run, tmp_path, 0).loc[baseline].equals(first)
    if baseline == "random_product":
        ranks = first.loc[EPOCHS[1:]].groupby(["layer", "head", "product"])["stable_rank"]
        np.testing.assert_allclose(ranks.max(), ranks.min(), rtol=1e-12)


def test_noisy_factors_are_those_of_the_dense_difference():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 1, 12, 3))
    norms = np.array([[2.0]]), np.array([[0.5]])
    noisy = ProductSpectra(A, B).baselines(*norms, np.ones((1, 1)), np.random.default_rng(5))["noisy_factors"][0]
    draws = np.random.default_rng(5)
    draws.standard_normal((2, 1, 12, 6))
    N_A, N_B = draws.standard_normal((2, 1, 12, 3))
    changed = product(A + 2 * N_A / np.linalg.norm(N_A), B + 0.5 * N_B / np.linalg.norm(N_B))
    np.testing.assert_allclose(noisy, dense(changed - product(A, B))[:, :6], atol=1e-12)


def test_snapshots_that_cannot_be_used_are_named(folder):
    (folder / "epoch_3.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="epoch_3.safetensors is damaged"):
        spectra_frame(Snapshots(folder), dict.fromkeys(EPOCHS, 0))
    save_file({"layer_0.W_K": np.full((1, 2, 2), np.nan, "f4")}, folder / "epoch_1.safetensors")
    with pytest.raises(ValueError, match="epoch_1.safetensors: layer_0.W_K is not finite"):
        spectra_frame(Snapshots(folder), dict.fromkeys(EPOCHS, 0))
    with pytest.raises(ValueError, match="epoch_10.safetensors: layer_7.W_K"):
        Snapshots(folder).factors(10, 7)
    (folder / "epoch_0.safetensors").unlink()
    with pytest.raises(ValueError, match="no epoch_0.safetensors"):
        Snapshots(folder)
