"""The controller finishes its study although Slurm was away for a while, or has forgotten jobs that ended."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster import assert_same, log_of, sh, tables, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
SEEDS = FINISHED, CANCELLED = (0, 1)
TARGETS = [path for path in tables(SEEDS) if "metrics" in path]
CONF = Path("/etc/slurm/slurm.conf")
MIN_JOB_AGE = 20  # seconds; above that for which the plugin asks squeue at all, three times that of the profile


@pytest.fixture
def slurmctld():
    """Stops and starts the daemon that all commands of Slurm ask."""

    def stop():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_for(lambda: not answers(), "the end of slurmctld")

    def start():
        sh("/usr/sbin/slurmctld")
        wait_for(answers, "slurmctld")

    def answers():
        return not subprocess.run(["scontrol", "ping"], capture_output=True).returncode

    pid_file = Path(re.search("(?m)^SlurmctldPidFile=(.*)$", CONF.read_text())[1])
    yield stop, start
    if not answers():
        start()


@pytest.fixture
def forgetful():
    """A Slurm that forgets jobs soon after their end."""
    before = CONF.read_text()
    CONF.write_text(re.sub("(?m)^MinJobAge=.*$", f"MinJobAge={MIN_JOB_AGE}", before))
    sh("scontrol", "reconfigure")
    yield
    CONF.write_text(before)
    sh("scontrol", "reconfigure")


def test_jobs_that_end_while_slurm_does_not_answer_are_noticed_later(undisturbed, control, tmp_path, slurmctld):
    controller = control(*TARGETS)
    held = controller.hold(SEEDS)
    stop, start = slurmctld
    stop()
    began = time.monotonic()
    for seed in SEEDS:
        os.kill(held[seed].process, signal.SIGCONT)
    wait_for(lambda: "MinJobAge=None" in controller.text, "a question to Slurm that it did not answer")
    time.sleep(max(0, began + 40 - time.monotonic()))
    start()
    assert controller.wait(300) == 0, controller.text
    assert "Error in" not in controller.text
    assert_same(tmp_path, undisturbed, TARGETS)


def test_jobs_that_slurm_forgot_while_the_controller_was_suspended_are_noticed_later(
    undisturbed, control, tmp_path, forgetful
):
    controller = control(*TARGETS)
    held = controller.hold(SEEDS)
    controller.process.send_signal(signal.SIGSTOP)
    os.kill(held[FINISHED].process, signal.SIGCONT)
    sh("scancel", held[CANCELLED].job)
    wait_for(lambda: not controller.jobs(states="all"), "Slurm to forget the jobs")
    controller.process.send_signal(signal.SIGCONT)
    assert controller.wait(300) == 0, controller.text
    assert controller.text.count("Error in") == 1
    assert f"SLURM-job '{held[CANCELLED].job}' failed" in controller.text
    assert "goes on after step" in log_of(tmp_path, CANCELLED)
    assert_same(tmp_path, undisturbed, TARGETS)
