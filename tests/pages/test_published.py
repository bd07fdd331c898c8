import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rank_increase.pages.publishing import MANTISSA_BITS, origin, publish, publish_table, round_mantissa
from rank_increase.registry import registered
from rank_increase.study.configuration import all_variant_settings, read_config, read_study
from rank_increase.tables import SCHEMAS, measures_schema, read_provenance, read_table, write_table
from scripts.evidence import check_claims

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/published.json"))
studies = pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)


def test_something_is_published():
    assert PUBLISHED


def tables_of(folder):
    return sorted(folder.rglob("*.parquet"))


def same_type(found, wanted):
    return found == wanted or (pa.types.is_dictionary(found) and found.value_type == wanted)


def name_of(path):
    """Name of the table that a file belongs to; tables of networks are folders with a file for each."""
    return path.stem if path.stem in SCHEMAS else path.parent.name


def schema_of(path):
    if name_of(path) != "measures":
        return SCHEMAS[name_of(path)]
    return measures_schema(path.parents[1] / "spectra" / path.name, registered("measure"))


@pytest.mark.parametrize(
    "path",
    [path for folder in PUBLISHED for path in tables_of(folder)],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_published_tables_have_the_columns_of_their_schemas(path):
    found, wanted = pq.read_schema(path), schema_of(path)
    assert [field.name for field in wanted if not same_type(found.field(field.name).type, field.type)] == []
    assert set(found.names) - set(wanted.names) <= {"variant", "assumption", "network", "alpha", "seed"}
    assert read_provenance(path)["versions"]
    assert pq.read_metadata(path).num_rows > 0


@studies
def test_what_is_published_says_where_it_is_from_and_names_no_machine(folder):
    text = (folder / "published.json").read_text()
    published = json.loads(text)
    assert published["study"] == folder.name
    assert re.fullmatch(r"[0-9a-f]{40}\+?", published["commit"])
    assert published["machine"].keys() >= {"cores", "memory_gb", "system"}
    for written in (text, *(json.dumps(read_provenance(path)) for path in tables_of(folder))):
        assert not re.search(r"/(home|work|root|Users|tmp|mnt|scratch)/", written)
        assert socket.gethostname() not in written


def config_of(folder):
    study, own = ROOT / "config" / f"{folder.name}.yaml", folder / "config.yaml"
    files = [str(path) for path in (study, own) if path.exists()]
    return ["--configfile", *files] if files else []


def snakemake(copy, *arguments):
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", copy, "--cores", "1"]
    return subprocess.run(
        [str(argument) for argument in [*line, *arguments]],
        cwd=copy,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def unpacked(tmp_path):
    """Puts what is published of a study where its results would be, with no figure, and gives the folder above."""

    def unpack(folder):
        shutil.copytree(folder, tmp_path / "results" / folder.name)
        shutil.rmtree(tmp_path / "results" / folder.name / "figures")
        return tmp_path

    return unpack


@studies
def test_with_the_published_tables_nothing_is_trained(unpacked, folder):
    run = snakemake(unpacked(folder), "-n", "all", *config_of(folder))
    assert run.returncode == 0, run.stderr
    planned = {rule: int(count) for rule, count in re.findall(r"(?m)^(\w+) +(\d+)$", run.stdout + run.stderr)}
    figures = len(list((folder / "figures").glob("*.png")))
    assert planned.items() >= {"figure": figures, "claims": 1, "explorer": 1}.items() and figures > 5
    assert planned.keys() <= {"all", "total", "claims", "configuration", "explorer", "figure", "measure_spectra"}


@studies
def test_published_figures_are_drawn_again_from_published_tables(unpacked, folder):
    copy = unpacked(folder)
    published = sorted(path.stem for path in (folder / "figures").iterdir())
    figures = [published[0], published[-1]]  # of networks, and of the toy model if there is one
    run = snakemake(copy, *figures, *config_of(folder))
    assert run.returncode == 0, run.stderr
    for figure in figures:
        drawn, kept = ((path / "figures" / f"{figure}.png") for path in (copy / "results" / folder.name, folder))
        assert abs(drawn.stat().st_size / kept.stat().st_size - 1) < 0.05


def table_files(folder):
    """Published files of each table."""
    tables = {}
    for path in sorted((folder / "tables").rglob("*.parquet")):
        tables.setdefault(name_of(path), []).append(path)
    return tables


@studies
def test_published_claims_follow_from_the_published_tables(folder, tmp_path):
    config = read_config(ROOT / "config" / f"{'config' if folder.name == 'demo' else folder.name}.yaml")
    study = read_study(config)
    of_runs = {
        "variants": all_variant_settings(study),
        "warmups": {name: network.recipe.warmup_epochs for name, network in study.networks.items()},
    }
    study = {**study.model_dump(include={"study", "toy", "assumptions"}), **of_runs}
    outputs = [tmp_path / f"claims.{format}" for format in ("parquet", "md", "html")]
    check_claims.main(table_files(folder), *outputs, study=study, labels={}, extensions=(), provenance={})
    found, kept = (read_table(path / "claims.parquet").set_index("id") for path in (tmp_path, folder))
    assert found["verdict"].to_dict() == kept["verdict"].to_dict()
    assert found["measure"].to_dict() == kept["measure"].to_dict()
    np.testing.assert_allclose(found["value"], kept["value"], rtol=1e-2)


@given(arrays(float, st.integers(0, 5), elements=st.floats(allow_nan=True)))
def test_rounding_keeps_as_many_bits_as_it_says(values):
    rounded = round_mantissa(values)
    finite = np.isfinite(values) & (np.abs(values) > 1e-300) & (np.abs(values) < 1e300)
    np.testing.assert_allclose(rounded[finite], values[finite], rtol=2.0 ** -(MANTISSA_BITS + 1))
    assert (rounded[finite].view(np.uint64) % (1 << (52 - MANTISSA_BITS)) == 0).all()
    np.testing.assert_array_equal(rounded[~np.isfinite(values)], values[~np.isfinite(values)])


def conservation(tmp_path):
    row = {"method": "gd", "rescaled_time": 1 / 3, "product": "KQ", "change": 1 / 3, "initial": 1.0, "log_unit": 0.0}
    path = tmp_path / "study" / "tables" / "conservation.parquet"
    write_table(path, pd.DataFrame([row]), "conservation", {"study": "x"})
    return path


def test_a_table_without_rounded_columns_is_published_as_it_is(tmp_path):
    path = conservation(tmp_path)
    publish_table(path, tmp_path / "copy.parquet")
    assert read_table(tmp_path / "copy.parquet").equals(read_table(path))
    assert read_provenance(tmp_path / "copy.parquet") == {"study": "x"}


def test_lists_are_rounded_and_keep_their_lengths(tmp_path):
    path = tmp_path / "tables" / "spectra" / "digits.parquet"
    path.parent.mkdir(parents=True)
    values = pa.array([[1 / 3, 1 / 7], [], None, [0.0]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"singular_values": values}), path)
    publish_table(path, tmp_path / "copy.parquet")
    found = pq.read_table(tmp_path / "copy.parquet")["singular_values"].to_pylist()
    assert [None if row is None else len(row) for row in found] == [2, 0, None, 1]
    assert found[0] == round_mantissa(np.array([1 / 3, 1 / 7])).tolist() != [1 / 3, 1 / 7]


def test_publishing_again_leaves_nothing_of_the_last_time_but_other_files(tmp_path):
    path, target = conservation(tmp_path), tmp_path / "published"
    for stale in ("tables/old.parquet", "figures/old.png", "README.md"):
        (target / stale).parent.mkdir(parents=True, exist_ok=True)
        (target / stale).touch()
    publish([str(path)], tmp_path / "study", target)
    left = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    assert left == ["README.md", "tables/conservation.parquet"]


def test_the_origin_is_that_of_the_claims(tmp_path):
    path = tmp_path / "claims.parquet"
    provenance = {"study": "demo", "commit": "0" * 40, "versions": {"numpy": "2"}}
    write_table(path, pd.DataFrame(columns=SCHEMAS["claims"].names), "claims", provenance)
    assert {key: origin(path)[key] for key in provenance} == provenance
