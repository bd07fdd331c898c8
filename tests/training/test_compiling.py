"""Compiled training: on machines that can, with the same results, in one process and in several."""

import logging
import os
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from rank_increase.training import compiling, loop, processes
from rank_increase.training.checkpoints import Checkpoints, Stopped
from rank_increase.training.compiling import compile_model
from runs import Sole, results, run_of, train

CPU = torch.device("cpu")


def of_the_captured_graph(patch):
    """Models are compiled on the CPU, too, by a backend that runs the graph as it is."""
    patch.setattr(compiling, "BACKEND", "eager")
    patch.setattr(loop, "COMPILED", {"cpu"})


@pytest.fixture
def captured(monkeypatch):
    of_the_captured_graph(monkeypatch)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_machine_that_cannot_compile_trains_as_before_and_says_so_once(job, monkeypatch, caplog):
    def broken(graph, inputs):
        raise OSError("\nFailed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    monkeypatch.setattr(loop, "COMPILED", {"cpu"})
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING, "rank_increase"):
        train(job)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and said[0].startswith("training is not compiled and takes longer: torch.compile fails on")
    assert "\n" not in said[0]
    ours = results(job)
    monkeypatch.setattr(loop, "COMPILED", set())
    plain = replace(job, scratch=f"{job.scratch}_plain")
    train(plain)
    pd.testing.assert_frame_equal(ours[0], results(plain)[0], check_exact=True)


def test_runs_share_compiled_code_where_only_their_user_can_write_it(tmp_path, monkeypatch, captured):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert compile_model(torch.nn.Linear(2, 2), CPU, str(tmp_path / "scratch/compiled"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "scratch/compiled")
    assert (tmp_path / "scratch/compiled").stat().st_mode & 0o077 == 0
    assert compile_model(torch.nn.Linear(2, 2), CPU, str(tmp_path / "other"))  # what the user has set stays
    assert not (tmp_path / "other").exists()


def test_a_cpu_does_not_compile(job):
    assert not run_of(job).is_compiled


def captured_worker(job, ownership):
    """A worker that compiles on the CPU, in float64."""
    of_the_captured_graph(pytest.MonkeyPatch())
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    fit = loop.Run.fit

    def compiled_fit(run):
        assert run.is_compiled and isinstance(run.forward, torch.nn.parallel.DistributedDataParallel)
        fit(run)

    loop.Run.fit = compiled_fit
    processes._worker(job, ownership)


@pytest.mark.slow
def test_two_compiled_processes_train_as_one_that_is_not_and_it_resumes_from_their_checkpoint(
    job, double, monkeypatch, loopback
):
    alone = replace(job, scratch=f"{job.scratch}_alone")
    train(alone)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time())))
    with monkeypatch.context() as patch:
        patch.setattr(processes, "_worker", captured_worker)
        with pytest.raises(Stopped, match="the state after step 4 of 12"):
            train(job, 2)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train(job)
    pd.testing.assert_frame_equal(results(job)[0], results(alone)[0], rtol=1e-7)


def test_a_checkpoint_is_not_read_back_to_name_it(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "key", Sole().check)
    with monkeypatch.context() as patch:
        patch.setattr("rank_increase.training.checkpoints.file_sha256", None)
        checkpoints.save(3, {"step": 3, "model": {"weight": torch.arange(1000.0)}})
    torch.testing.assert_close(checkpoints.load()["model"]["weight"], torch.arange(1000.0))  # the name is its hash
