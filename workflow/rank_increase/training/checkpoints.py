"""Checkpoints of a run, from which it resumes, and signals that tell it to stop."""

import logging
import os
import shutil
import signal
import time
from hashlib import sha256
from pathlib import Path

import torch

from rank_increase.data.packed import file_sha256
from rank_increase.disk import writing

KEPT = 2  # checkpoints
MARGIN = 120.0  # seconds before the end of a SLURM job at which a run stops by itself
SIGNALS = (signal.SIGURG, signal.SIGTERM, signal.SIGINT)  # URG is the only one that Snakemake's SLURM jobs survive
logger = logging.getLogger("rank_increase")


class Stopped(SystemExit):
    """A run has saved a checkpoint and ends early; Snakemake sees a failed job, and may retry it."""


class Checkpoints:
    """The latest states of a run, in a folder of their own.

    The name of a file ends with the first digits of its SHA-256, so that damage is detected.

    Parameters
    ----------
    folder : str
    key : str
        Digest of everything that the run depends on; states with another key are useless, and deleted.
    check : callable
        Called before a file is put in place or deleted; raises an exception to prevent it.
    """

    def __init__(self, folder, key, check):
        self.folder, self._key, self._check = Path(folder), sha256(key.encode()).hexdigest(), check

    def save(self, step, state):
        """Write `state`, a dict of tensors and plain values, and delete all but the `KEPT` newest states.

        Raises
        ------
        DiskError
            If the disk is full or cannot be written to.
        """
        temporary = self.folder / f".{os.getpid()}.partial"
        try:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(temporary, "wb") as file:
                    hashed = _Hashed(file)
                    torch.save({"key": self._key, **state}, hashed)
                    file.flush()
                    os.fsync(file.fileno())
            name = f"step_{step:010d}_{hashed.sha256.hexdigest()[:16]}.pt"
            self._check()
            os.replace(temporary, self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self, usable=lambda state: True):
        """The newest intact and usable state, or None; only tensors and plain values are unpickled.

        Tensors are on the CPU. States that are damaged, or that `usable`, a function of a state, rejects, are deleted.
        """
        self._check()
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        for path in self._newest_first():
            if file_sha256(path)[:16] != path.stem.rsplit("_", 1)[1]:
                logger.warning("checkpoint %s is damaged: going back to the one before", path)
                path.unlink()
                continue
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["key"] != self._key:
                logger.info("settings, data or code have changed since %s: starting from the beginning", path)
                break
            if usable(state):
                return state
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        return None

    def _newest_first(self):
        return sorted(self.folder.glob("step_*_*.pt"), reverse=True)


class _Hashed:
    """A file to append to, hashed as it is written: all processes wait, and reading it back would double the time."""

    def __init__(self, file):
        self._file, self.sha256 = file, sha256()

    def write(self, data):
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self):
        self._file.flush()


class StopRequest:
    """Whether this process should stop: because of a signal, or because its SLURM job is about to end.

    Use it as a context manager in the main thread: signals within are recorded; a second SIGINT interrupts at once.
    """

    def __init__(self):
        self.received = None  # name of the last signal
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        self._deadline = int(end) - MARGIN if end.isdigit() else float("inf")

    def __enter__(self):
        """Start recording signals."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        self.received = signal.Signals(number).name

    @property
    def reason(self):
        """The reason to stop, for messages, or None."""
        if self.received:
            return f"received {self.received}"
        return "the SLURM job is about to end" if time.time() > self._deadline else None
