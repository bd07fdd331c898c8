"""Checkpoints of a network that was trained elsewhere, checked and written as snapshots.

Published series have files that are not what their names say: a first checkpoint from which the run did not start, or
one checkpoint under the names of many steps. Both would look like a result.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from rank_increase.data.packed import DatasetError
from rank_increase.disk import writing
from rank_increase.networks.attention import attention_products
from rank_increase.training.snapshots import snapshot_path, write_snapshot

# The cosine of n random weights and any others that do not depend on them has standard deviation 1 / sqrt(n). A run
# keeps more of its start than five times that: n is in the thousands at least, and only the first change is looked at.
INDEPENDENT = 5.0
logger = logging.getLogger("rank_increase")


class Tensors(Mapping):
    """The tensors of a checkpoint by name, from one file or several; each is read when asked for, as a numpy array.

    Raises
    ------
    DatasetError
        If a file is damaged or no safetensors file, or two have a tensor of the same name.
    """

    def __init__(self, paths):
        self._files = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")  # numpy has no bfloat16
            except (SafetensorError, OSError) as error:
                raise DatasetError(f"{path} is no whole safetensors file: {error}") from error
            for name in file.keys():  # noqa: SIM118 - it is no dict
                if name in self._files:
                    raise DatasetError(f"{', '.join(paths)}: {name} is in two of them, so they are no one checkpoint.")
                self._files[name] = file

    def __getitem__(self, name):
        """A tensor; of bfloat16 as float32."""
        tensor = self._files[name].get_tensor(name)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def __iter__(self):
        """Yield the names."""
        return iter(self._files)

    def __len__(self):
        """Number of tensors."""
        return len(self._files)


def import_checkpoints(files, adapter, folder, *, steps_per_epoch=None, advance=lambda done: None):
    """Write a snapshot of every checkpoint, all or none; return rows of schema "checkpoints".

    Parameters
    ----------
    files : dict of int to list of str
        Step -> the files of its checkpoint.
    adapter : callable
        As in `networks.adapters`, with its options bound.
    folder : str
        For the snapshots.
    steps_per_epoch : int, optional
        Steps in an epoch; all steps of the run if not given.
    advance : callable
        Called with the number of checkpoints done.

    Raises
    ------
    DatasetError
        If a checkpoint cannot be read, or cannot be one of the run that began with that of step 0.
    """
    folder, steps = Path(folder), sorted(files)
    if steps[:1] != [0]:
        there = f"the first is of step {steps[0]}" if steps else "no file has such a name"
        raise DatasetError(f"there is no checkpoint of step 0, since which changes are measured: {there}.")
    steps_per_epoch = steps_per_epoch or steps[-1] or 1
    new, check, rows = folder.with_name(f".{folder.name}.new"), _Check(), []
    with writing(folder):
        shutil.rmtree(new, ignore_errors=True)  # from a job that was killed
        new.mkdir(parents=True)
        for step in steps:
            layers = _layers(files[step], adapter)
            weights = {f"layer_{n}.{name}": weight for n, layer in enumerate(layers) for name, weight in layer.items()}
            where, epoch = ", ".join(files[step]), step / steps_per_epoch
            rows.append({"step": step, "epoch": epoch, "files": where, **check(step, where, weights)})
            write_snapshot(snapshot_path(new, step), weights, attention_products(len(layers)), step=step, epoch=epoch)
            advance(len(rows))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
    return pd.DataFrame(rows)


def _layers(paths, adapter):
    try:
        return adapter(Tensors(paths))
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{', '.join(paths)} is no checkpoint of this kind of model: {error}") from error


class _Check:
    """Compares the checkpoints of a run, in order, with the first and with one another."""

    def __init__(self):
        self._start, self._steps = None, {}  # weights of step 0; digest of weights -> the first step that has them

    def __call__(self, step, where, weights):
        """The `sha256` of these weights and their `cosine` with those of step 0; a dict.

        Raises a DatasetError, which names the files `where`, if they cannot be those of the run after this step.
        """
        for name, weight in weights.items():
            if not np.isfinite(weight).all():
                raise DatasetError(f"{where}: {name} is not finite.")
        self._start = self._start or weights
        if {name: weight.shape for name, weight in weights.items()} != {n: w.shape for n, w in self._start.items()}:
            raise DatasetError(f"{where} has other layers, or layers of other sizes, than the checkpoint of step 0.")
        digest = sha256(b"".join(np.ascontiguousarray(weight).data for weight in weights.values())).hexdigest()
        cosine, before = self._cosine(weights), self._steps.setdefault(digest, step)
        if before == step and len(self._steps) == 2 and cosine < INDEPENDENT / np.sqrt(_size(weights)):
            raise DatasetError(
                f"{where} does not come from the checkpoint of step 0: the two are no more alike than random draws"
                f" (cosine {cosine:.2g}), so what is measured since step 0 would be no change by training. Find the"
                " run's own start, or give its first checkpoint the name of step 0."
            )
        if before < step and len(self._steps) == 1:  # as where the learning rate of the first steps is zero
            logger.warning("the weights after step %d are still those of step 0", step)
        elif before < step:
            raise DatasetError(
                f"{where} has the weights of step {before}, and others came between: one of the two is not what its"
                " name says, so remove it."
            )
        return {"sha256": digest, "cosine": cosine}

    def _cosine(self, weights):
        """Cosine of these weights and those of step 0, all taken as one vector; 0 if either is zero."""
        inner, squares = 0.0, np.zeros(2)
        for name, weight in weights.items():
            one, other = (array.ravel().astype(float) for array in (self._start[name], weight))
            inner, squares = inner + one @ other, squares + [one @ one, other @ other]
        return float(inner / np.sqrt(squares.prod() or np.inf))


def _size(weights):
    return sum(weight.size for weight in weights.values())
