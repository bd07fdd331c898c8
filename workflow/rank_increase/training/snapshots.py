"""Snapshots: weights of a network at one step, as safetensors files that say which products they are factors of.

A snapshot needs no model to be read: its metadata names the products, and its tensors are in the paper's orientation.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


def snapshot_path(folder, step):
    """Where the snapshot of a step lies."""
    return Path(folder) / f"step_{step}.safetensors"


def save_snapshot(path, weights, products, *, step, epoch):
    """Write a snapshot.

    Parameters
    ----------
    path : str
    weights : dict of str to numpy.ndarray
        By name; factors of products have shape (heads, dim, dim_head).
    products : list of networks.attention.Product
        By the names of their factors.
    step : int
        Optimizer steps taken.
    epoch : float
        The same in epochs.
    """
    metadata = {"products": json.dumps([list(product) for product in products]), "step": str(step), "epoch": repr(epoch)}
    save_file({name: np.ascontiguousarray(weight) for name, weight in weights.items()}, path, metadata)


class Snapshots:
    """The snapshots of a run, of which the factors of one product at one step are read at a time.

    Parameters
    ----------
    folder : str
        With files step_0.safetensors, ..., as `save_snapshot` writes them.

    Attributes
    ----------
    steps : list of int
        Ascending, from 0.
    epochs : dict of int to float
        Step -> epochs that it makes.
    products : list of tuple
        (name, layer, A, B) of each product, by layer.

    Raises
    ------
    ValueError
        If the weights at initialization are not there, or a file is damaged or lacks what it names.
    """

    def __init__(self, folder):
        self._files = {int(path.stem.removeprefix("step_")): path for path in Path(folder).glob("step_*.safetensors")}
        self.steps = sorted(self._files)
        if 0 not in self._files:
            raise ValueError(f"{folder} has no step_0.safetensors, the weights at initialization")
        metadata = {step: self._open(step).metadata() or {} for step in self.steps}
        try:
            self.products = [tuple(product) for product in json.loads(metadata[0]["products"])]
            self.epochs = {step: float(metadata[step]["epoch"]) for step in self.steps}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{folder} has snapshots that do not say what they hold: {error}") from error
        if not self.products:
            raise ValueError(f"{self._files[0]} names no product")

    def _open(self, step):
        try:
            return safe_open(self._files[step], framework="numpy")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self._files[step]} is damaged: {error}") from error

    def factors(self, step, product):
        """A and B of a product at a step, float64, each of shape (heads, dim, dim_head)."""
        file, (*_, A, B) = self._open(step), product
        return self._weight(file, step, A), self._weight(file, step, B)

    def _weight(self, file, step, name):
        try:
            weight = file.get_tensor(name).astype(float)
        except SafetensorError as error:
            raise ValueError(f"{self._files[step]}: {name}: {error}") from error
        if not np.isfinite(weight).all():
            raise ValueError(f"{self._files[step]}: {name} is not finite; the run has diverged")
        return weight
