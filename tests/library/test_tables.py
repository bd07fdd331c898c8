import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rank_increase import tables
from rank_increase.tables import (
    SCHEMAS,
    atomic,
    collect,
    measures_schema,
    read_provenance,
    read_table,
    read_tables,
    write_table,
)

EXAMPLES = {"string": ["a", "b"], "double": [0.5, -1e-300], "int32": [3, 0], "int64": [1 << 40, 0], "int8": [1, -1]}


def example(schema):
    columns = {}
    for field in SCHEMAS[schema]:
        if pa.types.is_dictionary(field.type):
            columns[field.name] = ["KQ", "VO"]
        elif pa.types.is_list(field.type):
            columns[field.name] = [[1.0, 2.0], [3.0]]
        else:
            columns[field.name] = EXAMPLES[str(field.type)]
    return pd.DataFrame(columns)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_table_of_each_schema_comes_back_as_it_was_written(tmp_path, schema):
    frame, provenance = example(schema), {"rule": "test", "wildcards": {"alpha": "1e-3000"}, "params": {"points": 5}}
    write_table(tmp_path / "table.parquet", frame[frame.columns[::-1]], schema, provenance)
    assert pq.read_schema(tmp_path / "table.parquet").remove_metadata() == SCHEMAS[schema]
    found = read_table(tmp_path / "table.parquet")
    assert found.columns.tolist() == SCHEMAS[schema].names
    for name in frame:
        assert [np.asarray(value).tolist() for value in found[name]] == frame[name].tolist()
    assert read_provenance(tmp_path / "table.parquet") == provenance


def test_some_columns_and_rows_of_a_table_can_be_read(tmp_path):
    write_table(tmp_path / "table.parquet", example("events"), "events", {})
    found = read_table(tmp_path / "table.parquet", columns=["index"], filters=[("direction", "==", 1)])
    assert found.to_dict("list") == {"index": [3]}


def test_an_empty_table_keeps_its_types(tmp_path):
    write_table(tmp_path / "table.parquet", example("events").iloc[:0], "events", {})
    assert pq.read_schema(tmp_path / "table.parquet").remove_metadata() == SCHEMAS["events"]
    assert len(read_table(tmp_path / "table.parquet")) == 0


def spoil(frame, mistake):
    if mistake == "missing column":
        return frame.drop(columns="index")
    if mistake == "unknown column":
        return frame.assign(colour="red")
    if mistake == "text for a number":
        return frame.assign(rescaled_time=["soon", "late"])
    if mistake == "fraction for a whole number":
        return frame.assign(order=[0.5, 1.0])
    return frame.assign(direction=[1, 1000])


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("missing column", r"columns are \['direction', .*\], the schema wants \['direction', .*'index', .*\]"),
        ("unknown column", r"columns are \['colour', .*\], the schema wants \['direction', .*\]"),
        ("text for a number", "rescaled_time"),
        ("fraction for a whole number", "order"),
        ("number too large for its type", "direction"),
    ],
)
def test_a_table_that_does_not_fit_its_schema_is_refused_by_name(tmp_path, mistake, complaint):
    path = tmp_path / "events.parquet"
    with pytest.raises(ValueError, match=rf"(?s)events\.parquet: .*{complaint}"):
        write_table(path, spoil(example("events"), mistake), "events", {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    write_table(path, example("events"), "events", {"version": 1})
    before = path.read_bytes()

    def fail_half_way(table, where, **options):
        with open(where, "wb") as file:
            file.write(b"PAR1 half a table")
        raise OSError("no space left on device")

    monkeypatch.setattr(tables.pq, "write_table", fail_half_way)
    with pytest.raises(OSError, match="no space left"):
        write_table(path, example("events"), "events", {"version": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("other")
        raise KeyboardInterrupt
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_tables_of_many_runs_are_collected_with_their_wildcards(tmp_path):
    parts, frames = [], []
    wildcards = [("diagonal", "1e-32", "99"), ("diagonal", "1e-3000", "0"), ("full", "1e-4", "0")]
    for number, (variant, alpha, seed) in enumerate(wildcards):
        frame = pd.concat([example("events")] * (number + 1), ignore_index=True)
        if number == 1:
            frame["product"] = "VO"  # a part with fewer categories than the others
        parts.append(tmp_path / f"{number}.parquet")
        provenance = {"wildcards": {"variant": variant, "alpha": alpha, "seed": seed}}
        write_table(parts[-1], frame, "events", provenance)
        frames.append(frame.assign(variant=variant, alpha=alpha, seed=int(seed)))
    collect(parts, tmp_path / "all.parquet", {"rule": "collect_table"})
    found, expected = read_table(tmp_path / "all.parquet"), pd.concat(frames, ignore_index=True)
    assert found.columns.tolist() == ["variant", "alpha", "seed", *SCHEMAS["events"].names]
    assert len(found) == 2 + 4 + 6
    for name in expected:
        assert found[name].tolist() == expected[name].tolist()
    types = pq.read_schema(tmp_path / "all.parquet")
    text = pa.dictionary(pa.int32(), pa.string())
    assert [types.field(name).type for name in ("variant", "alpha", "seed")] == [text, text, pa.int32()]
    for field in SCHEMAS["events"]:
        assert types.field(field.name).type == field.type
    assert read_provenance(tmp_path / "all.parquet") == {"rule": "collect_table"}


def test_a_column_that_the_parts_have_is_not_overwritten_by_a_wildcard(tmp_path):
    frame = example("theorem")
    write_table(tmp_path / "part.parquet", frame, "theorem", {"wildcards": {"alpha": "1", "seed": "3"}})
    collect([tmp_path / "part.parquet"], tmp_path / "all.parquet", {})
    found = read_table(tmp_path / "all.parquet")
    assert found["alpha"].tolist() == frame["alpha"].tolist()
    assert found["seed"].tolist() == [3, 3]


def test_the_kind_of_a_table_becomes_no_column(tmp_path):
    write_table(tmp_path / "part.parquet", example("events"), "events", {"wildcards": {"table": "events"}})
    collect([tmp_path / "part.parquet"], tmp_path / "all.parquet", {})
    assert read_table(tmp_path / "all.parquet").columns.tolist() == SCHEMAS["events"].names


def test_parts_without_rows_are_collected_too(tmp_path):
    write_table(tmp_path / "part.parquet", example("events").iloc[:0], "events", {"wildcards": {"seed": "3"}})
    write_table(tmp_path / "more.parquet", example("events"), "events", {"wildcards": {"seed": "4"}})
    collect([tmp_path / "part.parquet", tmp_path / "more.parquet"], tmp_path / "all.parquet", {})
    assert read_table(tmp_path / "all.parquet")["seed"].tolist() == [4, 4]


def test_provenance_is_json_that_any_reader_of_parquet_sees(tmp_path):
    write_table(tmp_path / "table.parquet", example("events"), "events", {"commit": None, "seed": "3"})
    metadata = pq.read_metadata(tmp_path / "table.parquet").metadata
    assert json.loads(metadata[b"provenance"]) == {"commit": None, "seed": "3"}


def test_the_rows_of_several_tables_are_read_one_after_the_other(tmp_path):
    paths = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    write_table(paths[0], example("events"), "events", {})
    write_table(paths[1], example("events").assign(index=[7, 8]), "events", {})
    assert read_tables(paths)["index"].tolist() == [3, 0, 7, 8]
    assert read_tables(paths)["direction"].tolist() == [1, -1, 1, -1]
    assert read_tables(paths[1:])["index"].tolist() == [7, 8]
    found = read_tables(paths[::-1], columns=["index"], filters=[("direction", "==", 1)])
    assert found.to_dict("list") == {"index": [7, 3]}


def test_measures_take_the_place_of_singular_values_and_all_other_columns_stay(tmp_path):
    write_table(tmp_path / "part.parquet", example("spectra"), "spectra", {"wildcards": {"seed": "3", "alpha": "1e-4"}})
    collect([tmp_path / "part.parquet"], tmp_path / "spectra.parquet", {})
    schema = measures_schema(tmp_path / "spectra.parquet", ["stable_rank", "spectral_norm"])
    kept = SCHEMAS["spectra"].names[:-1]
    assert schema.names == ["seed", "alpha", *kept, "stable_rank", "spectral_norm"]
    assert [schema.field(name) for name in kept] == [SCHEMAS["spectra"].field(name) for name in kept]
    assert {schema.field(name).type for name in ("stable_rank", "spectral_norm")} == {pa.float64()}
    frame = read_table(tmp_path / "spectra.parquet").drop(columns="singular_values")
    frame = frame.assign(stable_rank=[1.5, np.nan], spectral_norm=2.0)
    write_table(tmp_path / "measures.parquet", frame, schema, {})
    found = pq.read_table(tmp_path / "measures.parquet")
    assert found.schema.remove_metadata() == schema.remove_metadata()
    assert found["stable_rank"].to_pylist() == [1.5, None]
    assert found["seed"].to_pylist() == [3, 3]
