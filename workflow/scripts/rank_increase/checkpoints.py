"""State of a run on disk, so that it goes on where it was killed, and the signals that announce that."""

import logging
import os
import shutil
import signal
import time
from hashlib import sha256
from pathlib import Path

import torch

from rank_increase.data import file_sha256
from rank_increase.disk import writing

KEPT = 2  # checkpoints
MARGIN = 120.0  # seconds before the end of a SLURM job at which it stops by itself
SIGNALS = (signal.SIGURG, signal.SIGTERM, signal.SIGINT)  # URG: the only one that Snakemake's SLURM jobs live through
logger = logging.getLogger("rank_increase")


class Stopped(SystemExit):
    """A run that has saved its state and ends before its time; Snakemake sees a failed job, and may try again."""


class Checkpoints:
    """The last states of a run, in a folder of their own.

    A file's name ends with the beginning of its SHA-256, so that a damaged one is known.

    Parameters
    ----------
    folder : str
    key : str
        What the run depends on: the states of another key are of no use, and deleted.
    check : callable
        Called before a file is put in place or deleted; raises an exception to keep that from happening.
    """

    def __init__(self, folder, key, check):
        self.folder, self._key, self._check = Path(folder), sha256(key.encode()).hexdigest(), check

    def save(self, step, state):
        """Write `state`, a dict of tensors and plain values, and delete all but the newest `KEPT`.

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
                    torch.save({"key": self._key, **state}, file)
                    file.flush()
                    os.fsync(file.fileno())
            name = f"step_{step:010d}_{file_sha256(temporary)[:16]}.pt"
            self._check()
            os.replace(temporary, self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self, usable=lambda state: True):
        """The newest state that is whole and usable, or None; nothing but tensors and values is unpickled.

        Tensors are on the CPU. States that are damaged, or that `usable`, a function of a state, rejects, are deleted.
        """
        self._check()
        for left in self.folder.glob(".*.partial"):
            left.unlink(missing_ok=True)
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


class StopRequest:
    """Whether somebody wants this process to end: a signal, or the end of the SLURM job it is in.

    To be used as a context, in the main thread: a signal is noted within it, and a second SIGINT interrupts at once.
    """

    def __init__(self):
        self.received = None  # name of the last signal
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        self._deadline = int(end) - MARGIN if end.isdigit() else float("inf")

    def __enter__(self):
        """Begin to note signals."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        """Give signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        self.received = signal.Signals(number).name

    @property
    def reason(self):
        """Why to stop, for a sentence, or None."""
        if self.received:
            return f"received {self.received}"
        return "the SLURM job is about to end" if time.time() > self._deadline else None
