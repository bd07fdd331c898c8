"""Runs that are killed, stopped, taken over or find their files damaged end as if nothing had happened."""

import logging
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from rank_increase.ownership import NotOwner, owned
from rank_increase.training import processes
from rank_increase.training.checkpoints import Stopped
from rank_increase.training.results import finished_metrics
from rank_increase.training.snapshots import snapshot_path
from runs import (
    LONG,
    STEPS,
    assert_same_run,
    contents,
    flip_a_bit,
    job_path,
    newest_step,
    results,
    run_of,
    start,
    train,
    truncate,
    wait_for,
)


def test_run_killed_at_random_moments_ends_the_same(job, undisturbed):
    job, rng = replace(job, recipe=LONG, checkpoint_minutes=0.0002), np.random.default_rng(0)
    for _ in range(3):
        target = min(newest_step(job) + rng.integers(5, 40), 140)  # of 160
        process = start(job)
        wait_for(lambda least=target: newest_step(job) >= least, process)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
    assert len(list((job_path(job) / "checkpoints").glob("step_*_*.pt"))) in (2, 3)  # two, or killed before deleting
    train(job)
    assert_same_run(results(job), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_state_and_fails_the_job(job, undisturbed, number):
    job = replace(job, recipe=LONG)
    process = start(job)
    wait_for((job_path(job) / "metrics.csv").exists, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 1
    assert 0 < newest_step(job) < 160
    train(job)
    assert_same_run(results(job), undisturbed)


def test_end_of_the_slurm_job_is_a_warning(job, monkeypatch, undisturbed):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    job = replace(job, recipe=LONG)
    with pytest.raises(Stopped, match="run: the SLURM job is about to end; the state after step 1 of 160 is saved"):
        train(job)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train(job)
    assert_same_run(results(job), undisturbed)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-50] + b"x" * 50])
def test_damaged_checkpoint_falls_back_to_the_one_before(interrupted, undisturbed, caplog, damage):
    newest = max((job_path(interrupted) / "checkpoints").iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert f"checkpoint {newest} is damaged: going back to the one before" in caplog.text
    assert "resumes after step 10 of 160" in caplog.text
    assert_same_run(results(interrupted), undisturbed)


def test_without_a_whole_checkpoint_the_run_begins_anew(interrupted, undisturbed):
    for path in (job_path(interrupted) / "checkpoints").iterdir():
        path.write_bytes(b"")
    train(interrupted)
    assert_same_run(results(interrupted), undisturbed)


def test_run_does_not_resume_from_a_state_whose_snapshots_are_gone(interrupted, undisturbed, caplog):
    snapshot_path(job_path(interrupted) / "snapshots", 0).unlink()
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert "snapshots are missing" in caplog.text and "resumes after" not in caplog.text
    assert_same_run(results(interrupted), undisturbed)


@pytest.mark.parametrize("step", [4, 6])  # the end of an epoch, the middle of one
@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_run_with_a_damaged_snapshot_trains_it_again(interrupted, undisturbed, caplog, damage, step):
    damage(snapshot_path(job_path(interrupted) / "snapshots", step))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert f"step_{step}.safetensors is damaged" in caplog.text and "resumes after" not in caplog.text
    assert_same_run(results(interrupted), undisturbed)


@pytest.mark.parametrize("step", [12, 11])
def test_run_resumes_from_the_last_checkpoint_before_a_damaged_snapshot(stopped_after, undisturbed, caplog, step):
    # Step 12 ends epoch 3, step 11 is in its middle; `LONG` keeps snapshots of both.
    assert 3 * STEPS in LONG.snapshot_steps(STEPS) and 11 in LONG.snapshot_steps(STEPS) and len(undisturbed[0]) == 40
    job = stopped_after(step)
    truncate(snapshot_path(job_path(job) / "snapshots", step))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(job)
    assert f"step_{step}.safetensors is damaged" in caplog.text
    assert f"resumes after step {step - 1} of 160" in caplog.text
    assert_same_run(results(job), undisturbed)


@pytest.mark.parametrize("changed", [False, True])
def test_files_that_a_killed_process_left_half_written_are_deleted(interrupted, undisturbed, changed):
    for name in (".metrics.csv.host.17", "snapshots/.step_16.safetensors.host.17"):
        (job_path(interrupted) / name).write_bytes(b"half")
    train(replace(interrupted, seed=4) if changed else interrupted)
    assert not list(job_path(interrupted).rglob(".*"))
    if not changed:
        assert_same_run(results(interrupted), undisturbed)


def test_metrics_that_are_gone_come_back_from_the_state(interrupted, undisturbed):
    (job_path(interrupted) / "metrics.csv").unlink()
    assert len(run_of(interrupted).rows) == len(pd.read_csv(job_path(interrupted) / "metrics.csv")) > 0


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"alpha": 0.6}, {"code": "other"}, {"recipe": LONG.model_copy(update={"learning_rate": 1e-3})}],
)
def test_run_with_other_settings_does_not_resume(interrupted, caplog, change):
    with caplog.at_level(logging.INFO, "rank_increase"):
        run = run_of(replace(interrupted, **change))
    assert run.step == 0 and "settings, data or code have changed" in caplog.text


def test_checkpoint_that_cannot_be_saved_does_not_end_the_run(job, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    train(replace(job, checkpoint_minutes=0))
    assert len(finished_metrics(job)) == 3
    assert "could not be saved, training continues: the disk is full: " in caplog.text


# Several processes that have not been told of each other


def test_second_process_waits_and_then_has_nothing_to_train(job, undisturbed, caplog):
    job = replace(job, recipe=LONG)
    process = start(job)
    wait_for((job_path(job) / "metrics.csv").exists, process)
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(job)
    process.join()
    assert process.exitcode == 0
    assert f"process {process.pid} on" in caplog.text and "may still be at work" in caplog.text
    assert "was trained to the end before" in caplog.text
    assert_same_run(results(job), undisturbed)


def test_frozen_process_whose_run_was_taken_over_writes_nothing(job, undisturbed):
    job = replace(job, recipe=LONG, checkpoint_minutes=0)
    target = np.random.default_rng(0).integers(3, 20)
    process = start(job)
    wait_for(lambda: newest_step(job) >= target, process)
    os.kill(process.pid, signal.SIGSTOP)
    with owned(job.scratch, "run", silence=0.3) as ownership:
        processes.train(replace(job, checkpoint_minutes=60), ownership)
        before = contents(job_path(job))
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert process.exitcode == 1
        assert contents(job_path(job)) == before
    assert_same_run(results(job), undisturbed)


def test_state_that_cannot_be_saved_because_the_run_was_taken_over_ends_it(job, monkeypatch):
    run = run_of(job)

    def vanished(*_):  # the new owner has deleted what it found half written
        raise FileNotFoundError

    def taken_over():
        raise NotOwner

    monkeypatch.setattr(torch, "save", vanished)
    run._save(torch.zeros(2), must=False)
    monkeypatch.setattr(run.ownership, "check", taken_over)
    with pytest.raises(NotOwner):
        run._save(torch.zeros(2), must=False)


@pytest.mark.parametrize("step", [2, 3, 5, 23])  # after a snapshot, with one, between two, with one late in an epoch
def test_snapshots_in_the_middle_of_an_epoch_are_those_of_a_run_without_a_break(stopped_after, undisturbed, step):
    expected = {f"step_{kept}.safetensors" for kept in LONG.snapshot_steps(STEPS)}
    assert set(undisturbed[1]) == expected and sum(kept % STEPS > 0 for kept in LONG.snapshot_steps(STEPS)) >= 5
    job = stopped_after(step)
    before = results_so_far(job)
    assert set(before) == {f"step_{kept}.safetensors" for kept in LONG.snapshot_steps(STEPS) if kept <= step}
    train(job)
    assert_same_run(results(job), undisturbed)
    assert all(results(job)[1][name] == data for name, data in before.items())


def results_so_far(job):
    return {path.name: path.read_bytes() for path in (job_path(job) / "snapshots").iterdir()}
