"""Snapshots: weights of a network at one step, as safetensors files that name the products whose factors they hold.

Reading a snapshot needs no model: its metadata has one entry, "snapshot", JSON with the products, the step, the epoch
and the SHA-256 of all this and of the weights; its tensors are in the paper's orientation.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


class SnapshotError(ValueError):
    """A snapshot is missing or damaged; the message names the file."""


def snapshot_path(folder, step):
    """Path of the snapshot of a step."""
    return Path(folder) / f"step_{step}.safetensors"


def write_snapshot(path, weights, products, matrices=(), *, step, epoch):
    """Write a snapshot.

    Parameters
    ----------
    path : str
    weights : dict of str to numpy.ndarray
        By name; factors of products have shape (heads, dim, dim_head).
    products : list of networks.attention.Product
        Products, by the names of their factors.
    matrices : list of networks.attention.Matrix
        Single matrices, by their names.
    step : int
        Optimizer steps taken.
    epoch : float
        The same in epochs.
    """
    weights = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    measured = {"products": [list(product) for product in products], "matrices": [list(one) for one in matrices]}
    description = {**measured, "step": step, "epoch": float(epoch)}
    description["sha256"] = _digest(description, weights, weights.get)
    # One entry: safetensors writes several in an order that differs between two files of the same contents.
    save_file(weights, path, {"snapshot": json.dumps(description)})


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
    """Products, step and epoch of the snapshot at `path`, a dict; one weight is in memory at a time.

    Raises
    ------
    SnapshotError
        If it is missing or not what was written.
    """
    file = open_snapshot(path)
    try:
        description = json.loads(file.metadata()["snapshot"])
        written = description.pop("sha256")
    except (KeyError, TypeError, ValueError):
        description, written = {}, None
    if written != _digest(description, file.keys(), file.get_tensor):
        raise SnapshotError(f"{path} is damaged: its contents do not have the SHA-256 they were written with")
    return description


def _digest(description, names, weight):
    """SHA-256 of the description, and of names, types, shapes and values of the weights."""
    digest = sha256(json.dumps(description).encode())
    for name in sorted(names):
        array = weight(name)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


class Snapshots:
    """The snapshots of a run, checked; the factors of one product at one step are read at a time.

    Parameters
    ----------
    folder : str
        With files step_0.safetensors, ..., as `write_snapshot` writes them.

    Attributes
    ----------
    steps : list of int
        Ascending, from 0.
    epochs : dict of int to float
        Step -> the same in epochs.
    products : list of tuple
        (name, layer, A, B) of each product, by layer.
    matrices : list of tuple
        (name, layer, weight) of each matrix that is measured by itself.

    Raises
    ------
    ValueError
        If the weights at initialization are not there, or a file is damaged.
    """

    def __init__(self, folder):
        self._files = {int(path.stem.removeprefix("step_")): path for path in Path(folder).glob("step_*.safetensors")}
        self.steps, self.epochs = sorted(self._files), {}
        if 0 not in self._files:
            raise ValueError(f"{folder} has no step_0.safetensors, the weights at initialization")
        for step in self.steps:
            path = self._files[step]
            try:
                description = check_snapshot(path)
            except SnapshotError as error:
                raise ValueError(
                    f"{error}: delete {folder} and run the same command again, which takes the snapshots from the"
                    " scratch folder of the run if they are whole there, and trains again if not."
                ) from error
            self.epochs[step] = description["epoch"]
            if step == 0:
                self.products = [tuple(product) for product in description["products"]]
                self.matrices = [tuple(one) for one in description.get("matrices", ())]

    def factors(self, step, product):
        """A and B of a product at a step, float64, each of shape (heads, dim, dim_head).

        Raises
        ------
        ValueError
            If the file lacks one of them, or one is not finite.
        """
        *_, A, B = product
        return self.weight(step, A), self.weight(step, B)

    def weight(self, step, name):
        """A weight at a step, float64, of shape (heads, rows, columns); raises a ValueError as `factors` does."""
        file = open_snapshot(self._files[step])
        try:
            weight = file.get_tensor(name).astype(float)
        except SafetensorError as error:
            raise ValueError(f"{self._files[step]}: {name}: {error}") from error
        if not np.isfinite(weight).all():
            raise ValueError(f"{self._files[step]}: {name} is not finite; the run has diverged")
        return weight
