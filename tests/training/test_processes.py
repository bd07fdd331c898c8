"""Processes of a run: on which devices, how they share the work, and one sentence for what goes wrong in them."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from rank_increase.data.packed import DatasetError
from rank_increase.ownership import owned
from rank_increase.training import nodes as node_launchers
from rank_increase.training import processes
from rank_increase.training.checkpoints import Stopped
from rank_increase.training.snapshots import snapshot_path
from runs import job_path, newest_step, recipe, results, start, train, wait_for


def test_a_process_for_each_gpu_that_is_there_and_on_the_cpu_as_many_as_asked_for(monkeypatch):
    for seen, gpus, asked, expected in ((0, 0, 2, 2), (2, 0, 3, 3), (2, 4, 1, 2), (4, 2, 1, 2)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen > 0)
        assert processes.process_count(gpus, asked) == expected


def double_worker(job, ownership):
    """What `double` does, in one of several processes."""
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    processes._worker(job, ownership)


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_where_one_was_and_back(job, double, monkeypatch, loopback):
    monkeypatch.setattr(processes, "_worker", double_worker)
    alone = replace(job, scratch=f"{job.scratch}_alone")
    train(alone)
    job = replace(job, pass_size=3)
    for count, step in ((2, 4), (1, 5), (2, 8)):  # two agree at the end of an epoch
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time())))
        with pytest.raises(Stopped, match=f"^run: the SLURM job is about to end; the state after step {step} of 12 is"):
            train(job, count)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train(job)
    pd.testing.assert_frame_equal(results(job)[0], results(alone)[0], rtol=1e-7)
    ours, theirs = (load_file(snapshot_path(job_path(one) / "snapshots", 12)) for one in (job, alone))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-7)
    left = [path.relative_to(job.scratch).parts[0] for path in job_path(job).rglob("*") if path.is_file()]
    assert set(left) == {"metrics.csv", "snapshots", "checkpoints"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_both_processes_and_the_state_is_saved(job, loopback, number):
    job = replace(job, recipe=recipe(epochs=100_000), log=f"{job.scratch}.log")
    process = start(job, 2)
    wait_for((job_path(job) / "metrics.csv").exists, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1
    name = "SIGTERM" if number == signal.SIGINT else number.name  # as on a terminal, where children get SIGINT anyway
    assert f"run: received {name}; the state after step {newest_step(job)} of" in Path(job.log).read_text()
    assert newest_step(job) > 0


@pytest.mark.slow
def test_death_of_one_of_two_processes_is_one_sentence(job, loopback):
    job = replace(job, recipe=recipe(epochs=100_000))

    def kill_one():
        while not (job_path(job) / "metrics.csv").exists():
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError) as caught:
        train(job, 2)
    assert str(caught.value) == (
        "run: one of its processes was ended by SIGKILL, as happens when memory runs out (`mem_mb`); the same command"
        " resumes from the last checkpoint."
    )
    assert not multiprocessing.active_children()


def test_a_process_that_loses_another_leaves_it_to_the_launcher_to_say_why(job, monkeypatch):
    waited = []

    def lost(*_):
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(processes, "_train", lost)
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    with pytest.raises(RuntimeError, match="reset by peer"):
        processes._worker.__wrapped__(job, None)
    assert sum(waited) > 2 * processes.MONITOR_SECONDS


@pytest.mark.slow
def test_failure_of_two_processes_is_one_sentence(job, loopback):
    with pytest.raises(ValueError, match="^`batch_size` is 71, more than the 70 training samples.$"):
        train(replace(job, recipe=recipe(batch_size=71)), 2)


def overwrite(path):
    """Other pixels or labels in the same place, of the same size and time."""
    times = path.stat().st_mtime_ns, path.stat().st_mtime_ns
    array = np.load(path, mmap_mode="r+")
    array[0] = 1 - array[0]
    array.flush()
    os.utime(path, ns=times)


@pytest.mark.parametrize("name", ["train_samples", "test_samples", "train_labels", "test_labels"])
def test_dataset_that_was_changed_in_place_is_refused_also_by_a_finished_run(job, dataset, tmp_path, name):
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    job = replace(job, dataset=str(copy))
    train(job)
    overwrite(copy / f"{name}.npy")
    with pytest.raises(DatasetError, match=rf"{name}.npy is not what was packed .*: delete {copy}, and the same"):
        train(job)
    shutil.rmtree(copy)
    shutil.copytree(dataset, copy)  # packed again
    train(job)


def test_dataset_from_another_place_with_the_same_contents_is_the_same_dataset(job, dataset, tmp_path, caplog):
    train(job)
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"] = {"path": "/elsewhere", "sha256": {}}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(replace(job, dataset=str(copy)))
    assert "was trained to the end before" in caplog.text


def test_signal_ends_the_check_of_a_large_dataset(job, monkeypatch):
    def slow_check(_, advance):
        os.kill(os.getpid(), signal.SIGTERM)
        advance(1)

    monkeypatch.setattr(processes, "check_arrays", slow_check)
    with pytest.raises(Stopped, match="received SIGTERM; the same command resumes the run"):
        train(job)


def test_run_that_asks_for_gpus_where_there_are_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"asks for 1 GPU and torch .* sees none: .* put `gpu: 0` under"):
        processes.process_count(1, 1)
    with pytest.raises(RuntimeError, match="asks for 4 GPUs and"):
        processes.process_count(4, 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert processes.process_count(4, 1) == 1


def test_the_best_device_is_chosen(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda:1"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert processes.choose_device(1) == torch.device(expected)
    assert processes.device_name() == "cpu"


def two_launchers_here(nodes, cores, arguments):
    """Instead of srun: launchers side by side on this machine."""
    both = " & ".join([" ".join(arguments)] * nodes)
    return ["sh", "-c", f"{both} & wait"]


@pytest.mark.slow
def test_two_launchers_train_as_one_process_and_a_failure_is_one_sentence(job, monkeypatch, loopback):
    monkeypatch.setattr(node_launchers, "srun", two_launchers_here)
    monkeypatch.setattr(node_launchers.socket, "gethostname", lambda: "localhost")
    alone = replace(job, scratch=f"{job.scratch}_alone")
    train(alone)
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership, processes=1, nodes=2)
    pd.testing.assert_frame_equal(results(job)[0], results(alone)[0], rtol=1e-3)  # float32, in two parts
    assert not list(job_path(job).glob("*.json"))
    job = replace(job, recipe=recipe(batch_size=71))
    with owned(job.scratch, job.label) as ownership, pytest.raises(ValueError, match="^`batch_size` is 71, more than"):
        processes.train(job, ownership, processes=1, nodes=2)


def test_srun_starts_one_launcher_on_each_node():
    command = node_launchers.srun(3, 16, ["python", "-m", "x"])
    assert command[0] == "srun" and command[-3:] == ["python", "-m", "x"]
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--cpus-per-task=16", "--overlap"} <= set(command)


def test_each_process_takes_the_gpu_of_its_rank_on_its_node(job, monkeypatch):
    taken = []

    class Fitted:
        def __init__(self, job, ownership, device, rank, count, stop):
            taken.append((device, rank, count))

        def fit(self):
            pass

    monkeypatch.setattr(processes, "Run", Fitted)
    monkeypatch.setattr(processes, "choose_device", lambda rank: torch.device("cuda", rank))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(processes.dist, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    processes._train(replace(job, device=None), None)
    assert taken == [(torch.device("cuda", 1), 5, 8)]
