"""Two folders of results, table by table and column by column: where they differ, and by how much.

`make compare A=results/demo B=/tmp/before` prints it; the exit code is 1 if anything differs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rank_increase.study.text import text_table


def compare_folders(one, other):
    """A row for every table and column that differs, and one for every table that does not.

    Parameters
    ----------
    one, other : str
        Folders with Parquet tables, at any depth.

    Returns
    -------
    pandas.DataFrame
        Columns `table`, `column`, `difference` in words, `largest` (absolute difference, NaN if it has none).
    """
    files = [{path.relative_to(folder) for path in Path(folder).rglob("*.parquet")} for folder in (one, other)]
    rows = []
    for name in sorted(files[0] | files[1]):
        if name not in files[0] or name not in files[1]:
            rows.append((str(name), "", f"only in {one if name in files[0] else other}", np.nan))
            continue
        found = list(compare_tables(*(pq.read_table(Path(folder, name)).to_pandas() for folder in (one, other))))
        rows += [(str(name), *row) for row in found or [("", "equal", 0.0)]]
    return pd.DataFrame(rows, columns=["table", "column", "difference", "largest"])


def compare_tables(one, other):
    """Yield (column, difference in words, largest absolute difference) of two data frames, by rows in their order."""
    for column in sorted(set(one.columns) ^ set(other.columns)):
        yield column, f"only in {'the first' if column in one else 'the second'}", np.nan
    if len(one) != len(other):
        yield "", f"{len(one)} and {len(other)} rows", np.nan
        return
    for column in (column for column in one.columns if column in other):
        yield from _compare_columns(column, one[column], other[column])


def _compare_columns(column, one, other):
    lists = [any(isinstance(value, np.ndarray) for value in series) for series in (one, other)]
    if lists[0] != lists[1]:
        yield column, f"lists in the {'first' if lists[0] else 'second'} only", np.nan
        return
    if all(lists):
        lengths = [series.map(lambda value: -1 if value is None else len(value)) for series in (one, other)]
        if (lengths[0].to_numpy() != lengths[1].to_numpy()).any():
            yield column, "lists of other lengths", np.nan
            return
        one, other = (pd.Series(np.concatenate(series.dropna().to_list())) for series in (one, other))
    if pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other):
        first, second = (series.to_numpy(float, na_value=np.nan) for series in (one, other))
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        if not same.all():
            with np.errstate(invalid="ignore"):
                difference = np.abs(first - second)[~same]
            sizes = np.abs(np.r_[first, second])
            scale = sizes[np.isfinite(sizes)].max(initial=0)
            largest = np.nan if np.isnan(difference).all() else np.nanmax(difference)
            share = largest / scale if scale else 0
            yield column, f"{(~same).sum()} of {len(same)} values differ, by {share:.2g} of the largest", largest
        return
    first, second = (series.astype(object).where(series.notna(), None).to_numpy() for series in (one, other))
    differ = sum(a != b for a, b in zip(first, second, strict=True))
    if differ:
        yield column, f"{differ} of {len(first)} values differ", np.nan


def main(arguments=None):
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("one", help="a folder of results")
    parser.add_argument("other", help="another one")
    options = parser.parse_args(arguments)
    for folder in (options.one, options.other):
        if not Path(folder).is_dir():
            sys.exit(f"{folder} is no folder: name two folders of results, such as results/demo.")
    found = compare_folders(options.one, options.other)
    if found.empty:
        sys.exit(f"There are no Parquet tables in {options.one} or {options.other}.")
    cells = found.assign(largest=found["largest"].map(lambda value: "" if np.isnan(value) else f"{value:.3g}"))
    print(text_table([["table", "column", "difference", "largest"], *cells.astype(str).to_numpy().tolist()]))
    equal = (found["difference"] == "equal").sum()
    print(f"\n{equal} of {found['table'].nunique()} tables are equal.")
    return int(equal < found["table"].nunique())


if __name__ == "__main__":
    sys.exit(main())
