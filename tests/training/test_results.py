"""What a finished run leaves: published whole or not at all, and again without training."""

import errno
import logging
import os
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from rank_increase.ownership import NotOwner, owned
from rank_increase.tables import read_table
from rank_increase.training import processes
from rank_increase.training.results import finished_metrics, prune_checkpoints, publish_snapshots
from rank_increase.training.snapshots import SnapshotError, Snapshots, snapshot_path
from runs import contents, flip_a_bit, job_path, recipe, results, run_of, train, truncate
from scripts.networks import train_network
from scripts.probes import compute_spectra


def test_published_run_is_published_again_without_training(job, tmp_path, caplog):
    outputs = {"metrics": tmp_path / "out/metrics.parquet", "snapshots": tmp_path / "out/snapshots"}
    job = replace(job, checkpoint_minutes=0)
    train_network.main(**outputs, job=job, processes=1, provenance={})
    first = read_table(outputs["metrics"]), contents(outputs["snapshots"])
    assert len(list((job_path(job) / "checkpoints").iterdir())) == 1
    assert sum(path.stat().st_size for path in (job_path(job) / "checkpoints").iterdir()) < 5000  # without weights
    outputs["metrics"].unlink()  # as Snakemake does to a job that it does not know to be done
    with caplog.at_level(logging.INFO, "rank_increase"):
        train_network.main(**outputs, job=job, processes=1, provenance={})
    assert "was trained to the end before" in caplog.text
    pd.testing.assert_frame_equal(read_table(outputs["metrics"]), first[0], check_exact=True)  # even the speed
    assert contents(outputs["snapshots"]) == first[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.parquet", "snapshots"]


@pytest.mark.parametrize("linked", [True, False])
def test_snapshots_are_linked_or_copied_and_replace_what_is_there(job, tmp_path, monkeypatch, linked):
    def other_file_system(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", other_file_system)
    (tmp_path / "published").mkdir()
    (tmp_path / "published/step_7.safetensors").write_text("of an earlier configuration")
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership)
        publish_snapshots(job, ownership, tmp_path / "published")
    published = {path.name: path for path in (tmp_path / "published").iterdir()}
    assert {name: path.read_bytes() for name, path in published.items()} == results(job)[1]
    assert {path.stat().st_nlink for path in published.values()} == {2 if linked else 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "scratch"]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("linked", [True, False])
def test_damaged_published_snapshot_is_named_and_the_same_command_mends_it(
    job, tmp_path, monkeypatch, caplog, damage, linked
):
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another file system")))
    outputs = {"metrics": tmp_path / "out/metrics.parquet", "snapshots": tmp_path / "out/snapshots"}
    train_network.main(**outputs, job=job, processes=1, provenance={})
    metrics, snapshots = results(job)
    damage(outputs["snapshots"] / "step_4.safetensors")
    spectra = {"spectra": tmp_path / "out/spectra.parquet", "seed": 0, "provenance": {}}
    with pytest.raises(ValueError, match=r"step_4.safetensors is damaged.*: delete .*out/snapshots and run the same"):
        compute_spectra.main(outputs["snapshots"], **spectra)
    shutil.rmtree(outputs["snapshots"])  # as the message says
    with caplog.at_level(logging.INFO, "rank_increase"):
        train_network.main(**outputs, job=job, processes=1, provenance={})
    assert ("cannot resume" in caplog.text) == linked  # a copy in the scratch folder is still whole
    published = {path.name: path.read_bytes() for path in outputs["snapshots"].iterdir()}
    assert published == results(job)[1] == snapshots
    pd.testing.assert_frame_equal(results(job)[0], metrics, check_exact=True)
    compute_spectra.main(outputs["snapshots"], **spectra)
    assert spectra["spectra"].exists()


def test_snapshot_damaged_while_its_run_trains_is_not_published(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership)
        truncate(snapshot_path(job_path(job) / "snapshots", 4))
        with pytest.raises(SnapshotError, match="step_4.safetensors is damaged.*: run the same command again"):
            publish_snapshots(job, ownership, tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_snapshots_of_a_run_that_was_taken_over_are_not_published(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership)
        next(job_path(job).glob("owner.*")).unlink()
        with pytest.raises(NotOwner):
            publish_snapshots(job, ownership, tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_published_snapshots_are_those_of_the_recipe_and_no_others(job, tmp_path):
    job = replace(job, recipe=recipe(snapshots=2, snapshots_per_doubling=1))
    train(job)
    (job_path(job) / "snapshots/step_5.safetensors").write_bytes(b"of nobody")
    with owned(job.scratch, job.label) as ownership:
        publish_snapshots(job, ownership, tmp_path / "published")
    snapshots = Snapshots(tmp_path / "published")
    assert snapshots.steps == [0, 1, 2, 4, 8, 12]
    assert snapshots.epochs == {step: step / 4 for step in snapshots.steps}


def test_checkpoints_of_a_finished_run_but_the_last_are_deleted(job):
    job = replace(job, checkpoint_minutes=0)
    train(job)
    before = sorted((job_path(job) / "checkpoints").iterdir())
    assert len(before) == 2
    prune_checkpoints(job)
    assert list((job_path(job) / "checkpoints").iterdir()) == before[-1:]
    run = run_of(job)  # what is left is enough to know that the run is finished
    assert run.step == 12 and len(run.rows) == len(finished_metrics(job)) == 3
