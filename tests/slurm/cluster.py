"""A study that is run under the Slurm of this machine, and what can be done to its jobs."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from rank_increase.tables import read_table

ROOT = Path(__file__).parents[2]
CONFIGS = (ROOT / "tests/data/tiny.yaml", Path(__file__).with_name("study.yaml"))
SEEDS = range(6)
TABLES = ("metrics", "spectra")
PATIENCE = 300  # seconds for what takes a few on an idle machine


def sh(*command):
    """Output of a command, which must succeed."""
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, (command, run.stdout, run.stderr)
    return run.stdout.strip()


def wait_for(condition, what, seconds=PATIENCE):
    """What `condition()` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"in vain: {what}\n{sh('squeue', '--states=all')}"
        time.sleep(0.3)
    return value


def command(folder, *arguments, profile="slurm", configs=CONFIGS):
    """A call of Snakemake for the study, with results in `folder`; local where `profile` is None."""
    line = [sys.executable, "-m", "snakemake", *arguments, "--directory", folder]
    line += ["--profile", profile] if profile else ["--cores", "2"]
    return [str(part) for part in [*line, "--configfile", *configs]]


class Controller:
    """A call of Snakemake in the background; its output is in `log`."""

    def __init__(self, folder, *arguments, **options):
        self.folder, self.log = folder, folder / "controller.log"
        with open(self.log, "w") as log:
            line = command(folder, *arguments, **options)
            # In a session of its own, with SIGINT heeded even where the tests run in the background of a script.
            heed = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
            self.process = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, env=environment(), **heed)

    @property
    def text(self):
        return self.log.read_text()

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def wait(self, seconds=4 * PATIENCE):
        """Exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.text}\n{sh('squeue', '--states=all')}") from None

    def jobs(self, seed=None, states="RUNNING"):
        """Numbers of the Slurm jobs that were submitted from this folder: all, or those that train this seed."""
        wanted = rf"train_network\S*digits_1_{seed}$" if seed is not None else ""
        found = sh("squeue", "--noheader", f"--states={states}", "--format=%A|%Z|%k").splitlines()
        found = [line.split("|") for line in found]
        return [job for job, place, comment in found if place == str(self.folder) and re.search(wanted, comment)]

    def hold(self, seeds):
        """Stop the processes that train these seeds amid their work; returns a dict of seed to `Held`."""
        held = {}

        def all_held():
            assert self.process.poll() is None, self.text
            for seed in set(seeds) - set(held):
                metrics = self.folder / f"results/slurm/scratch/networks/digits/alpha_1/seed_{seed}/metrics.csv"
                if metrics.exists() and (jobs := self.jobs(seed)) and (process := process_of(jobs[0])):
                    os.kill(process, signal.SIGSTOP)
                    held[seed] = Held(jobs[0], process)
            return len(held) == len(seeds)

        wait_for(all_held, f"training of the seeds {seeds}", 2 * PATIENCE)
        return held


@dataclass
class Held:
    """A Slurm job whose training process is suspended, until any signal from Slurm resumes it."""

    job: str
    process: int


def process_of(job):
    """The process of a Slurm job that trains, or None."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        trains = any(part.endswith(b".train_network.py") for part in arguments)
        if trains and f"SLURM_JOB_ID={job}".encode() in variables:
            return int(folder.name)
    return None


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def tables(seeds):
    """The tables that these runs end with."""
    return [f"results/slurm/networks/digits/alpha_1/seed_{seed}/{name}.parquet" for seed in seeds for name in TABLES]


def toy_tables():
    """Tables of the study's toy half."""
    return [f"results/slurm/tables/{name}.parquet" for name in ("losses", "trajectory", "events", "stages", "theorem")]


def assert_same(folder, undisturbed, paths):
    """All numbers of these tables are the same in both folders, to the last bit, but for the speed."""
    for path in paths:
        found, expected = read_table(folder / path), read_table(undisturbed / path)
        assert len(found)
        speed = [column for column in found if column == "images_per_second"]
        pd.testing.assert_frame_equal(found.drop(columns=speed), expected.drop(columns=speed), check_exact=True)


def end_in(seconds, job):
    """Change when Slurm ends a job, to the nearest half minute in which it looks."""
    end = datetime.now() + timedelta(seconds=seconds)
    sh("scontrol", "update", f"JobId={job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")


def log_of(folder, seed):
    return (folder / f"results/slurm/logs/train_network/digits_alpha_1_seed_{seed}.log").read_text()


def slurm_log(folder, job):
    """What a Slurm job has printed."""
    (path,) = (folder / ".snakemake/slurm_logs").rglob(f"{job}.log")
    return path.read_text()
