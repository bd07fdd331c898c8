"""A whole study under the profile `slurm`, with jobs cancelled at random and a controller that dies."""

import random
import time

import pytest

from cluster import PATIENCE, ROOT, assert_same, log_of, sh, tables, toy_tables

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
SEEDS = (0, 1)
CANCELLATIONS = 5  # fewer than the profile's attempts at a job, in case chance hits one job alone


def test_a_study_ends_as_if_undisturbed_after_its_controller_was_killed_and_jobs_were_cancelled(
    undisturbed, control, tmp_path
):
    targets = [*toy_tables(), *tables(SEEDS)]
    controller = control(*targets)
    held = controller.hold(SEEDS)
    controller.kill()
    assert controller.jobs(), "jobs outlive their controller"
    # The two commands that docs/cluster.md gives.
    sh("make", "-C", ROOT, "cancel", f"DIRECTORY={tmp_path}")
    assert not controller.jobs(states="RUNNING,PENDING,COMPLETING")
    again = control(*targets)

    chance, cancelled = random.Random(0), set()
    end = time.monotonic() + 2 * PATIENCE
    while again.process.poll() is None and time.monotonic() < end:
        if len(cancelled) < CANCELLATIONS and (jobs := sorted(set(again.jobs()) - cancelled)):
            cancelled.add(job := chance.choice(jobs))
            sh("scancel", job)
        time.sleep(2)
    assert again.wait(seconds=1) == 0, again.text
    assert len(cancelled) == CANCELLATIONS
    assert all("resumes after step" in log_of(tmp_path, seed) for seed in SEEDS)
    assert "Error in" in again.text
    assert not [seed for seed in SEEDS if f"jobid {held[seed].job} " in again.text]
    assert_same(tmp_path, undisturbed, targets)
