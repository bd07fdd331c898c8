import shutil
import subprocess

import pytest
from cluster import ROOT, SEEDS, command, environment, sh, tables, toy_tables


@pytest.fixture(scope="session")
def slurm():
    """The Slurm that runs here; without one, the tests are skipped."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no Slurm: on Debian, `make test-slurm` as root brings one")
    if "cancel" not in sh("sinfo", "--noheader", "--format=%P").split():
        pytest.skip("this is not the Slurm of tests/slurm/start_slurm.sh")
    yield
    sh("scancel", "--user=root")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a run without Slurm, and so without all that can happen there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    line = command(folder, *toy_tables(), *tables(SEEDS), profile=None)
    run = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder
