"""What a job asks of Slurm, whose `scontrol` a script stands in for; tests/slurm/ has the real one."""

import logging

import pytest
import torch
from rank_increase.slurm import requeue_if_preempted

from rank_increase import training


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs the function under a Slurm whose jobs have this PreemptTime; returns the calls of scontrol."""

    def run(preempted, job="12", status=0):
        calls = tmp_path / "calls"
        calls.write_text("")
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(
            f'#!/bin/sh\necho "$*" >> {calls}\necho "JobId=12 PreemptTime={preempted}"\nexit {status}\n'
        )
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        if job:
            monkeypatch.setenv("SLURM_JOB_ID", job)
        requeue_if_preempted()
        return calls.read_text().splitlines()

    return run


def test_a_preempted_job_asks_for_its_place_in_the_queue(asked):
    assert asked("2026-11-22T08:41:54") == ["show job 12", "requeue 12"]


def test_a_cancelled_job_does_not_come_back(asked):
    assert asked("None") == ["show job 12"]


def test_outside_of_slurm_nothing_is_asked(asked):
    assert asked("2026-11-22T08:41:54", job=None) == []


def test_a_slurm_that_does_not_answer_is_no_further_failure(asked, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("rank_increase"), "propagate", True)
    assert asked("None", status=1) == ["show job 12"]
    assert "could not ask Slurm" in caplog.text


def test_a_run_that_asks_for_gpus_and_sees_none_does_not_train_on_the_cpu(monkeypatch):
    monkeypatch.setattr(training, "choose_device", lambda: torch.device("cpu"))
    with pytest.raises(RuntimeError, match="asks for 2 GPUs and torch .* sees none"):
        training.process_count(2, 1)
    assert training.process_count(0, 3) == 3
