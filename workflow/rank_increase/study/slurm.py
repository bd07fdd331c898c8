"""What jobs and controllers ask of Slurm."""

import logging
import os
import re
import subprocess
import sys

logger = logging.getLogger("rank_increase")


def prefer_commands(folder):
    """Put the commands in a folder, and the Python that runs them, first on the PATH of this process."""
    os.environ["PATH"] = os.pathsep.join([folder, os.path.dirname(sys.executable), os.environ["PATH"]])


def requeue_if_preempted():
    """Put the SLURM job of this process back into the queue if it has to make room for another job.

    Slurm does so by itself in partitions with PreemptMode=REQUEUE. Where PreemptMode is CANCEL it does not, and
    Snakemake would wait for ever: it takes every preempted job for one that comes back. Nothing happens outside of
    Slurm, and to a job that somebody has cancelled.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    try:
        shown = _scontrol("show", "job", job)
        if re.search(r"\bPreemptTime=\d", shown):
            _scontrol("requeue", job)
            logger.info("preempted, and back in the queue as SLURM job %s", job)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("could not ask Slurm whether this job was preempted: %s", error)


def _scontrol(*arguments):
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
