"""Single matrices: what the table says of matrices whose ranks, norms and cosines are known."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.probes.matrices import matrices_frame, mean_row_cosine, row_cosines
from rank_increase.tables import SCHEMAS, read_table
from rank_increase.training.snapshots import Snapshots, snapshot_path, write_snapshot
from scripts.probes import measure_matrices


def test_cosines_of_rows_by_hand():
    rows = np.array([[1.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    half = 0.5**0.5
    expected = np.array([[1, 1, 0, half], [1, 1, 0, half], [0, 0, 1, half], [half, half, half, 1]])
    np.testing.assert_allclose(row_cosines(rows), expected, atol=1e-15)
    assert mean_row_cosine(rows) == pytest.approx((1 + 3 * half) / 6)
    with_zero = np.concatenate([rows, np.zeros((2, 2))])
    assert mean_row_cosine(with_zero) == pytest.approx((1 + 3 * half) / 6)
    assert np.isnan(mean_row_cosine(np.zeros((3, 2))))


@given(seed=st.integers(0, 999), rows=st.integers(2, 6))
def test_rows_on_one_line_have_cosine_one_at_any_scale(seed, rows):
    rng = np.random.default_rng(seed)
    matrix = np.outer(rng.standard_normal(rows), rng.standard_normal(4)) * 10.0 ** rng.integers(-9, 9)
    assert mean_row_cosine(matrix) == pytest.approx(1)


@pytest.fixture
def snapshots(tmp_path):
    """W_V of two heads: the identity of size 3 and four times it; it grows by a matrix of rank one. W_1 doubles."""
    eye = np.eye(3, dtype=np.float32)
    one = np.zeros((3, 3), dtype=np.float32)
    one[0, 0] = 1
    W_V = {0: np.stack([eye, 4 * eye]), 1: np.stack([eye + one, 4 * eye + 8 * one])}
    W_1 = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    (tmp_path / "snapshots").mkdir()
    for step, weight in W_V.items():
        weights = {"layer_0.W_V": weight, "layer_0.W_1": (1 + step) * W_1}
        matrices = [("W_V", 0, "layer_0.W_V"), ("W_1", 0, "layer_0.W_1")]
        write_snapshot(snapshot_path(tmp_path / "snapshots", step), weights, [], matrices, step=step, epoch=step / 2)
    return tmp_path / "snapshots"


def test_table_of_known_matrices(snapshots, tmp_path):
    runs = [{"network": "x", "alpha": "1", "seed": 5}]
    measure_matrices.main([snapshots], tmp_path / "matrices.parquet", runs=runs, provenance={})
    frame = matrices_frame(Snapshots(snapshots)).assign(**runs[0])
    assert set(frame.columns) == set(SCHEMAS["matrices"].names)
    rows = frame.set_index(["weight", "matrix", "step", "head"]).sort_index()
    start, end = rows.loc["W_V", "trained", 0], rows.loc["W_V", "trained", 1]
    assert start["stable_rank"].tolist() == pytest.approx([3, 3])
    assert start["effective_rank"].tolist() == pytest.approx([3, 3])
    assert start["row_cosine"].tolist() == pytest.approx([0, 0])
    assert start["relative_norm"].tolist() == [1, 1]
    assert end["relative_norm"].tolist() == pytest.approx([2**0.5, (176 / 48) ** 0.5])
    delta = rows.loc["W_V", "delta", 1]
    assert delta["stable_rank"].tolist() == pytest.approx([1, 1])
    assert delta["relative_norm"].tolist() == pytest.approx([3**-0.5, 8 / 48**0.5])
    assert np.isnan(delta["row_cosine"]).all()  # one row alone is not zero
    assert np.isnan(rows.loc["W_V", "delta", 0]["stable_rank"]).all()
    other = rows.loc["W_1", "trained", 1]
    assert other["relative_norm"].item() == pytest.approx(2) and other["epoch"].item() == 0.5
    W_1 = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(other["singular_values"].item(), 2 * np.linalg.svd(W_1)[1], rtol=1e-12)


def test_a_model_without_matrices_has_an_empty_table(tmp_path):
    (tmp_path / "snapshots").mkdir()
    write_snapshot(snapshot_path(tmp_path / "snapshots", 0), {"A": np.ones((1, 2, 2))}, [], step=0, epoch=0)
    table = tmp_path / "matrices.parquet"
    runs = [{"network": "x", "alpha": "1", "seed": 0}]
    measure_matrices.main([tmp_path / "snapshots"], table, runs=runs, provenance={})
    assert read_table(table).empty and pq.read_schema(table).names == SCHEMAS["matrices"].names
