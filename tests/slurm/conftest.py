import shutil
import subprocess

import pytest

from cluster import ROOT, SEEDS, Controller, command, environment, sh, tables, toy_tables


@pytest.fixture(scope="session")
def slurm():
    """The Slurm that runs here; without one, the tests are skipped."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no Slurm: on Debian, `make test-slurm` as root brings one")
    if "cancel" not in sh("sinfo", "--noheader", "--format=%P").split():
        pytest.skip("this is not the Slurm of tests/slurm/start_slurm.sh")
    yield
    subprocess.run(["scontrol", "update", f"NodeName={sh('hostname', '-s')}", "State=resume"], capture_output=True)


@pytest.fixture
def control(tmp_path):
    """Starts controllers of the study in the test's folder; what they leave is ended with the test."""
    started = []

    def start(*arguments):
        started.append(Controller(tmp_path, *arguments))
        return started[-1]

    yield start
    for controller in started:
        controller.kill()
    if jobs := started[0].jobs(states="all"):
        sh("scancel", *jobs)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a run without Slurm, and so without all that can happen there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    line = command(folder, *toy_tables(), *tables(SEEDS), profile=None)
    run = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder
