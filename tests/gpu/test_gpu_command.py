"""The command at a tiny size on the CPU: it needs little more than torch, and writes all that it would on a GPU."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rank_increase.gpu_check.sizes import SIZES
from rank_increase.study.configuration import read_config
from rank_increase.tables import SCHEMAS, collect, read_provenance, read_table

ROOT = Path(__file__).parents[2]
ALLOWED = {"torch", "numpy", "pandas", "pyarrow", "safetensors", "pillow"}
# Runs a module as if of all that this project needs only `ALLOWED` were installed.
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing}))  # None: an import fails, and nothing is found
sys.argv[0] = "gpu_check"
runpy.run_module("rank_increase.gpu_check", run_name="__main__")
"""


def not_needed():
    """Names by which the direct dependencies are imported, without those allowed."""
    lines = (ROOT / "envs/requirements.in").read_text().splitlines()
    packages = {line.split("==")[0] for line in lines if "==" in line} - ALLOWED
    names = {"pyyaml": "yaml", "scikit-learn": "sklearn", "pre-commit": "pre_commit"}
    return {names.get(package, package.replace("-", "_")) for package in packages}


def write_images(path, count, rng):
    labels = rng.integers(10, size=count)
    rows = []
    for label in labels:
        image = rng.integers(0, 128, size=(8, 8, 3), dtype=np.uint8) + np.uint8(12 * label)
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        rows.append({"bytes": file.getvalue()})
    pq.write_table(pa.table({"image": rows, "label": labels}), path)


def command(folder, *options):
    code = BARE.format(missing=not_needed())
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    arguments = ["--out", str(folder / "out"), "--size", "tiny", "--device", "cpu", "--seeds", "1", *options]
    run = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.slow
def test_the_command_checks_measures_trains_and_continues(tmp_path):
    rng = np.random.default_rng(0)
    write_images(tmp_path / "train.parquet", 64, rng)
    write_images(tmp_path / "test.parquet", 20, rng)
    data = ["--data", str(tmp_path / "train.parquet"), "--spectra-minutes", "0"]
    out = tmp_path / "out"
    status, said = command(tmp_path, *data, "--minutes", "0.001")  # no time to train
    assert status == 0, said
    checks, speed = (json.loads((out / f"{name}.json").read_text()) for name in ("checks", "speed"))
    assert len(checks) == 7 and all(check["right"] for check in checks), checks
    assert [case["label"] for case in speed["cases"]] == [case.label for case in SIZES["tiny"].cases]
    for case in speed["cases"]:
        assert case["lowest"] <= case["samples_per_second"] <= case["highest"]
        expected = case["samples_per_second"] * case["flops_per_sample"] / speed["matrix_product_flops_per_second"]
        assert case["utilisation"] == pytest.approx(expected)
        assert sum(case["time_by_kind"].values()) == pytest.approx(1)
        assert "aten::" in case["profile"]
    assert not list(out.glob("networks"))

    before = (out / "speed.json").stat().st_mtime_ns
    status, said = command(tmp_path, *data, "--minutes", "5")
    assert status == 0, said
    assert (out / "speed.json").stat().st_mtime_ns == before  # not repeated
    for alpha in SIZES["tiny"].alphas:
        place = out / f"networks/cifar10/alpha_{alpha}/seed_0"
        metrics, spectra = (read_table(place / f"{table}.parquet") for table in ("metrics", "spectra"))
        assert list(metrics.columns) == SCHEMAS["metrics"].names and metrics["epoch"].tolist() == [1, 2, 3]
        assert list(spectra.columns) == SCHEMAS["spectra"].names and spectra["epoch"].max() == 3
        provenance = read_provenance(place / "metrics.parquet")
        assert provenance["wildcards"] == {"network": "cifar10", "alpha": alpha, "seed": "0"}
        assert provenance["params"]["recipe"]["epochs"] == 3 and provenance["device"] == "cpu"
    page = (out / "index.html").read_text()
    assert "All 7 are right" in page and "α = 0.1, seed 0" in page and page.count("<svg") == 2 + 2 * 2
    assert "not measured" in page  # the memory of a GPU
    parts = sorted(str(path) for path in out.glob("networks/*/*/*/metrics.parquet"))
    collect(parts, tmp_path / "all.parquet", {})  # as a table of a study
    assert set(pd.read_parquet(tmp_path / "all.parquet")["alpha"]) == {"1", "0.1"}


def test_the_runs_are_those_of_the_study_paper():
    paper = read_config(ROOT / "config/paper.yaml")["networks"]
    size, cifar = SIZES["paper"], paper["cifar10"]
    assert size.model == cifar["model"] and size.recipe == cifar["recipe"]
    assert sorted(size.alphas) == sorted(cifar["runs"][0]["alphas"])
    assert size.cases[0].model == cifar["model"] and size.cases[0].batch_size == cifar["recipe"]["batch_size"]
    assert size.cases[2].model == paper["imagenet"]["model"]
    assert size.cases[2].batch_size == paper["imagenet"]["hardware"]["pass_size"]


def test_missing_data_is_said_before_anything_is_measured(tmp_path):
    status, said = command(tmp_path, "--data", str(tmp_path / "none.parquet"))
    assert status == 2 and "none.parquet does not exist" in said
    assert not (tmp_path / "out").exists()
