"""The training loop of a run in one process; it can be killed at any time, and resumes from its checkpoint."""

import logging
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from rank_increase.data.batches import Batches
from rank_increase.data.packed import open_dataset
from rank_increase.jobs import progress
from rank_increase.registry import find
from rank_increase.tables import SCHEMAS, atomic
from rank_increase.training.checkpoints import Checkpoints, Stopped
from rank_increase.training.compiling import compile_model
from rank_increase.training.recipe import Recipe
from rank_increase.training.snapshots import SnapshotError, check_snapshot, snapshot_path, write_snapshot

TEST_PASS = 512  # test samples per pass, unless the training passes are smaller
COMPILED = {"cuda"}  # devices for which models are compiled; on a CPU that takes longer than a small run
AGREEMENT = 10  # steps between agreements of several processes on whether to save or stop
logger = logging.getLogger("rank_increase")


@dataclass(frozen=True)
class Job:
    """Settings of a run, passed to each of its processes.

    Parameters
    ----------
    dataset : str
        Folder of a packed dataset.
    scratch : str
        Folder for metrics so far, snapshots and checkpoints; an interrupted run resumes from them.
    model : dict
        Its `family` and options.
    recipe : Recipe
    alpha : float
        Init scale, 1 for torch's default initial values.
    seed : int
        Seed of the initial weights and of the order of the samples.
    code : str
        Digest of the code: a run does not resume from a checkpoint of other code.
    checkpoint_minutes : float
    pass_size : int
        Samples that a device processes at once; 0 for no limit.
    threads : int
        Threads of each process, on the CPU.
    label : str
        Name of the run in progress and messages.
    extensions : tuple of str
        Python files that may register what is chosen by name.
    log : str, optional
        Log file of the other processes.
    device : str, optional
        Device to use; the best available if not given.
    compiled : str, optional
        Folder for compiled code that runs share; torch's own if not given.
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
    extensions: tuple = ()
    log: str | None = None
    device: str | None = None
    compiled: str | None = None


def initial_model(manifest, model, alpha, seed, extensions=()):
    """A model before its first step, on the CPU.

    Parameters
    ----------
    manifest : dict
        Of its dataset.
    model : dict
        Its `family` and options.
    alpha : float
        Init scale.
    seed : int
        Weights are drawn on the CPU, so that a seed gives the same ones for every device.
    extensions : tuple of str
    """
    make = find("model", model["family"], extensions).load()
    torch.manual_seed(seed)
    made = make(manifest["shape"], len(manifest["classes"]), **_options(model, "family"))
    made.scale_initial_weights(alpha)
    return made


class Run:
    """State of a run in one process: model, optimizer, and what has been measured."""

    def __init__(self, job, ownership, device, rank, processes, stop):
        self.job, self.recipe, self.device, self.stop = job, job.recipe, device, stop
        self.ownership = ownership
        self.processes, self.first = processes, rank == 0
        dataset = open_dataset(job.dataset)
        chosen = {"loss": job.recipe.loss["name"], "optimizer": job.recipe.optimizer["name"]}
        found = {kind: find(kind, name, job.extensions).load() for kind, name in chosen.items()}
        self.model = initial_model(dataset.manifest, job.model, job.alpha, job.seed, job.extensions).to(device)
        self.loss = partial(found["loss"], **_options(job.recipe.loss))
        parameters, options = self.model.parameters(), _options(job.recipe.optimizer)
        self.optimizer = found["optimizer"](parameters, self.recipe.learning_rate, **options)
        self.batches = Batches(
            dataset,
            device,
            batch_size=self.recipe.batch_size,
            seed=job.seed,
            augment=self.recipe.augment,
            train_samples=self.recipe.train_samples,
            test_samples=self.recipe.test_samples,
            shuffled_labels=self.recipe.shuffled_labels,
            rank=rank,
            processes=processes,
        )
        self.step, self.rows, self.saved = 0, [], time.monotonic()
        self.snapshot_steps = self.recipe.snapshot_steps(self.batches.steps)
        # Sum of the loss and number of correct answers of this process in this epoch.
        self.totals = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        key = [dataset.digest, job.model, self.recipe, job.alpha, job.seed, job.code]
        self.checkpoints = Checkpoints(Path(job.scratch) / "checkpoints", repr(key), ownership.check)
        self._resume()
        self.forward = self.model
        self.is_compiled = device.type in COMPILED and compile_model(self.model, device, job.compiled)
        if processes > 1:
            self.forward = DistributedDataParallel(self.model)

    def _resume(self):
        state = self._saved_state() if self.first else None
        if self.first:
            for left in (*Path(self.job.scratch).glob(".*"), *Path(self.job.scratch).glob("snapshots/.*")):
                left.unlink(missing_ok=True)  # half written by a process that was killed
        if self.processes > 1:  # one process reads and deletes; the others receive what it found
            states = [state]
            dist.broadcast_object_list(states, device=torch.device("cpu"))
            state = states[0]
        if state is None:
            if self.first:  # the files there belong to another run
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
            logger.info("%s: resumes after step %d of %d", self.job.label, self.step, self._last_step)

    def _saved_state(self):
        """The state to resume from, or None: the newest with all its snapshots intact, which the finished run needs."""
        return self.checkpoints.load(self._has_whole_snapshots)

    def _has_whole_snapshots(self, state):
        try:
            for step in self.snapshot_steps:
                if step <= state["step"]:
                    check_snapshot(snapshot_path(Path(self.job.scratch) / "snapshots", step))
        except SnapshotError as error:
            message = "%s: cannot resume after step %d, because snapshots are missing or damaged: %s"
            logger.warning(message, self.job.label, state["step"], error)
            return False
        return True

    @property
    def _last_step(self):
        return self.recipe.epochs * self.batches.steps

    def fit(self):
        """Train the remaining epochs."""
        if self.step == 0:
            self._keep_snapshot()
        with progress(self.job.label, self._last_step, self.step) if self.first else nullcontext() as advance:
            for epoch in range(self.step // self.batches.steps + 1, self.recipe.epochs + 1):
                row = self._epoch(epoch, advance)
                self._check_finite(row["train_loss"], row["test_loss"])
                self.rows.append(row)
                self.totals.zero_()
                self._write_metrics()
                self._keep_snapshot()
                self._save_or_stop(last=epoch == self.recipe.epochs)

    def _epoch(self, epoch, advance):
        """Train an epoch, or the rest of it; return its row of schema "metrics"."""
        steps = self.batches.steps
        first_step, start = self.step - (epoch - 1) * steps, time.perf_counter()
        self.model.train()
        for samples, labels in self.batches.train(epoch, first_step):
            learning_rate = self.recipe.learning_rate_at(self.step, steps)
            self.update(samples, labels, learning_rate)
            self.step += 1
            if self.first:
                advance(self.step, self._note(epoch, first_step, start))
            if self.step % steps:
                self._keep_snapshot()
                self._save_or_stop()
        # Reading the totals waits for the device, so the time includes all computation.
        loss, right = (self._summed(self.totals) / (steps * self.recipe.batch_size)).tolist()
        seconds = time.perf_counter() - start
        test_loss, test_right = self.test()
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

    def update(self, samples, labels, learning_rate):
        """One step on the mean loss of the batch, in passes of at most `pass_size` samples."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        size = self.job.pass_size or len(labels)
        for begin in range(0, len(labels), size):
            last = begin + size >= len(labels)
            with nullcontext() if last or self.processes == 1 else self.forward.no_sync():
                loss = self._forward(samples[begin : begin + size], labels[begin : begin + size])
                # DDP averages gradients over the processes; times their number, this is the sum over the batch.
                (loss * (self.processes / self.recipe.batch_size)).backward()
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()

    def _forward(self, samples, labels):
        """Sum of the loss over these samples, of its mean over the positions of each; adds them to the totals."""
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.is_mixed(kind)):
            logits = self.forward(self.batches.inputs(samples))
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"the model gives outputs of shape {tuple(logits.shape[1:])} for a sample, which do not fit labels of"
                f" shape {tuple(labels.shape[1:])}: choose a model that predicts what the dataset labels."
            )
        loss = self.loss(logits, labels)
        with torch.no_grad():
            right = (logits.argmax(dim=-1) == labels).sum() / labels.shape[1:].numel()
            self.totals += torch.stack([loss.detach(), right]).to(self.totals.dtype)
        return loss

    def test(self):
        """Mean loss and accuracy on the test split."""
        of_training, self.totals = self.totals, torch.zeros_like(self.totals)
        self.model.eval()
        with torch.no_grad():
            for samples, labels in self.batches.test(min(self.job.pass_size or TEST_PASS, TEST_PASS)):
                self._forward(samples, labels)
        totals, self.totals = self.totals, of_training
        return (self._summed(totals) / self.batches.test_count).tolist()

    def _summed(self, totals):
        """A copy of these totals, summed over the processes."""
        totals = totals.clone()
        if self.processes > 1:
            dist.all_reduce(totals)
        return totals.cpu()

    def _note(self, epoch, first_step, start):
        """A function that describes the current epoch; calling it waits for the device."""

        def note():
            steps = self.batches.steps
            seen = (self.step - (epoch - 1) * steps) * self.recipe.batch_size / self.processes
            trained = (self.step - (epoch - 1) * steps - first_step) * self.recipe.batch_size
            loss, right = (self.totals.cpu() / seen).tolist()
            rate = trained / (time.perf_counter() - start)
            return f"epoch {epoch}, loss {loss:.3f}, accuracy {100 * right:.1f} %, {rate:.0f} samples/s"

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

    def _keep_snapshot(self):
        """Write a snapshot, if this step has one."""
        if not self.first or self.step not in self.snapshot_steps:
            return
        weights = {name: weight.float().cpu().numpy() for name, weight in self.model.weights().items()}
        with atomic(snapshot_path(Path(self.job.scratch) / "snapshots", self.step)) as temporary:
            epoch = self.step / self.batches.steps
            matrices = self.model.matrices() if hasattr(self.model, "matrices") else ()
            write_snapshot(temporary, weights, self.model.products(), matrices, step=self.step, epoch=epoch)
            _flush(temporary)
            self.ownership.check()

    def _save_or_stop(self, last=False):
        """Save the state if it is time for it, or if the run must end now."""
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
            self._check_finite(float(totals[0]))  # a diverged state must not replace a good one
            self._save(totals, must=bool(reason))
        if reason and not last:
            message = (
                f"{self.job.label}: {reason}; the state after step {self.step} of {self._last_step} is saved, and the"
                " same command resumes there."
            )
            logger.warning(message)
            raise Stopped(message)

    def _save(self, totals, must):
        state = {"step": self.step, "rows": self.rows}
        if self.step < self._last_step:  # otherwise the weights are not needed again
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "totals": totals}
        try:
            self.checkpoints.save(self.step, state)
        except OSError as error:
            self.ownership.check()
            if must:
                raise
            logger.warning("%s: the state could not be saved, training continues: %s", self.job.label, error)


def _options(chosen, key="name"):
    return {name: value for name, value in chosen.items() if name != key}


def _flush(path):
    """Wait until a file is on the disk, so that a power cut cannot leave half of it beside a newer checkpoint."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
