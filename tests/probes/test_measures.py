import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.probes.measures import numerical_rank
from rank_increase.probes.measuring import KEYS, measures_frame
from rank_increase.probes.spectra import singular_values
from rank_increase.registry import registered
from rank_increase.tables import SCHEMAS, measures_schema, read_table, write_table
from scripts.probes import measure_spectra

MEASURES = {name: entry.load() for name, entry in registered("measure").items()}
RANKS = ["stable_rank", "effective_rank", "participation_ratio"]
NORMS = ["frobenius_norm", "spectral_norm", "nuclear_norm"]


def measured(values):
    values = np.asarray(values, float)
    return {name: np.asarray(measure(values)) for name, measure in MEASURES.items()}


def test_the_measures_are_these():
    assert list(MEASURES) == [*RANKS, "numerical_rank", *NORMS]


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_measures_of_a_projection_are_its_rank(rank):
    basis = np.linalg.qr(np.random.default_rng(rank).standard_normal((30, rank)))[0]
    padded = np.pad(basis, ((0, 0), (0, 5)))
    measures = measured(singular_values(padded, padded))
    for name in [*RANKS, "numerical_rank", "nuclear_norm"]:
        assert measures[name] == pytest.approx(rank)
    assert measures["frobenius_norm"] == pytest.approx(rank**0.5)
    assert measures["spectral_norm"] == pytest.approx(1)


@given(size=st.integers(1, 40), scale=st.floats(1e-100, 1e100))
def test_measures_of_a_multiple_of_the_identity(size, scale):
    measures = measured(np.full(size, scale))
    for name in [*RANKS, "numerical_rank"]:
        assert measures[name] == pytest.approx(size)
    assert measures["frobenius_norm"] == pytest.approx(scale * size**0.5)
    assert measures["spectral_norm"] == scale
    assert measures["nuclear_norm"] == pytest.approx(scale * size)


@given(size=st.integers(1, 40), value=st.floats(1e-150, 1e150))
def test_a_matrix_of_rank_one_has_rank_one_and_one_norm(size, value):
    measures = measured([value, *[0.0] * (size - 1)])
    for name in [*RANKS, "numerical_rank"]:
        assert measures[name] == pytest.approx(1, rel=1e-12)
    for name in NORMS:
        assert measures[name] == pytest.approx(value, rel=1e-12)


def test_measures_of_two_singular_values_by_hand():
    measures = measured([3.0, 1.0])
    assert measures["stable_rank"] == pytest.approx(10 / 9)
    assert measures["effective_rank"] == pytest.approx(4 / 3**0.75)  # exp(-(3/4) ln(3/4) - (1/4) ln(1/4))
    assert measures["participation_ratio"] == pytest.approx(100 / 82)
    assert measures["numerical_rank"] == 2
    assert measures["frobenius_norm"] == pytest.approx(10**0.5)
    assert measures["spectral_norm"] == 3
    assert measures["nuclear_norm"] == pytest.approx(4)
    assert numerical_rank(np.array([3.0, 1.0]), rtol=0.5) == 1


@given(ratio=st.floats(0.01, 0.99), size=st.integers(2, 30))
def test_measures_of_a_geometric_spectrum_in_closed_form(ratio, size):
    def total(power):  # of ratio^(power k), k = 0 ... size - 1
        return (1 - ratio ** (power * size)) / (1 - ratio**power)

    k = np.arange(size)
    measures = measured(ratio**k)
    assert measures["stable_rank"] == pytest.approx(total(2))
    assert measures["participation_ratio"] == pytest.approx(total(2) ** 2 / total(4))
    assert measures["nuclear_norm"] == pytest.approx(total(1))
    # -sum p ln p with p = ratio^k / total is ln total - ln(ratio) E[k].
    entropy = np.log(total(1)) - np.log(ratio) * (k @ ratio**k) / total(1)
    assert measures["effective_rank"] == pytest.approx(np.exp(entropy))


@pytest.mark.parametrize(("rtol", "expected"), [(1.0, 0), (0.5, 1), (0.05, 2), (0.01, 3), (0.005, 4), (0.001, 4)])
def test_numerical_rank_counts_what_is_above_its_threshold_and_not_on_it(rtol, expected):
    values = np.array([2.0, 1.0, 0.1, 0.02, 0.002])
    assert numerical_rank(values, rtol=rtol) == expected
    assert numerical_rank(values) == 3


spectra_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda values: np.sort(values)[::-1])


@given(values=spectra_lists.filter(lambda values: values[0] > 1e-9), scale=st.floats(1e-60, 1e60))
def test_ranks_are_bounded_and_do_not_depend_on_scale(values, scale):
    values = np.maximum(values, 1e-12 * values[0])  # as in any spectrum with round-off; keeps scale * values a number
    measures, scaled = measured(values), measured(scale * values)
    for name in RANKS:
        assert 1 - 1e-12 <= measures[name] <= len(values) + 1e-9
        assert scaled[name] == pytest.approx(measures[name])
    assert measures["stable_rank"] <= measures["participation_ratio"] * (1 + 1e-9)
    assert measures["participation_ratio"] <= measures["stable_rank"] ** 2 * (1 + 1e-9)
    for name in NORMS:
        assert scaled[name] == pytest.approx(scale * measures[name])
    assert measures["spectral_norm"] <= measures["frobenius_norm"] * (1 + 1e-9)
    assert measures["frobenius_norm"] <= measures["nuclear_norm"] * (1 + 1e-9)


@given(values=spectra_lists.filter(lambda values: values[0] > 1e-9), exponent=st.integers(-800, 800))
def test_ranks_do_not_underflow_or_overflow_with_the_scale(values, exponent):
    values = np.maximum(values, 1e-12 * values[0])
    for name in [*RANKS, "numerical_rank"]:
        assert MEASURES[name](values * 2.0**exponent) == pytest.approx(MEASURES[name](values), rel=1e-12)


@given(values=spectra_lists.filter(lambda values: values[0] > 1e-9), zeros=st.integers(1, 5))
def test_directions_of_size_zero_change_nothing(values, zeros):
    padded = measured(np.r_[values, np.zeros(zeros)])
    for name, expected in measured(values).items():
        np.testing.assert_allclose(padded[name], expected, rtol=1e-12)


@given(rows=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted), min_size=1, max_size=6))
def test_a_stack_of_spectra_is_measured_one_by_one(rows):
    values = np.array(rows)[:, ::-1]
    stacked = measured(values.reshape(1, *values.shape))
    for name, found in stacked.items():
        assert found.shape == (1, len(values))
        np.testing.assert_allclose(found[0], [measured(row)[name] for row in values], rtol=1e-13)


def test_zero_matrix_has_norms_of_zero_and_no_rank():
    measures = measured(np.zeros((2, 3)))
    for name in RANKS:
        assert np.isnan(measures[name]).all()
    for name in ["numerical_rank", *NORMS]:
        assert not measures[name].any()


def test_stable_rank_is_that_of_weightwatcher():
    # WeightWatcher takes the eigenvalues of the correlation matrix W^T W / N: stable_rank = sum(evals) / max(evals).
    W = np.random.default_rng(0).standard_normal((30, 12))
    evals = np.linalg.eigvalsh(W.T @ W / 30)
    assert measured(singular_values(W, np.eye(12)))["stable_rank"] == pytest.approx(evals.sum() / evals.max())


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_measures_of_a_matrix_are_those_of_its_norms(seed, rows, columns):
    W = np.random.default_rng(seed).standard_normal((rows, columns))
    measures = measured(singular_values(W, np.eye(columns)))
    assert measures["frobenius_norm"] == pytest.approx(np.linalg.norm(W))
    assert measures["spectral_norm"] == pytest.approx(np.linalg.norm(W, 2))
    assert measures["nuclear_norm"] == pytest.approx(np.linalg.norm(W, "nuc"))
    assert measures["stable_rank"] == pytest.approx((np.linalg.norm(W) / np.linalg.norm(W, 2)) ** 2)
    gram = W @ W.T
    assert measures["participation_ratio"] == pytest.approx(np.trace(gram) ** 2 / np.sum(gram**2))
    assert measures["numerical_rank"] == np.linalg.matrix_rank(W, tol=0.01 * np.linalg.norm(W, 2))


def spectra(*values):
    """Rows of a table "spectra", with singular values of these."""
    rows = [
        {"step": 7 * n, "epoch": n / 2, "layer": n, "head": 1, "product": "KQ", "matrix": "delta", "singular_values": v}
        for n, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=SCHEMAS["spectra"].names)


@given(rows=st.lists(spectra_lists, max_size=8))
def test_each_row_of_a_table_is_measured_whatever_its_length(rows):
    frame = spectra(*rows)
    found = measures_frame(frame, MEASURES)
    assert found.columns.tolist() == [*KEYS, *MEASURES]
    pd.testing.assert_frame_equal(found[KEYS], frame[KEYS])
    for name, measure in MEASURES.items():
        expected = [measure(values) for values in rows]
        np.testing.assert_allclose(found[name].to_numpy(float, na_value=np.nan), expected, rtol=1e-12)


def test_a_table_is_measured_by_what_it_is_told_of_and_itself_not_changed():
    frame = spectra([3.0, 1.0], [2.0])
    kept = frame.copy()
    found = measures_frame(
        frame.rename(index={0: 5, 1: 3}), {"largest": lambda s: s[..., 0], "count": lambda s: s.shape[-1]}
    )
    assert found["largest"].tolist() == [3.0, 2.0]
    assert found["count"].tolist() == [2, 1]
    pd.testing.assert_frame_equal(frame, kept)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, -1.0], [np.nan, 0.0], [np.inf, 1.0]])
def test_what_is_no_spectrum_is_refused(values):
    with pytest.raises(ValueError, match="finite, not negative, and descending"):
        measures_frame(spectra([3.0, 2.0], values, [1.0]), MEASURES)


def test_a_rank_of_the_zero_matrix_is_null_in_the_table_of_the_script(tmp_path):
    path, table = tmp_path / "spectra.parquet", tmp_path / "measures.parquet"
    write_table(path, spectra([3.0, 1.0], [0.0, 0.0], [4.0]), "spectra", {})
    measure_spectra.main(path, table, extensions=(), provenance={"rule": "measure_spectra"})
    found = read_table(table)
    assert found.columns.tolist() == measures_schema(path, MEASURES).names == [*KEYS, *MEASURES]
    assert found["stable_rank"].tolist()[::2] == [pytest.approx(10 / 9), 1.0]
    assert found[RANKS].isna().to_numpy().tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert found["spectral_norm"].tolist() == [3.0, 0.0, 4.0]
    assert found["step"].tolist() == [0, 7, 14]


def test_a_measure_of_the_users_becomes_a_column(tmp_path):
    path, table, extension = (tmp_path / name for name in ("spectra.parquet", "measures.parquet", "my_measures.py"))
    source = "from rank_increase.registry import register\n@register.measure('gap')\n"
    extension.write_text(source + "def gap(s): '''Gap.'''; return s[..., 0] - s[..., 1]\n")
    write_table(path, spectra([3.0, 1.0], [0.5, 0.0]), "spectra", {})
    measure_spectra.main(path, table, extensions=(str(extension),), provenance={})
    assert read_table(table)["gap"].tolist() == [2.0, 0.5]
    assert read_table(table).columns.tolist() == [*KEYS, *MEASURES, "gap"]
