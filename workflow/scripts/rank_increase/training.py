"""Training of a vision transformer that can be killed at any moment and goes on where it was."""

import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from rank_increase.batches import Batches
from rank_increase.checkpoints import SIGNALS, Checkpoints, Stopped, StopRequest
from rank_increase.data import DatasetError, array_bytes, check_arrays, open_dataset
from rank_increase.disk import DiskError, writing
from rank_increase.jobs import append_log, progress
from rank_increase.ownership import NotOwner
from rank_increase.snapshots import SnapshotError, check_snapshot, write_snapshot
from rank_increase.tables import SCHEMAS, atomic
from rank_increase.vit import VisionTransformer, scale_initial_weights

TEST_PASS = 512  # test images at a time, unless a pass of the training is smaller
AGREEMENT = 10  # steps after which several processes ask each other whether to save or stop
logger = logging.getLogger("rank_increase")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the keys under `vit.training` in the configuration, explained there."""

    epochs: int
    warmup_epochs: int
    batch_size: int
    learning_rate: float
    augment: bool
    snapshots: int

    def learning_rate_at(self, step, steps):
        """Learning rate of a step, from 0, when an epoch has `steps`: a linear rise, then a cosine down to 0.

        The paper calls it "cyclic learning rate decay with a linear warmup schedule".
        """
        warmup, total = self.warmup_epochs * steps, self.epochs * steps
        if step < warmup:
            return self.learning_rate * ((step + 1) / warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    def snapshot_epochs(self):
        """Epochs after which attention weights are kept, ascending: 0, the last, and others evenly in log(epoch)."""
        wanted = min(self.snapshots, self.epochs + 1)
        chosen = [0, 1] if wanted > 2 else [0]
        while len(chosen) < wanted:  # the first ones would coincide when rounded, and are consecutive instead
            last, left = chosen[-1], wanted - len(chosen)
            ratio = (self.epochs / max(last, 1)) ** (1 / left)
            chosen.append(max(last + 1, round(max(last, 1) * ratio)))
        return chosen


@dataclass(frozen=True)
class Job:
    """A run, as its processes are told of it.

    Parameters
    ----------
    dataset : str
        Folder of a packed dataset.
    scratch : str
        Folder for metrics so far, snapshots and checkpoints; what is there from a killed run is gone on with.
    model : dict
        `patch_size`, `dim`, `depth`, `heads`, `dim_head`, `mlp_dim`.
    recipe : Recipe
    alpha : float
        Init scale, 1 for torch's default initial values.
    seed : int
        Of the initial weights and of the order of the images.
    code : str
        Digest of the code: a checkpoint of other code is not gone on with.
    checkpoint_minutes : float
    pass_size : int
        Images that a device takes at once, 0 for as many as there are.
    threads : int
        Of each process, on the CPU.
    label : str
        For progress and messages.
    log : str, optional
        Where processes other than this one write their log.
    device : str, optional
        Instead of the best there is.
    """

    dataset: str
    scratch: str
    model: dict
    recipe: Recipe
    alpha: float
    seed: int
    code: str
    checkpoint_minutes: float
    pass_size: int
    threads: int
    label: str
    log: str | None = None
    device: str | None = None


def choose_device(rank=0):
    """The best device there is: a CUDA GPU, the one of this rank; Apple's; the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name():
    """What results are computed on, for their provenance."""
    device = choose_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def process_count(gpus, processes):
    """Processes of a run: one for each GPU that it can see of those it has asked for; on the CPU as many as it says.

    Raises
    ------
    RuntimeError
        If it has asked for GPUs, and sees none: on the CPU it would take weeks.
    """
    if not gpus:
        return processes
    if choose_device().type == "cpu":
        raise RuntimeError(
            f"this run asks for {gpus} GPU{'s' * (gpus > 1)} and torch {torch.__version__} sees none: ask for a node"
            " that has them, with a driver that is new enough, or put `gpu: 0` under `vit.hardware` to use the CPU."
        )
    return max(1, min(gpus, torch.cuda.device_count()))


def train(job, ownership, processes=1):
    """Train to the end; the result lies in `job.scratch`, and is found there if the run has been to its end before.

    There, metrics.csv has a row of schema "metrics" for each epoch and grows while it runs, and
    snapshots/epoch_{e}.safetensors the attention weights at `Recipe.snapshot_epochs`.

    Parameters
    ----------
    job : Job
    ownership : ownership.Ownership
        Of `job.scratch`.
    processes : int
        Each takes a share of every batch, on a GPU of its own where there are some. The first alone writes.

    Raises
    ------
    Stopped
        If a signal or the end of a SLURM job comes first; the state is saved.
    NotOwner
        If another process has taken the scratch folder over; nothing has been written since.
    RuntimeError
        If one of several processes fails.
    FloatingPointError
        If the loss is no longer finite; what was measured until then stays.
    DatasetError, ValueError
        If the dataset is damaged or was changed since it was packed, or does not fit the model or the recipe.
    """
    _check_dataset(job)
    if processes == 1:
        _train(job, ownership)
        return
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=1,
        signals_to_handle="SIGHUP,SIGQUIT",  # the launcher would give processes 30 s to save their state
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it prints every traceback three times
    before = {number: signal.signal(number, _pass_on) for number in SIGNALS}
    try:
        elastic_launch(launch, _worker)(job, ownership)
    except ChildFailedError as error:
        raise _failure(job, error.get_first_failure()[1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_dataset(job):
    """Compare the dataset with its manifest, once for all processes; a signal ends this early."""
    label = f"{job.label}: checking {job.dataset}"
    open_dataset(job.dataset)  # names files that are missing
    with StopRequest() as stop, progress(label, array_bytes(job.dataset)) as advance:

        def advance_or_stop(done):
            advance(done)
            if stop.received:
                raise Stopped(f"{label}: received {stop.received}; the same command goes on with the run.")

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
            " (`mem_mb`); the same command goes on from the last saved state."
        )
    message = failure.message  # a dict if the process could still say what it was
    if not isinstance(message, dict):
        return RuntimeError(f"{job.label}: {message}")
    kind, _, text = message["message"].removeprefix("_Ended: ").partition(": ")
    expected = (Stopped, NotOwner, FloatingPointError, DatasetError, DiskError, ValueError)
    for exception in expected:
        if kind == exception.__name__:
            return exception(text)
    logger.error("%s", message["extraInfo"]["py_callstack"])
    return RuntimeError(f"{job.label}: {message['message']}")


class _Ended(Exception):
    """What the launcher is told instead of a SystemExit, from which it would learn nothing."""


@record  # so that the launcher knows what went wrong
def _worker(job, ownership):
    try:
        _train(job, ownership)
    except (Stopped, NotOwner) as ended:
        raise _Ended(f"{type(ended).__name__}: {ended}") from ended


def _train(job, ownership):
    """One of the processes of a run."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(job.device) if job.device else choose_device(rank)
    torch.set_num_threads(job.threads)
    if processes > 1:
        if rank == 0 and job.log:
            append_log(job.log)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Signals and checkpoints are agreed on through gloo: that does not wait for the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        with StopRequest() as stop:
            _Run(job, ownership, device, rank, processes, stop).to_the_end()
    finally:
        if processes > 1:
            dist.destroy_process_group()


class _Run:
    """State of a run in one process: model, optimizer, and what has been measured."""

    def __init__(self, job, ownership, device, rank, processes, stop):
        self.job, self.recipe, self.device, self.stop = job, job.recipe, device, stop
        self.ownership = ownership
        self.processes, self.first = processes, rank == 0
        dataset = open_dataset(job.dataset)
        side, width, channels = dataset.manifest["shape"]
        if side != width:
            raise ValueError(f"{job.dataset} has images of {side} x {width} pixels, the model takes square ones.")
        torch.manual_seed(job.seed)  # on the CPU, so that a seed gives the same weights on every device
        model = VisionTransformer(
            image_size=side, channels=channels, classes=len(dataset.manifest["classes"]), **job.model
        )
        scale_initial_weights(model, job.alpha)
        self.model = model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.recipe.learning_rate, fused=True)
        self.batches = Batches(
            dataset,
            device,
            batch_size=self.recipe.batch_size,
            seed=job.seed,
            augment=self.recipe.augment,
            rank=rank,
            processes=processes,
        )
        self.step, self.rows, self.saved = 0, [], time.monotonic()
        # Sum of the loss and number of right answers in this epoch, of this process.
        self.totals = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        key = [dataset.digest, job.model, self.recipe, job.alpha, job.seed, job.code]
        self.checkpoints = Checkpoints(Path(job.scratch) / "checkpoints", repr(key), ownership.check)
        self._resume()
        self.forward = self.model
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            self.model.compile()
        if processes > 1:
            self.forward = DistributedDataParallel(self.model)

    def _resume(self):
        state = self._saved_state() if self.first else None
        if self.processes > 1:  # one reads and deletes; the others are given what it found
            states = [state]
            dist.broadcast_object_list(states, device=torch.device("cpu"))
            state = states[0]
        if state is None:
            if self.first:  # what is there is of another run
                (Path(self.job.scratch) / "metrics.csv").unlink(missing_ok=True)
                shutil.rmtree(Path(self.job.scratch) / "snapshots", ignore_errors=True)
            return
        self.step, self.rows = state["step"], state["rows"]
        self._write_metrics()
        if self.step == self._last_step:
            logger.info("%s: was trained to the end before", self.job.label)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.first:
            self.totals += state["totals"].to(self.totals)
            logger.info("%s: goes on after step %d of %d", self.job.label, self.step, self._last_step)

    def _saved_state(self):
        """The state to resume from, or None: the newest whose snapshots so far are whole, lest the run ends without."""
        return self.checkpoints.load(self._has_whole_snapshots)

    def _has_whole_snapshots(self, state):
        done = [epoch for epoch in self.recipe.snapshot_epochs() if epoch * self.batches.steps <= state["step"]]
        try:
            for epoch in done:
                check_snapshot(snapshot_path(self.job.scratch, epoch))
        except SnapshotError as error:
            message = "%s: cannot resume after step %d, because snapshots are missing or damaged: %s"
            logger.warning(message, self.job.label, state["step"], error)
            return False
        return True

    @property
    def _last_step(self):
        return self.recipe.epochs * self.batches.steps

    def to_the_end(self):
        """Train the remaining epochs."""
        snapshots = self.recipe.snapshot_epochs()
        if self.step == 0:
            self._keep_snapshot(0)
        with progress(self.job.label, self._last_step, self.step) if self.first else nullcontext() as advance:
            for epoch in range(self.step // self.batches.steps + 1, self.recipe.epochs + 1):
                row = self._epoch(epoch, advance)
                self._check_finite(row["train_loss"], row["test_loss"])
                self.rows.append(row)
                self.totals.zero_()
                self._write_metrics()
                if epoch in snapshots:
                    self._keep_snapshot(epoch)
                self._save_or_stop(last=epoch == self.recipe.epochs)

    def _epoch(self, epoch, advance):
        """Train an epoch, or what is left of it; returns its row of schema "metrics"."""
        steps = self.batches.steps
        first_step, start = self.step - (epoch - 1) * steps, time.perf_counter()
        self.model.train()
        for images, labels in self.batches.train(epoch, first_step):
            learning_rate = self.recipe.learning_rate_at(self.step, steps)
            self._update(images, labels, learning_rate)
            self.step += 1
            if self.first:
                advance(self.step, self._note(epoch, first_step, start))
            if self.step % steps:
                self._save_or_stop()
        # Reading the totals waits for the device, so that the time is the computation's.
        loss, right = (self._summed(self.totals) / (steps * self.recipe.batch_size)).tolist()
        seconds = time.perf_counter() - start
        test_loss, test_right = self._test()
        return {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": learning_rate,
            "train_loss": loss,
            "train_accuracy": right,
            "test_loss": test_loss,
            "test_accuracy": test_right,
            "images_per_second": (steps - first_step) * self.recipe.batch_size / seconds,
        }

    def _update(self, images, labels, learning_rate):
        """One step of Adam on the mean loss of the batch, in passes of at most `pass_size` images."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        size = self.job.pass_size or len(labels)
        for begin in range(0, len(labels), size):
            last = begin + size >= len(labels)
            with nullcontext() if last or self.processes == 1 else self.forward.no_sync():
                loss = self._forward(images[begin : begin + size], labels[begin : begin + size])
                # DDP averages gradients over the processes: times their number, it is the sum over the batch.
                (loss * (self.processes / self.recipe.batch_size)).backward()
        self.optimizer.step()

    def _forward(self, images, labels):
        """Sum of the loss over these images, which are added to the totals."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.forward(self.batches.normalised(images))
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        with torch.no_grad():
            self.totals += torch.stack([loss.detach(), (logits.argmax(dim=1) == labels).sum()]).to(self.totals.dtype)
        return loss

    def _test(self):
        """Mean loss and accuracy on the test split."""
        of_training, self.totals = self.totals, torch.zeros_like(self.totals)
        self.model.eval()
        with torch.no_grad():
            for images, labels in self.batches.test(min(self.job.pass_size or TEST_PASS, TEST_PASS)):
                self._forward(images, labels)
        totals, self.totals = self.totals, of_training
        return (self._summed(totals) / self.batches.test_count).tolist()

    def _summed(self, totals):
        """A copy of these totals, summed over the processes."""
        totals = totals.clone()
        if self.processes > 1:
            dist.all_reduce(totals)
        return totals.cpu()

    def _note(self, epoch, first_step, start):
        """What to say of the current epoch, as a function: asking waits for the device."""

        def note():
            steps = self.batches.steps
            seen = (self.step - (epoch - 1) * steps) * self.recipe.batch_size / self.processes
            trained = (self.step - (epoch - 1) * steps - first_step) * self.recipe.batch_size
            loss, right = (self.totals.cpu() / seen).tolist()
            rate = trained / (time.perf_counter() - start)
            return f"epoch {epoch}, loss {loss:.3f}, accuracy {100 * right:.1f} %, {rate:.0f} images/s"

        return note

    def _check_finite(self, *losses):
        if not all(map(math.isfinite, losses)):
            raise FloatingPointError(
                f"{self.job.label}: the loss is not finite by step {self.step}, so the run ends here: try a lower"
                f" `learning_rate` or a longer warm-up. What was measured before is in {self.job.scratch}."
            )

    def _write_metrics(self):
        if self.first:
            with atomic(Path(self.job.scratch) / "metrics.csv") as temporary:
                pd.DataFrame(self.rows, columns=SCHEMAS["metrics"].names).to_csv(temporary, index=False)
                self.ownership.check()

    def _keep_snapshot(self, epoch):
        if not self.first:
            return
        tensors = {
            f"layer_{layer}.{name}": weight.numpy()
            for layer, weights in enumerate(self.model.attention_weights())
            for name, weight in weights.items()
        }
        with atomic(snapshot_path(self.job.scratch, epoch)) as temporary:
            write_snapshot(temporary, tensors)
            _flush(temporary)
            self.ownership.check()

    def _save_or_stop(self, last=False):
        """Save the state if it is time, or if the run is to end now."""
        reason = self.stop.reason
        due = time.monotonic() - self.saved > 60 * self.job.checkpoint_minutes
        if self.processes > 1:
            if self.step % AGREEMENT and self.step % self.batches.steps:
                return
            wishes = torch.tensor([bool(reason), due and self.first], dtype=torch.int32)
            dist.all_reduce(wishes)
            reason = reason or ("another process has to stop" if wishes[0] else None)
            due = bool(wishes[1])
        if not (reason or due or last):
            return
        self.saved = time.monotonic()
        totals = self._summed(self.totals)
        if self.first:
            self._check_finite(float(totals[0]))  # a state that is lost already must not replace a good one
            self._save(totals, must=bool(reason))
        if reason and not last:
            message = (
                f"{self.job.label}: {reason}; the state after step {self.step} of {self._last_step} is saved, and the"
                " same command goes on from there."
            )
            logger.warning(message)
            raise Stopped(message)

    def _save(self, totals, must):
        state = {"step": self.step, "rows": self.rows}
        if self.step < self._last_step:  # else nobody needs the weights again
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "totals": totals}
        try:
            self.checkpoints.save(self.step, state)
        except OSError as error:
            self.ownership.check()
            if must:
                raise
            logger.warning("%s: the state could not be saved, training goes on: %s", self.job.label, error)


def snapshot_path(folder, epoch):
    """Where the snapshot of an epoch lies in the scratch folder of a run."""
    return Path(folder) / "snapshots" / f"epoch_{epoch}.safetensors"


def _flush(path):
    """Wait until a file is on the disk, so that no power cut leaves half of it behind a newer checkpoint."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def finished_metrics(job):
    """Rows of schema "metrics" of a run that is done."""
    return pd.read_csv(Path(job.scratch) / "metrics.csv")


def publish_snapshots(job, ownership, folder):
    """Put the snapshots of a run that is done into `folder`, all or none, whatever is there.

    They are links to those in the scratch folder, which take no room, or copies if that is on another file system.

    Raises
    ------
    SnapshotError
        If one is missing or damaged; nothing is published.
    NotOwner
        If another process has taken the scratch folder over.
    """
    folder = Path(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{ownership.owner.token}.{part}") for part in ("new", "old"))
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            for epoch in job.recipe.snapshot_epochs():
                source = snapshot_path(job.scratch, epoch)
                try:
                    check_snapshot(source)
                except SnapshotError as error:
                    raise SnapshotError(
                        f"{error}: run the same command again, to train again from before it."
                    ) from error
                try:
                    os.link(source, temporary / source.name)
                except OSError:
                    shutil.copy2(source, temporary)
        ownership.check()
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def forget_weights(job):
    """Delete what only an unfinished run needs, and keep what it takes to publish this one again."""
    checkpoints = sorted((Path(job.scratch) / "checkpoints").glob("step_*.pt"))
    for path in checkpoints[:-1]:
        path.unlink(missing_ok=True)
