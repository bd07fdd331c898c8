"""Who may write to a folder: one process at a time, also on network file systems that have no locks.

The owner is whoever made the file owner.N with the highest N, and touches it every few seconds. Only one process can
make owner.N + 1, and with that it has taken the folder over. It does so once nobody has touched owner.N for a while, or
knows at once that its process is dead. Clocks of different machines are never compared. An owner that was frozen all
the while finds out before it puts the next file in place, and stops.
"""

import errno
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rank_increase.disk import writing

BEAT = 5.0  # seconds between two touches
SILENCE = 60.0  # seconds without one after which an owner counts as dead; file systems may show one 30 s late
PATIENCE = 300.0  # seconds for which to wait for a living owner: one that Slurm is ending has about as long
POLL = 1.0
logger = logging.getLogger("rank_increase")


class NotOwner(SystemExit):
    """Another process owns the folder; the text is a sentence that names it and says what to do."""


def _machine():
    """Within what a process id means one process: a boot of a machine, and a container on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(parts)


@dataclass(frozen=True)
class Owner:
    """What an owner says of itself, in the file that makes it one."""

    host: str
    pid: int
    job: str | None
    machine: str
    token: str

    @classmethod
    def this_process(cls):
        """The owner that this process would be, another at every call."""
        return cls(socket.gethostname(), os.getpid(), os.environ.get("SLURM_JOB_ID"), _machine(), uuid.uuid4().hex)

    def __str__(self):
        """For a sentence."""
        return f"process {self.pid} on {self.host}" + (f" (Slurm job {self.job})" if self.job else "")

    def is_dead(self):
        """Whether its process is known to have ended; False where that cannot be seen from here."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


_UNREADABLE = Owner("a host not known yet", 0, None, "", "")  # of a file that is just being written


def current_owner(folder):
    """Who owns a folder and when it was last heard of: (number, `Owner`, time of the last touch), or None.

    The time is in seconds since 1970 by the clock of the file system.
    """
    while numbers := _numbers(folder):
        try:
            with open(_path(folder, max(numbers))) as file:
                text, beat = file.read(), os.fstat(file.fileno()).st_mtime
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # gone since it was listed
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
    """The right to write to a folder, for as long as `check` says so; may be handed to child processes."""

    folder: str
    number: int
    owner: Owner
    label: str

    def check(self):
        """Raise `NotOwner` if another process has taken the folder over; to be called before a file is put in place."""
        found = current_owner(self.folder)
        if found and found[1] == self.owner:
            return
        by = f"{found[1]} has taken the run over" if found else "the run was taken over, and ended, by another process"
        raise NotOwner(
            f"{self.label}: this process was not heard of for {SILENCE:.0f} s, and {by}; it stops, and leaves"
            f" {self.folder} as it is."
        )

    def _beat(self, done, interval):
        while not done.wait(interval):
            # An error may pass, and if it does not, silence is the right thing.
            with suppress(OSError, NotOwner):
                self.check()
                os.utime(_path(self.folder, self.number))


@contextmanager
def owned(folder, label, *, patience=PATIENCE, silence=SILENCE, beat=BEAT):
    """Own a folder, which is made if need be, within a `with` block; yields an `Ownership`.

    Parameters
    ----------
    folder : str
    label : str
        What the folder is of, for messages.
    patience, silence, beat : float
        Seconds: how long to wait for a living owner, after how much silence it counts as dead, and how often to show
        that this process is alive.

    Raises
    ------
    NotOwner
        If another process owns the folder and is alive to the end of the wait.
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
                why = "has ended" if owner.is_dead() else f"was not heard of for {silence:g} s"
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
            except OSError:  # a full disk: nobody works here
                path.unlink(missing_ok=True)
                raise
    except (FileExistsError, FileNotFoundError):  # another was faster, or has deleted the folder
        return False
    return True


def _busy(label, owner, folder):
    end = f"end it (`scancel {owner.job}`)" if owner.job else f"end it (`kill {owner.pid}` on {owner.host})"
    return (
        f"{label}: {owner} is training this run in {folder}, and two would write over each other: wait until it is"
        f" done, or {end} and run the same command again; it then goes on from the last saved state."
    )
