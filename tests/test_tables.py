import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rank_increase import tables
from rank_increase.assumptions import PerturbedRun
from rank_increase.tables import (
    SCHEMAS,
    atomic,
    collect,
    conservation_frame,
    event_frame,
    perturbation_frame,
    read_provenance,
    read_table,
    trajectory_frame,
    write_table,
)
from rank_increase.toy import Run

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
        ("missing column", r"columns are \['direction', .*\], the schema wants \['direction', 'index', .*\]"),
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


@pytest.fixture
def run():
    values = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]])
    return Run(np.array([0.0, 8.0]), np.array([0.3, 0.2]), values, [(2.0, 4, 1), (4.0, 0, -1)])


def test_a_run_becomes_a_row_per_record_and_product_entry(run):
    frame = trajectory_frame(run, -4.0)
    assert len(frame) == 12
    rows = frame.set_index(["rescaled_time", "product", "index"])
    assert rows.loc[(2.0, "VO", 1), "value"] == 5.5
    assert rows.loc[(0.0, "KQ", 2), "value"] == 3.0
    assert set(frame.loc[frame["rescaled_time"] == 2.0, "time"]) == {8.0}
    assert set(frame.loc[frame["time"] == 8.0, "loss"]) == {0.2}


def test_events_of_a_run_are_numbered_and_rescaled(run):
    assert event_frame(run, -4.0).astype({"product": str}).to_dict("list") == {
        "order": [0, 1],
        "product": ["VO", "KQ"],
        "index": [1, 0],
        "rescaled_time": [0.5, 1.0],
        "direction": [1, -1],
    }


def test_a_run_without_events_makes_an_empty_table(run, tmp_path):
    quiet = Run(run.time, run.loss, run.values, [])
    write_table(tmp_path / "events.parquet", event_frame(quiet, -4.0), "events", {})
    assert len(read_table(tmp_path / "events.parquet")) == 0


def test_what_a_run_conserves_becomes_a_row_per_record_and_product(run, tmp_path):
    conservation = np.arange(12.0).reshape(2, 2, 3)
    frame = conservation_frame(Run(run.time, run.loss, run.values, [], conservation), -4.0, "gd")
    assert frame.set_index(["rescaled_time", "product"]).loc[(2.0, "KQ")].tolist() == ["gd", 6.0, 7.0, 8.0]
    write_table(tmp_path / "some.parquet", frame, "conservation", {})
    write_table(tmp_path / "none.parquet", conservation_frame(run, -4.0, "flow"), "conservation", {})
    assert [len(read_table(tmp_path / f"{name}.parquet")) for name in ("some", "none")] == [4, 0]


def test_perturbation_runs_become_rows_with_their_reference():
    times, reference = np.array([8.0, 12.0]), np.ones((2, 4))
    moments = [
        [PerturbedRun(name, times, np.arange(8.0).reshape(2, 4) + shift, reference) for name in ("all", "some")]
        for shift in (0, 100)
    ]
    frame = perturbation_frame(moments, -4.0, 2)
    assert len(frame) == 32
    assert set(frame["perturbed_at"]) == {2.0}
    rows = frame.set_index(["run", "noise_on", "rescaled_time", "product", "index"])[["value", "reference"]]
    assert rows.loc[(0, "all", 3.0, "VO", 1)].tolist() == [7.0, 1.0]
    assert rows.loc[(1, "some", 2.0, "KQ", 0)].tolist() == [100.0, 1.0]


def test_tables_of_many_runs_are_collected_with_their_wildcards(tmp_path):
    parts, frames = [], []
    wildcards = [("diagonal", "1e-32", "99"), ("diagonal", "1e-3000", "0"), ("full", "1e-4", "0")]
    for number, (structure, alpha, seed) in enumerate(wildcards):
        frame = pd.concat([example("events")] * (number + 1), ignore_index=True)
        if number == 1:
            frame["product"] = "VO"  # a part with fewer categories than the others
        parts.append(tmp_path / f"{number}.parquet")
        provenance = {"wildcards": {"structure": structure, "alpha": alpha, "seed": seed}}
        write_table(parts[-1], frame, "events", provenance)
        frames.append(frame.assign(structure=structure, alpha=alpha, seed=int(seed)))
    collect(parts, tmp_path / "all.parquet", {"rule": "collect_table"})
    found, expected = read_table(tmp_path / "all.parquet"), pd.concat(frames, ignore_index=True)
    assert found.columns.tolist() == ["structure", "alpha", "seed", *SCHEMAS["events"].names]
    assert len(found) == 2 + 4 + 6
    for name in expected:
        assert found[name].tolist() == expected[name].tolist()
    types = pq.read_schema(tmp_path / "all.parquet")
    text = pa.dictionary(pa.int32(), pa.string())
    assert [types.field(name).type for name in ("structure", "alpha", "seed")] == [text, text, pa.int32()]
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
