"""Disks that are full or cannot be written to, in one sentence that names the file."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

SMALLEST = 1 << 16  # bytes; with less left, nothing of use can be written
PROBLEMS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no permission",
    errno.EPERM: "there is no permission",
}


class DiskError(OSError):
    """A file that cannot be written; its text is one sentence that names the file and says what is wrong."""


@contextmanager
def writing(path):
    """Raise `DiskError` for what goes wrong in the block, which only writes `path`, because of its disk."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if problem := _problem(error, path):
            raise DiskError(f"{problem}: {path} cannot be written") from error
        raise


def is_full(path):
    """Whether the disk of a path, which need not exist, has no room left."""
    path = Path(path).absolute()
    disk = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
    return disk.f_bavail * disk.f_frsize < SMALLEST


def _problem(error, path):
    """What is wrong with the disk; None if the error has another cause.

    A library may raise an exception of its own while it handles the system's, as Matplotlib does for a PDF, or pass on
    its text alone, as safetensors does.
    """
    link = error
    while link:
        if problem := PROBLEMS.get(getattr(link, "errno", None)):
            return problem
        link = link.__cause__ or link.__context__
    return PROBLEMS[errno.ENOSPC] if "No space left" in str(error) or is_full(path) else None
