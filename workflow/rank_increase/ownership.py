"""Who may write to a folder: one process at a time, even on network file systems without locks.

The owner is the process that created the file owner.N with the highest N. It touches this file every few seconds. Only
one process can create owner.N + 1, and by doing so it takes the folder over. It does so once owner.N has not been
touched for a while, or at once if the owner's process is known to be dead. Clocks of different machines are never
compared. An owner that was suspended in the meantime notices before it puts the next file in place, and stops.
"""

import errno
import json
import logging
import math
import os
import shutil
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rank_increase.disk import writing

BEAT = 5.0  # seconds between heartbeats (touches)
SILENCE = 60.0  # seconds without a heartbeat after which an owner counts as dead; file systems may show one 30 s late
PATIENCE = 300.0  # seconds to wait for a live owner; Slurm gives a job that it ends about as long
POLL = 1.0
logger = logging.getLogger("rank_increase")


class NotOwner(SystemExit):
    """Another process owns the folder; the message is a sentence that names it and says what to do."""


def _machine():
    """The scope in which a process id is unique: one boot of a machine, and one container on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(parts)


@dataclass(frozen=True)
class Owner:
    """What an owner records about itself in its owner.N file."""

    host: str
    pid: int
    job: str | None
    machine: str
    token: str

    @classmethod
    def this_process(cls):
        """Describe this process as an owner, with a new token at every call."""
        return cls(socket.gethostname(), os.getpid(), os.environ.get("SLURM_JOB_ID"), _machine(), uuid.uuid4().hex)

    def __str__(self):
        """For messages."""
        return f"process {self.pid} on {self.host}" + (f" (Slurm job {self.job})" if self.job else "")

    def is_dead(self):
        """Whether its process is known to have ended; False if that cannot be seen from this machine."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


_UNREADABLE = Owner("a host not known yet", 0, None, "", "")  # its file is still being written


def current_owner(folder):
    """The owner of a folder and its last heartbeat: (number, `Owner`, time of the last touch), or None.

    The time is in seconds since 1970 by the clock of the file system.
    """
    while numbers := _numbers(folder):
        try:
            with open(_path(folder, max(numbers))) as file:
                text, beat = file.read(), os.fstat(file.fileno()).st_mtime
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # deleted since it was listed
                continue
            raise
        try:
            return max(numbers), Owner(**json.loads(text)), beat
        except (ValueError, TypeError):
            return max(numbers), _UNREADABLE, beat
    return None


def _path(folder, number):
    return Path(folder) / f"owner.{number}"


def _numbers(folder):
    with suppress(FileNotFoundError):
        names = [name.removeprefix("owner.") for name in os.listdir(folder) if name.startswith("owner.")]
        return [int(name) for name in names if name.isdigit()]
    return []


@dataclass(frozen=True)
class Ownership:
    """The right to write to a folder, valid while `check` passes; may be passed to child processes."""

    folder: str
    number: int
    owner: Owner
    label: str

    def check(self):
        """Raise `NotOwner` if another process has taken the folder over; call this before putting a file in place."""
        found = current_owner(self.folder)
        if found and found[1] == self.owner:
            return
        by = f"{found[1]} has taken the run over" if found else "the run was taken over, and ended, by another process"
        raise NotOwner(
            f"{self.label}: no heartbeat of this process for {SILENCE:.0f} s, and {by}; it stops, and leaves"
            f" {self.folder} as it is."
        )

    @contextmanager
    def replacing(self, folder, workplace):
        """Yield a path, for a new folder that takes the place of `folder` in one step at the end of the `with` block.

        Parameters
        ----------
        folder : pathlib.Path
            May exist; after an error in the block it is as it was.
        workplace : pathlib.Path
            Folder on the same file system, in which the new one is made.

        Raises
        ------
        NotOwner
            If another process has taken over what this process owns.
        """
        new, old = (workplace / f".{folder.name}.{self.owner.token}.{part}" for part in ("new", "old"))
        try:
            yield new
            self.check()
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        finally:
            for leftover in (new, old):
                shutil.rmtree(leftover, ignore_errors=True)

    def _beat(self, done, interval):
        while not done.wait(interval):
            # An error may be temporary. If it is not, a missing heartbeat is the right signal.
            with suppress(OSError, NotOwner):
                self.check()
                os.utime(_path(self.folder, self.number))


@contextmanager
def owned(folder, label, *, patience=PATIENCE, silence=SILENCE, beat=BEAT):
    """Own a folder within a `with` block; creates it if needed and yields an `Ownership`.

    Parameters
    ----------
    folder : str
    label : str
        What the folder belongs to, for messages.
    patience, silence, beat : float
        In seconds: how long to wait for a live owner, how long without a heartbeat until it counts as dead, and the
        interval between heartbeats of this process.

    Raises
    ------
    NotOwner
        If another process owns the folder and is still alive at the end of the wait.
    DiskError
        If the folder cannot be written to.
    """
    done = threading.Event()
    try:
        ownership = _claim(str(folder), label, patience, silence)
        beating = threading.Thread(target=ownership._beat, args=(done, beat), daemon=True)
        beating.start()
        try:
            yield ownership
        finally:
            done.set()
            beating.join(beat)
            with suppress(OSError, NotOwner):
                ownership.check()
                _path(folder, ownership.number).unlink()
    except NotOwner as refused:
        logger.error("%s", refused)  # a SystemExit has no traceback in the log
        raise


def _claim(folder, label, patience, silence):
    mine, start, seen, since, announced = Owner.this_process(), time.monotonic(), None, 0.0, None
    while True:
        with writing(folder):
            os.makedirs(folder, exist_ok=True)
        found, now = current_owner(folder), time.monotonic()
        number, owner, _ = found or (0, None, None)
        if found != seen:
            seen, since = found, now
        if owner and not owner.is_dead() and now - since < silence:
            if now - start > patience:
                raise NotOwner(_busy(label, owner, folder))
            if owner != announced:
                limit = "until it is done" if patience == math.inf else f"{patience:g} s at most"
                logger.info("%s: %s may still be at work; waiting %s", label, owner, limit)
                announced = owner
            time.sleep(min(POLL, silence / 10))
        elif _create(folder, number + 1, mine):
            if owner:
                why = "has ended" if owner.is_dead() else f"has had no heartbeat for {silence:g} s"
                logger.info("%s: %s %s, and this process takes over", label, owner, why)
            for old in _numbers(folder):
                if old <= number:
                    _path(folder, old).unlink(missing_ok=True)
            return Ownership(folder, number + 1, mine, label)


def _create(folder, number, owner):
    path = _path(folder, number)
    try:
        with writing(path), open(path, "x") as file:
            try:
                json.dump(asdict(owner), file)
                file.flush()
            except OSError:  # a full disk: leave no file behind that claims ownership
                path.unlink(missing_ok=True)
                raise
    except (FileExistsError, FileNotFoundError):  # another process was faster, or has deleted the folder
        return False
    return True


def _busy(label, owner, folder):
    end = f"end it (`scancel {owner.job}`)" if owner.job else f"end it (`kill {owner.pid}` on {owner.host})"
    return (
        f"{label}: {owner} is training this run in {folder}, and two would write over each other: wait until it is"
        f" done, or {end} and run the same command again, which resumes from the last checkpoint."
    )
