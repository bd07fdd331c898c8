"""A small run, and what tests do with it: train it, interrupt it, damage its files, compare what it leaves."""

import multiprocessing
import os
import time
from pathlib import Path

import pandas as pd
import torch

from rank_increase.ownership import owned
from rank_increase.training import processes
from rank_increase.training.checkpoints import StopRequest
from rank_increase.training.loop import Job, Run
from rank_increase.training.recipe import Recipe
from rank_increase.training.results import finished_metrics

CPU = torch.device("cpu")
MODEL = {"family": "vit", "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "dim_head": 4, "mlp_dim": 8}
PRODUCTS = [(name, layer, f"layer_{layer}.W_{name[0]}", f"layer_{layer}.W_{name[1]}")
            for layer in range(2) for name in ("KQ", "VO")]  # fmt: skip
STEPS = 4  # in an epoch
SETTINGS = {
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "augment": True,
    "snapshots": 3,
}
# Processes come from a server that has torch imported already.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.nn.parallel", "pandas", "pyarrow.parquet", "safetensors.torch", "tqdm"])


def recipe(**change):
    return Recipe(**{**SETTINGS, **change})


# Snapshots after many a step in the middle of an epoch, so that interruptions fall before, between and after them.
LONG = recipe(epochs=40, snapshots=6, snapshots_per_doubling=2)


def job_of(dataset, scratch, recipe):
    return Job(
        dataset=dataset,
        scratch=str(scratch),
        model=MODEL,
        recipe=recipe,
        alpha=0.5,
        seed=3,
        code="code",
        checkpoint_minutes=60,
        pass_size=0,
        threads=1,
        label="run",
        device="cpu",
    )


def train(job, count=1):
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership, count)


class Sole:
    """An ownership that nobody disputes."""

    def check(self):
        pass


def run_of(job, rank=0):
    return Run(job, Sole(), CPU, rank, 1, StopRequest())


def job_path(job):
    return Path(job.scratch)


def results(job):
    """What a run left: metrics but for the speed, and the bytes of every snapshot."""
    snapshots = {path.name: path.read_bytes() for path in sorted((job_path(job) / "snapshots").iterdir())}
    return finished_metrics(job).drop(columns="images_per_second"), snapshots


def assert_same_run(first, second):
    pd.testing.assert_frame_equal(first[0], second[0], check_exact=True)
    assert first[1] == second[1]


def start(job, count=1):
    process = CONTEXT.Process(target=train, args=(job, count))
    process.start()
    return process


def wait_for(condition, process):
    end = time.monotonic() + 300
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


def newest_step(job):
    """Of a checkpoint; 0 if there is none."""
    steps = [int(path.name.split("_")[1]) for path in (job_path(job) / "checkpoints").glob("step_*_*.pt")]
    return max(steps, default=0)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truncate(path):
    """Cut the end off a file where it is: another name of the same file is cut off too."""
    os.truncate(path, path.stat().st_size - 5)


def flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(-7, os.SEEK_END)
        value = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([value ^ 1]))
