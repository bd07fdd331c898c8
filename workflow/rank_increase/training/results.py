"""Results of a finished run: its metrics and snapshots, put where the workflow expects them."""

import os
import shutil
from pathlib import Path

import pandas as pd

from rank_increase.disk import writing
from rank_increase.training.snapshots import SnapshotError, check_snapshot, snapshot_path


def finished_metrics(job):
    """Rows of schema "metrics" of a finished run."""
    return pd.read_csv(Path(job.scratch) / "metrics.csv")


def publish_snapshots(job, ownership, folder):
    """Put the snapshots of a finished run into `folder`, all or none, replacing what is there.

    They are hard links to those in the scratch folder, which take no space, or copies on another file system.

    Raises
    ------
    SnapshotError
        If one is missing or damaged; nothing is published.
    NotOwner
        If another process has taken the scratch folder over.
    """
    folder = Path(folder)
    of_epoch = int(finished_metrics(job)["step"].iloc[0])
    with ownership.replacing(folder, folder.parent) as new, writing(folder):
        new.mkdir(parents=True)
        for step in job.recipe.snapshot_steps(of_epoch):
            source = snapshot_path(Path(job.scratch) / "snapshots", step)
            try:
                check_snapshot(source)
            except SnapshotError as error:
                raise SnapshotError(f"{error}: run the same command again, to train again from before it.") from error
            try:
                os.link(source, new / source.name)
            except OSError:
                shutil.copy2(source, new)


def prune_checkpoints(job):
    """Delete the checkpoints of a finished run except the last, which is needed to publish the run again."""
    checkpoints = sorted((Path(job.scratch) / "checkpoints").glob("step_*.pt"))
    for path in checkpoints[:-1]:
        path.unlink(missing_ok=True)
