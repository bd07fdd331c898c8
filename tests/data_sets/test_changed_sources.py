"""Datasets in real runs of Snakemake: changed, removed and shared sources, and data that was overwritten."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rank_increase.data.fingerprints import source_exists, source_fingerprint
from rank_increase.data.packed import check_arrays, open_dataset

ROOT = Path(__file__).parents[2]
STUDY = """
study: small
data_dir: {data}
datasets:
  folder: {{source: image_folder, path: {images}, size: 4}}
  table: {{source: parquet, train: {images}/train.parquet, test: {images}/test.parquet, classes: 2, size: 4}}
networks:
  folder:
    dataset: folder
    model: &model {{family: vit, patch_size: 2, dim: 8, depth: 1, heads: 2, dim_head: 4, mlp_dim: 8}}
    recipe: &recipe {{epochs: 1, batch_size: 4, learning_rate: 0.001, snapshots: 2}}
    runs:
      - {{alphas: ["1"], seeds: [0]}}
  table:
    dataset: table
    model: *model
    recipe: *recipe
    runs:
      - {{alphas: ["1"], seeds: [0]}}
"""
METRICS = {name: f"results/small/networks/{name}/alpha_1/seed_0/metrics.parquet" for name in ("folder", "table")}


def save(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), color).save(path)


@pytest.fixture
def images(tmp_path):
    """Folder of images, and the same in Parquet files."""
    folder = tmp_path / "images"
    for split, half in (("train", "train"), ("val", "test")):
        rows = []
        for label, name in enumerate(["ant", "bee"]):
            for number in range(4):
                path = folder / split / name / f"{number}.png"
                save(path, (100 * label, 20 * number, 7 * number + 50 * label))
                rows.append((path.read_bytes(), label))
        pq.write_table(
            pa.table({"image": [row[0] for row in rows], "label": [row[1] for row in rows]}), folder / f"{half}.parquet"
        )
    return folder


@pytest.fixture
def study(tmp_path, images):
    """Runs Snakemake in a folder of its own, with packed datasets in `data`; returns exit code and what it said."""

    def run(*arguments, data="null", folder="run"):
        config = tmp_path / f"{folder}.yaml"
        config.write_text(STUDY.format(data=data, images=images))
        line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path / folder]
        line += ["--cores", "2", *arguments, "--configfile", config]
        done = subprocess.run(
            line, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_fingerprint_changes_with_every_file_of_a_source(images):
    tables = [f"{images}/train.parquet", f"{images}/test.parquet"]

    def both():
        return source_fingerprint([str(images)]), source_fingerprint(tables)

    first = both()
    assert both() == first and None not in first
    save(images / "val/bee/3.png", (1, 2, 3))
    assert both()[0] != first[0] and both()[1] == first[1]
    second = both()
    (images / "train/ant/0.png").rename(images / "train/bee/9.png")
    assert both()[0] != second[0]
    os.utime(images / "test.parquet", ns=(1, 1))
    assert both()[1] != second[1]
    (images / "train.parquet").unlink()
    shutil.rmtree(images / "val")
    assert both()[0] not in (None, first[0], second[0]) and both()[1] is None
    assert source_exists([str(images)]) and not source_exists(tables)
    shutil.rmtree(images)
    assert both() == (None, None)
    assert source_fingerprint([]) is None and source_exists([])  # as of digits


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_changed_source_is_packed_again_and_a_removed_one_is_not_missed(tmp_path, images, study, shared):
    data = tmp_path / "data" if shared else "null"
    packed = tmp_path / "data" if shared else tmp_path / "run/results/small/datasets"
    failed, said = study(*METRICS.values(), data=data)
    assert not failed, said
    failed, said = study("-n", *METRICS.values(), data=data)
    assert not failed and "Nothing to be done" in said, said

    (images / "notes.txt").write_text("beside train/ and val/, and none of them")
    failed, said = study("-n", *METRICS.values(), data=data)
    assert not failed and "Nothing to be done" in said, said

    before = open_dataset(packed / "folder").train_samples[0].copy()
    save(images / "train/ant/0.png", (9, 99, 199))  # in place: no folder's time changes
    failed, said = study("-n", METRICS["folder"], data=data)
    assert not failed and "prepare_dataset" in said and "train_network" in said, said
    failed, said = study("-n", METRICS["table"], data=data)
    assert "Nothing to be done" in said, said
    failed, said = study(METRICS["folder"], data=data)
    assert not failed, said
    after = open_dataset(packed / "folder").train_samples[0]
    assert after[0, 0].tolist() == [9, 99, 199] and not np.array_equal(before, after)

    table = pq.read_table(images / "train.parquet")
    pq.write_table(table.take(list(range(7, -1, -1))), images / "train.parquet")
    failed, said = study(METRICS["table"], data=data)
    assert not failed and "prepare_dataset" in said, said
    assert open_dataset(packed / "table").train_labels.tolist() == [1] * 4 + [0] * 4

    shutil.rmtree(images / "val")
    failed, said = study("-n", METRICS["folder"], data=data)
    assert not failed and "Nothing to be done" in said, said
    shutil.rmtree(images)
    failed, said = study("-n", *METRICS.values(), data=data)
    assert not failed and "Nothing to be done" in said, said
    Path(tmp_path / "run" / METRICS["folder"]).unlink()
    failed, said = study(METRICS["folder"], data=data)  # trains from what is packed
    assert not failed and "prepare_dataset" not in said, said


@pytest.mark.slow
def test_overwritten_pixels_are_named_and_the_same_command_mends_them(tmp_path, study):
    assert not study(METRICS["folder"])[0]
    path = tmp_path / "run/results/small/datasets/folder/train_samples.npy"
    whole = path.read_bytes()
    pixels = np.load(path, mmap_mode="r+")
    pixels[:] = 255 - pixels
    pixels.flush()
    time.sleep(0.01)
    os.utime(path)
    failed, said = study(METRICS["folder"])
    assert failed and "train_samples.npy is not what was packed" in said, said
    assert "delete results/small/datasets/folder, and the same command packs the dataset again" in said
    shutil.rmtree(path.parent)
    failed, said = study(METRICS["folder"])
    assert not failed, said
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_two_studies_that_pack_into_one_folder_at_once_both_train(tmp_path, study):
    for attempt in range(3):  # on a busy machine, one may find the dataset packed before it has begun
        data, first, second = tmp_path / f"data{attempt}", f"first{attempt}", f"second{attempt}"
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(study, METRICS["folder"], data=data, folder=folder) for folder in (first, second)]
        outcomes = [run.result() for run in runs]
        for failed, said in outcomes:
            assert not failed, said
        check_arrays(data / "folder")
        if all("prepare_dataset" in said for _, said in outcomes):
            break
    else:
        pytest.fail("the two never packed at once")
    # One that packs after the other has finished, as a job that had to wait does, leaves the dataset in place.
    manifest = data / "folder/manifest.json"
    before = manifest.read_bytes(), (data / "folder/train_samples.npy").stat().st_ino
    failed, said = study(METRICS["folder"], "--forcerun", "prepare_dataset", data=data, folder=second)
    assert not failed and "prepare_dataset" in said, said
    assert (manifest.read_bytes(), (data / "folder/train_samples.npy").stat().st_ino) == before
    failed, said = study("-n", METRICS["folder"], data=data, folder=first)
    assert not failed and "Nothing to be done" in said, said
