"""Snapshots of attention weights: safetensors files that carry the SHA-256 of what they hold."""

from hashlib import sha256

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


class SnapshotError(ValueError):
    """A snapshot that is missing or damaged; its text names the file."""


def write_snapshot(path, weights):
    """Write weights, a dict of str to numpy.ndarray, with their SHA-256."""
    weights = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    save_file(weights, path, metadata={"sha256": _digest(weights, weights.get)})


def open_snapshot(path):
    """The snapshot at `path`, as `safetensors.safe_open` returns it: weights are read one by one.

    Raises
    ------
    SnapshotError
        If the file is missing, or not as long as its header says.
    """
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise SnapshotError(f"{path} does not exist") from error
    except SafetensorError as error:
        raise SnapshotError(f"{path} is damaged: {error}") from error


def check_snapshot(path):
    """Raise a `SnapshotError` unless the snapshot at `path` is whole, one weight in memory at a time.

    A file without a SHA-256, as the first release wrote them, is checked for its length alone.
    """
    file = open_snapshot(path)
    recorded = (file.metadata() or {}).get("sha256")
    if recorded and recorded != _digest(file.keys(), file.get_tensor):
        raise SnapshotError(f"{path} is damaged: its contents do not have the SHA-256 they were written with")


def _digest(names, weight):
    """SHA-256 of names, types, shapes and values."""
    digest = sha256()
    for name in sorted(names):
        array = weight(name)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
