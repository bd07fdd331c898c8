"""What a job and a controller ask of Slurm, whose commands scripts stand in for; tests/slurm/ has the real one."""

import asyncio
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from snakemake_executor_plugin_slurm import job_status_query as plugin

from rank_increase import training
from rank_increase.slurm import requeue_if_preempted


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


BIN = Path(__file__).parents[1] / "slurm/bin"
RUN = "rank_2f1c"
INNER = "Finished jobid: 0 (Rule: train_toy)\n1 of 1 steps (100%) done\nStoring output in storage.\n"
CANCELLED = "slurmstepd: error: *** JOB 7 ON node CANCELLED AT 2026-11-22T08:41:54 ***\n"
COMMANDS = pytest.mark.parametrize("command", [plugin.query_job_status_squeue, plugin.query_job_status_sacct])


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder of a run, and a Slurm of scripts, behind the commands of the profile on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".snakemake/log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}:{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def script(cluster, name, text):
    path = cluster / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def submitted(cluster, jobs, run=RUN, began="2026-11-22T080000"):
    """Snakemake's own log of a run that has submitted jobs; of each, the text of its log or None."""
    said = ["host: node", f"SLURM run ID: {run}"]
    for job, text in jobs.items():
        log = cluster / f".snakemake/slurm_logs/rule (a)/{job}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            log.write_text(text)
        said.append(f"Job 5 has been submitted with SLURM jobid {job} (log: {log}).")
    (cluster / f".snakemake/log/{began}.snakemake.log").write_text("\n".join([*said, ""]))


def asked_by_plugin(command):
    """States of jobs as the plugin reads them, or None, after which it forgets its jobs."""
    return asyncio.run(plugin.query_job_status(command(RUN), logging.getLogger("plugin")))[0]


@COMMANDS
def test_the_plugin_is_told_what_squeue_says(cluster, command):
    submitted(cluster, {"1": None, "2": None})
    script(cluster, "squeue", f'echo "$*" > {cluster}/asked; echo "1|RUNNING"; echo "2|CANCELLED"')
    script(cluster, "sacct", "exit 1")
    assert asked_by_plugin(command) == {"1": "RUNNING", "2": "CANCELLED"}
    assert (cluster / "asked").read_text().split() == ["--format=%i|%T", "--states=all", "--noheader", f"--name={RUN}"]


@COMMANDS
def test_a_slurm_that_does_not_answer_is_no_failure_to_the_plugin(cluster, command):
    submitted(cluster, {"1": INNER + INNER})
    script(cluster, "squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert asked_by_plugin(command) == {}


def test_a_slurm_that_answers_too_late_is_no_failure_to_the_plugin(cluster, monkeypatch):
    states = runpy.run_path(str(BIN / "squeue"))["states"]
    assert states.__globals__["TIMEOUT"] < 60, "that of the plugin"
    monkeypatch.setitem(states.__globals__, "TIMEOUT", 0.01)
    monkeypatch.setenv("PATH", f"{cluster}/bin:{os.environ['PATH'].partition(':')[2]}")
    submitted(cluster, {"1": INNER + INNER})
    script(cluster, "squeue", "exec sleep 60")
    assert states(RUN) == {}


def test_a_job_that_slurm_has_forgotten_is_over_as_its_log_says(cluster):
    group = INNER + "Finished jobid: 0 (Rule: make_problem)\n1 of 2 steps (50%) done\n" + INNER
    jobs = {
        "1": INNER + INNER,
        "2": group + "2 of 2 steps (100%) done\nElapsed time: 0:00:43\n",
        "3": group + CANCELLED,
        "4": INNER + CANCELLED,
        "5": "srun: error: Task 0: Killed\n",
        "6": None,
        "7": CANCELLED,
    }
    submitted(cluster, jobs)
    submitted(cluster, {"8": INNER + INNER}, run="rank_other", began="2026-11-22T090000")
    script(cluster, "squeue", 'echo "7|RUNNING"')
    states = {job: "COMPLETED" if job in "12" else "FAILED" for job in jobs}
    assert asked_by_plugin(plugin.query_job_status_squeue) == states | {"7": "RUNNING"}


def test_a_job_that_is_submitted_while_squeue_answers_has_not_failed(cluster):
    submitted(cluster, {})
    (log,) = (cluster / ".snakemake/log").iterdir()
    line = "Job 5 has been submitted with SLURM jobid 9 (log: 9.log)."
    script(cluster, "squeue", f'echo "{line}" >> {log}')
    assert asked_by_plugin(plugin.query_job_status_squeue) == {}


def test_other_calls_are_those_of_the_real_commands(cluster):
    script(cluster, "sacct", 'echo "$*"; exit 3')
    run = subprocess.run(["sacct", "-j", "7.0", "--format=Reason"], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("-j 7.0 --format=Reason\n", 3)


def test_a_command_that_slurm_lacks_is_named(cluster, monkeypatch):
    monkeypatch.setenv("PATH", f"{BIN}:{Path(sys.executable).parent}:/nowhere")
    run = subprocess.run([BIN / "sacct", "-j", "7.0"], capture_output=True, text=True)
    assert (run.stderr, run.returncode) == ("sacct: command not found\n", 1)
