"""Full disks: real ones, small file systems in memory, with every kind of file that a job writes."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import make_problem
import show_configuration
from rank_increase.checkpoints import Checkpoints
from rank_increase.disk import DiskError, is_full, writing
from rank_increase.ownership import owned
from rank_increase.plotting import save_figure
from rank_increase.tables import SCHEMAS, write_table
from rank_increase.training import _Run
from test_workflow import ROOT, command

PROBLEM = {"samples": 50, "tokens": 5, "dim": 6, "weights": "diagonal", "teacher": "diagonal"}
PROBLEM |= {"teacher_std_KQ": 0.6, "teacher_std_VO": 0.8}


class Disk:
    """A file system in memory, of which a file can take all room but this many bytes."""

    def __init__(self, folder):
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, left=0):
        disk = os.statvfs(self.folder)
        with open(self._filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)

    def make_room(self):
        self._filler.unlink()


def mounted(folder, size):
    folder.mkdir(parents=True)
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if sys.platform != "linux" or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("no permission to mount a file system (the tests of full disks need root on Linux)")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def disk(tmp_path):
    yield from mounted(tmp_path / "disk", "4m")


def table(path):
    rows = {"order": range(30), "product": "KQ", "index": 0, "rescaled_time": 0.5, "direction": 1}
    write_table(path, pd.DataFrame(rows, columns=SCHEMAS["events"].names), "events", {"long": "x" * 20_000})


def figure(path):
    panel = Figure().subplots()
    panel.plot(range(1000))
    save_figure(panel.figure, path, f"{path}.png", dpi=50, provenance={})


def checkpoint(path):
    Checkpoints(path, "key", lambda: None).save(1, {"model": {"weight": torch.zeros(100, 100)}})


def snapshot(path):
    run = SimpleNamespace(
        first=True,
        job=SimpleNamespace(scratch=path),
        model=SimpleNamespace(attention_weights=lambda: [{"W_K": torch.zeros(100, 100)}]),
        ownership=SimpleNamespace(check=lambda: None),
    )
    _Run._keep_snapshot(run, 0)


def claim(path):
    with owned(path, "run"):
        pass


def problem(path):
    make_problem.main(path, 0, PROBLEM)


def page(path):
    show_configuration.main({"key": ["value"] * 5000}, path)


@pytest.mark.parametrize("write", [table, figure, checkpoint, snapshot, claim, problem, page])
@pytest.mark.parametrize("left", [0, 4096])
def test_a_full_disk_is_one_sentence_whatever_is_written(disk, write, left):
    path = disk.folder / "out" / "file"
    if write is claim and left:
        pytest.skip("a claim takes one block")
    disk.fill(left)
    assert is_full(path)
    with pytest.raises(DiskError, match=f"^the disk is full: {path}.* cannot be written$"):
        write(path)
    assert not [path for path in disk.folder.rglob("*") if path.is_file() and path.name != "filler"]
    disk.make_room()
    write(path)
    assert path.exists() and not is_full(path)


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "there is no permission"),
    ],
)
def test_other_disks_that_cannot_be_written_to_are_named_too(tmp_path, number, problem):
    with pytest.raises(DiskError, match=f"^{problem}: x.png cannot be written$"), writing("x.png"):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("wrong"), OSError(errno.ENOENT, "No such file"), DiskError("of another file")):
        with pytest.raises(type(error)) as caught, writing(tmp_path):
            raise error
        assert caught.value is error


def run(folder, *targets):
    """Exit status and output of a run of the study "tiny"."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command(ROOT, folder, *targets), cwd=ROOT, env=environment, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the study "tiny" on a disk of their own; Snakemake keeps its notes on another."""
    yield from mounted(tmp_path_factory.mktemp("run") / "results" / "tiny", "40m")


def failing(results, target):
    """Why a target, whose inputs are there, cannot be made on the full disk: with no block for its log, and with one.

    In place of what Snakemake deletes first, such as an output of an earlier run, the log may find its block anyway.
    """
    folder, path = results.folder.parents[1], results.folder / target
    whys = []
    code, text = run(folder, f"results/tiny/{target}")
    assert code == 0, text
    path.unlink()
    for left in (0, 4096):
        shutil.rmtree(results.folder / "logs")
        results.fill(left)
        code, text = run(folder, f"results/tiny/{target}")
        results.make_room()
        assert code == 1, text
        assert text.count("FAILED: ") == 1 and "Logging error" not in text
        assert "  do:   make room on that disk, and run the same command again\n" in text
        whys += [line for line in text.splitlines() if line.startswith("  why:  ")]
    code, text = run(folder, f"results/tiny/{target}")
    assert code == 0, text
    assert path.exists()
    assert all("is full" in why or "too little disk" in why for why in whys)
    return whys


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("toy/diagonal/seed_99/problem.npz", None),
        pytest.param("toy/diagonal/seed_99/stages.parquet", None, marks=pytest.mark.slow),
        pytest.param("toy/diagonal/alpha_0.01/seed_99/trajectory.parquet", None, marks=pytest.mark.slow),
        pytest.param("datasets/digits/manifest.json", "datasets/digits", marks=pytest.mark.slow),
        pytest.param(
            "vit/digits/alpha_1/seed_0/metrics.parquet", "scratch/vit/digits/alpha_1/seed_0", marks=pytest.mark.slow
        ),
        pytest.param("tables/digits/metrics.parquet", None, marks=pytest.mark.slow),
        pytest.param("tables/trajectory.parquet", None, marks=pytest.mark.slow),
        pytest.param("figures/fig06.png", "figures/fig06.pdf", marks=pytest.mark.slow),
        pytest.param("explorer.html", None, marks=pytest.mark.slow),
    ],
)
def test_a_rule_on_a_full_disk_says_so_and_the_same_command_makes_its_output_once_there_is_room(
    results, target, written
):
    without_log, with_log = failing(results, target)
    assert str(Path(target).parent) in without_log or str(results.folder) in without_log
    assert f"results/tiny/{written or target}" in with_log


def test_a_disk_that_is_full_before_a_run_begins_is_one_sentence(disk):
    disk.fill(8192)
    code, text = run(disk.folder, "results/tiny/toy/diagonal/seed_99/problem.npz")
    assert code == 1
    assert f"the disk of {disk.folder} is full: make room on that disk, and run the same command again.\n" in text
    assert "Traceback" not in text
    disk.make_room()
    assert run(disk.folder, "results/tiny/toy/diagonal/seed_99/problem.npz")[0] == 0
