import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rank_increase.study.compare import compare_folders, compare_tables, main

WORKFLOW = Path(__file__).parents[2] / "workflow"
NUMBERS = st.floats(-1e100, 1e100)
CELLS = {
    "number": NUMBERS | st.just(np.nan) | st.just(np.inf),
    "count": st.integers(-(2**31), 2**31 - 1),
    "text": st.sampled_from(["KQ", "VO", None]),
    "list": st.lists(NUMBERS | st.just(np.nan), max_size=4).map(np.array) | st.none(),
    "flag": st.booleans(),
}
ROWS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=6)
COLUMNS = ["table", "column", "difference", "largest"]


def frame(rows):
    return pd.DataFrame(rows, columns=list(CELLS)).reset_index(drop=True)


def differences(one, other):
    return [tuple(row) for row in compare_tables(pd.DataFrame(one), pd.DataFrame(other))]


def same(one, other):
    """Whether two cells are equal, by the plainest means."""
    if one is None or other is None:
        return one is other
    if isinstance(one, str):
        return one == other
    return np.array_equal(np.asarray(one, float), np.asarray(other, float), equal_nan=True)


@given(rows=ROWS)
def test_a_table_is_equal_to_itself(rows):
    assert list(compare_tables(frame(rows), frame(rows))) == []


@given(pairs=st.lists(st.tuples(st.fixed_dictionaries(CELLS), st.fixed_dictionaries(CELLS)), min_size=1, max_size=6))
def test_the_columns_named_are_those_that_differ_whichever_comes_first(pairs):
    one, other = (frame(rows) for rows in zip(*pairs, strict=True))
    found = {column: (said, largest) for column, said, largest in compare_tables(one, other)}
    expected = [name for name in CELLS if not all(same(a[name], b[name]) for a, b in pairs)]
    assert list(found) == expected
    turned = {column: largest for column, _, largest in compare_tables(other, one)}
    assert list(turned) == expected
    for column, (_, largest) in found.items():
        np.testing.assert_equal(largest, turned[column])


@given(values=st.lists(NUMBERS, min_size=1, max_size=8), row=st.integers(0, 7), change=st.floats(1e-3, 1e3))
def test_the_largest_difference_is_that_of_the_values(values, row, change):
    one = np.array(values)
    other = one.copy()
    other[row % len(one)] += change
    assume(other[row % len(one)] != one[row % len(one)])
    ((column, said, largest),) = differences({"value": one}, {"value": other})
    assert column == "value"
    assert largest == abs(one - other).max()
    relative = largest / max(abs(one).max(), abs(other).max())
    assert said == f"1 of {len(one)} values differ, by {relative:.2g} of the largest"


def test_numbers_that_differ_are_counted_and_measured():
    one, other = {"a": [1.0, -8.0, 3.0], "b": [1, 2, 3]}, {"a": [1.5, -10.0, 3.0], "b": [1, 2, 3]}
    assert differences(one, other) == [("a", "2 of 3 values differ, by 0.2 of the largest", 2.0)]


def test_whole_numbers_and_fractions_of_the_same_values_are_equal():
    assert differences({"a": [1, 2], "b": pd.array([1, None], "Int32")}, {"a": [1.0, 2.0], "b": [1.0, np.nan]}) == []


def test_a_number_that_is_missing_in_one_differs_but_has_no_distance():
    ((column, said, largest),) = differences({"a": [1.0, np.nan]}, {"a": [1.0, 2.0]})
    assert (column, said.split(",")[0]) == ("a", "1 of 2 values differ")
    assert np.isnan(largest)
    ((_, said, largest),) = differences({"a": [1.0, np.nan]}, {"a": [1.5, 2.0]})
    assert (said, largest) == ("2 of 2 values differ, by 0.25 of the largest", 0.5)


def test_infinity_differs_from_a_number_and_not_from_itself():
    assert differences({"a": [np.inf, -np.inf]}, {"a": [np.inf, -np.inf]}) == []
    for other in ([np.inf, 2.0], [2.0, -np.inf], [-np.inf, 4.0]):
        ((_, said, largest),) = differences({"a": [np.inf, 4.0]}, {"a": other})
        assert said.startswith(f"{(np.array(other) != [np.inf, 4.0]).sum()} of 2 values differ")
        assert largest == (2.0 if other[0] == np.inf else np.inf)


def test_zeros_differ_by_nothing_of_the_largest():
    assert differences({"a": [0.0]}, {"a": [-0.0]}) == []
    ((_, said, _),) = differences({"a": [0.0]}, {"a": [np.nan]})
    assert said == "1 of 1 values differ, by 0 of the largest"


def test_text_and_categories_are_compared_by_value():
    one = {"a": pd.Categorical(["KQ", "VO", "KQ"], ["KQ", "VO"])}
    assert differences(one, {"a": pd.Categorical(["KQ", "VO", "KQ"], ["VO", "KQ", "other"])}) == []
    assert differences(one, {"a": ["KQ", "VO", "KQ"]}) == []
    assert differences({"a": pd.Categorical(["KQ"])}, {"a": ["KQ"]}) == []
    ((column, said, largest),) = differences(one, {"a": ["VO", None, "KQ"]})
    assert (column, said) == ("a", "2 of 3 values differ")
    assert np.isnan(largest)


def test_text_and_numbers_differ():
    ((_, said, _),) = differences({"a": ["1", "2"]}, {"a": [1, 2]})
    assert said == "2 of 2 values differ"


def test_missing_text_is_equal_however_it_is_stored():
    assert differences({"a": ["x", None]}, {"a": ["x", np.nan]}) == []
    assert differences({"a": [None, None]}, {"a": [None, None]}) == []


def test_lists_are_compared_value_by_value():
    one = {"a": [np.array([1.0, 2.0]), None, np.array([4.0])]}
    other = {"a": [np.array([1.0, 2.5]), None, np.array([4.0])]}
    assert differences(one, one) == []
    assert differences(one, other) == [("a", "1 of 3 values differ, by 0.12 of the largest", 0.5)]


@pytest.mark.parametrize("other", [[[1.0], [2.0, 3.0]], [[1.0, 2.0, 3.0], []], [[1.0, 2.0], None]])
def test_lists_of_other_lengths_are_not_compared(other):
    other = [value if value is None else np.array(value) for value in other]
    ((column, said, largest),) = differences({"a": [np.array([1.0, 2.0]), np.array([3.0])]}, {"a": other})
    assert (column, said) == ("a", "lists of other lengths")
    assert np.isnan(largest)


@pytest.mark.parametrize("other", [[None, None], [1.0, 2.0], ["x", None]])
def test_lists_and_what_is_no_list_differ(other):
    lists = {"a": [np.array([1.0, 2.0]), np.array([3.0])]}
    for one, two, where in ((lists, {"a": other}, "first"), ({"a": other}, lists, "second")):
        ((column, said, largest),) = differences(one, two)
        assert (column, said) == ("a", f"lists in the {where} only")
        assert np.isnan(largest)


def test_empty_tables_are_equal():
    assert differences({"a": np.array([], float), "b": []}, {"a": [], "b": np.array([], "O")}) == []


def test_columns_of_one_table_alone_are_named_and_the_others_compared():
    found = differences({"a": [1.0], "b": [1.0], "c": [1.0]}, {"b": [2.0], "d": [1.0], "c": [1.0]})
    assert [row[:2] for row in found] == [
        ("a", "only in the first"),
        ("d", "only in the second"),
        ("b", "1 of 1 values differ, by 0.5 of the largest"),
    ]
    np.testing.assert_array_equal([row[2] for row in found], [np.nan, np.nan, 1.0])


def test_tables_of_different_lengths_are_not_compared():
    ((column, said, largest),) = differences({"a": [1.0, 2.0]}, {"a": [3.0]})
    assert (column, said) == ("", "2 and 1 rows")
    assert np.isnan(largest)


def test_rows_are_compared_in_their_order_whatever_the_index():
    one = pd.DataFrame({"a": [1.0, 2.0]}, index=[5, 6])
    assert list(compare_tables(one, pd.DataFrame({"a": [1.0, 2.0]}))) == []
    assert [row[2] for row in compare_tables(one, pd.DataFrame({"a": [2.0, 1.0]}))] == [1.0]


@pytest.fixture
def folders(tmp_path):
    """Two folders of tables: `same` is in both, `other` differs, `more` and `less` are in one alone."""
    tables = {
        "one": {"tables/same": [1.0], "other": [1.0], "less": [1.0]},
        "two": {"tables/same": [1.0], "other": [4.0], "deep/er/more": [1.0]},
    }
    for folder, contents in tables.items():
        for name, values in contents.items():
            path = tmp_path / folder / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"value": values, "name": "x", "list": [[1.0, 2.0]]}).to_parquet(path)
    (tmp_path / "two" / "notes.txt").write_text("no table")
    return [str(tmp_path / name) for name in tables]


def test_folders_are_compared_table_by_table(folders):
    found = compare_folders(*folders)
    expected = [
        ("deep/er/more.parquet", "", f"only in {folders[1]}", np.nan),
        ("less.parquet", "", f"only in {folders[0]}", np.nan),
        ("other.parquet", "value", "1 of 1 values differ, by 0.75 of the largest", 3.0),
        ("tables/same.parquet", "", "equal", 0.0),
    ]
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, columns=COLUMNS))


def test_the_comparison_is_printed_and_its_exit_code_says_whether_anything_differs(folders, capsys):
    assert main(folders) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        " ".join(COLUMNS),
        f"deep/er/more.parquet only in {folders[1]}",
        f"less.parquet only in {folders[0]}",
        "other.parquet value 1 of 1 values differ, by 0.75 of the largest 3",
        "tables/same.parquet equal 0",
        "",
        "1 of 4 tables are equal.",
    ]
    assert main([folders[0], folders[0]]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 of 3 tables are equal."


def test_a_table_that_differs_in_two_columns_is_one_table(tmp_path, capsys):
    for folder, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / folder).mkdir()
        pd.DataFrame({"a": [value], "b": [value], "c": [0.0]}).to_parquet(tmp_path / folder / "table.parquet")
    assert main([str(tmp_path / "one"), str(tmp_path / "two")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 1 tables are equal."


def test_what_is_no_folder_or_has_no_tables_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong in ([folders[0], "nowhere"], ["nowhere", folders[0]]):
        with pytest.raises(
            SystemExit, match="nowhere is no folder: name two folders of results, such as results/demo."
        ):
            main(wrong)
    with pytest.raises(SystemExit, match="There are no Parquet tables in .*empty or .*empty"):
        main([str(tmp_path / "empty")] * 2)


def test_the_module_is_a_command(folders):
    command = [sys.executable, "-m", "rank_increase.study.compare"]
    codes = [
        subprocess.run([*command, *paths], cwd=WORKFLOW, capture_output=True).returncode
        for paths in ([folders[0], folders[0]], folders)
    ]
    assert codes == [0, 1]
