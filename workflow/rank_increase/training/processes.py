"""The processes of a run: their devices, how they are started, and how a failure is reported."""

import logging
import multiprocessing
import os
import signal
import time

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rank_increase.data.packed import DatasetError, array_bytes, check_arrays, open_dataset
from rank_increase.disk import DiskError
from rank_increase.jobs import append_log, progress
from rank_increase.ownership import NotOwner
from rank_increase.training.checkpoints import SIGNALS, Stopped, StopRequest
from rank_increase.training.loop import Run

logger = logging.getLogger("rank_increase")

EXPECTED = (Stopped, NotOwner, FloatingPointError, DatasetError, DiskError, ValueError)  # passed on as they are
MONITOR_SECONDS = 1  # between two looks of the launcher at its processes


def choose_device(rank=0):
    """The best available device: the CUDA GPU of this rank on its node, Apple's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name():
    """Name of the device, for the provenance of results."""
    device = choose_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def process_count(gpus, processes):
    """Number of processes of a run: one for each visible GPU of those requested; on the CPU, `processes`.

    Raises
    ------
    RuntimeError
        If the run requests GPUs and sees none: on the CPU it would take weeks.
    """
    if not gpus:
        return processes
    if choose_device().type == "cpu":
        raise RuntimeError(
            f"this run asks for {gpus} GPU{'s' * (gpus > 1)} and torch {torch.__version__} sees none: ask for a node"
            " that has them, with a driver that is new enough, or put `gpu: 0` under the network's `hardware`."
        )
    return max(1, min(gpus, torch.cuda.device_count()))


def train(job, ownership, processes=1, nodes=1):
    """Train to the last epoch; the results are in `job.scratch`. Does nothing if the run is finished already.

    There, metrics.csv grows by a row of schema "metrics" in each epoch, and snapshots/step_{s}.safetensors hold the
    weights at `Recipe.snapshot_steps`.

    Parameters
    ----------
    job : Job
    ownership : ownership.Ownership
        Of `job.scratch`.
    processes : int
        Number of processes on each node. Each takes a share of every batch, on its own GPU if there are any. Only the
        first writes.
    nodes : int
        Number of nodes of this SLURM job.

    Raises
    ------
    Stopped
        If a signal, or the end of a SLURM job, comes first; the state is saved.
    NotOwner
        If another process has taken the scratch folder over; nothing has been written since.
    RuntimeError
        If one of several processes fails.
    FloatingPointError
        If the loss is no longer finite; measurements up to then are kept.
    DatasetError, ValueError
        If the dataset is damaged or has changed since it was packed, or does not fit the model or the recipe.
    """
    _check_dataset(job)
    if nodes > 1:
        from rank_increase.training.nodes import train_on_nodes  # which uses this module

        train_on_nodes(job, ownership, processes, nodes)
        return
    if processes == 1:
        _train(job, ownership)
        return
    launch(job, ownership, processes)


def launch(job, ownership, processes, nodes=1, endpoint="localhost:0"):
    """Start `processes` on this node, one of so many whose launchers meet at `endpoint`, and wait for their end."""
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
        signals_to_handle="SIGHUP,SIGQUIT",  # not TERM: the launcher would give processes 30 s to save their state
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it prints every traceback three times
    before = {number: signal.signal(number, _pass_on) for number in SIGNALS}
    try:
        elastic_launch(config, _worker)(job, ownership)
    except ChildFailedError as error:
        raise _failure(job, error.get_first_failure()[1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_dataset(job):
    """Compare the dataset with its manifest, once for all processes; a signal interrupts this."""
    label = f"{job.label}: checking {job.dataset}"
    open_dataset(job.dataset)  # reports missing files
    with StopRequest() as stop, progress(label, array_bytes(job.dataset)) as advance:

        def advance_or_stop(done):
            advance(done)
            if stop.received:
                raise Stopped(f"{label}: received {stop.received}; the same command resumes the run.")

        check_arrays(job.dataset, advance_or_stop)


def _pass_on(number, _frame):
    # On a terminal, Ctrl-C has reached the children already, and a second SIGINT would end them at once.
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)


def _failure(job, failure):
    """The exception for the first of several processes that failed."""
    if failure.exitcode < 0:
        return RuntimeError(
            f"{job.label}: one of its processes was ended by {failure.signal_name()}, as happens when memory runs out"
            " (`mem_mb`); the same command resumes from the last checkpoint."
        )
    message = failure.message  # a dict if the process could still report its error
    if not isinstance(message, dict):
        return RuntimeError(f"{job.label}: {message}")
    kind, _, text = message["message"].removeprefix("_Ended: ").partition(": ")
    for exception in EXPECTED:
        if kind == exception.__name__:
            return exception(text)
    logger.error("%s", message["extraInfo"]["py_callstack"])
    return RuntimeError(f"{job.label}: {message['message']}")


class _Ended(Exception):
    """Passed to the launcher instead of a SystemExit, whose message it would lose."""


@record  # reports errors to the launcher
def _worker(job, ownership):
    try:
        _train(job, ownership)
    except (Stopped, NotOwner) as ended:
        raise _Ended(f"{type(ended).__name__}: {ended}") from ended
    except RuntimeError:
        # If another process was killed, this one has lost the connection to it, and the launcher, which looks once a
        # second and reports one failure, must find the other: it knows why.
        time.sleep(3 * MONITOR_SECONDS)
        raise


def _train(job, ownership):
    """One of the processes of a run."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(job.device) if job.device else choose_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.set_num_threads(job.threads)
    if processes > 1:
        if rank == 0 and job.log:
            append_log(job.log)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Processes agree on signals and checkpoints through gloo, which does not wait for the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        with StopRequest() as stop:
            Run(job, ownership, device, rank, processes, stop).fit()
    finally:
        if processes > 1:
            dist.destroy_process_group()
