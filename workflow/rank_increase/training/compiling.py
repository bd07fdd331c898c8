"""Compilation of a model for the device that trains it."""

import logging
import os
from pathlib import Path

import torch

BACKEND = "inductor"
logger = logging.getLogger("rank_increase")


def compile_model(model, device, cache=None):
    """Compile a model in place, so that calls of it are faster; its parameters keep their names.

    At its first use the backend calls a C compiler, on a GPU too, where Triton builds a small module of Python. On a
    machine without a compiler, or without Python's header files, the model stays as it is, and the log says why.

    Parameters
    ----------
    model : torch.nn.Module
    device : torch.device
    cache : str, optional
        Folder for compiled code, which later runs of the same model on such a device use; torch's own if not given. The
        environment variable TORCHINDUCTOR_CACHE_DIR takes precedence.

    Returns
    -------
    bool
        Whether the model is compiled.
    """
    if cache and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        Path(cache).mkdir(parents=True, exist_ok=True, mode=0o700)  # torch runs what it finds there
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(cache).absolute())
    if reason := _obstacle(device):
        logger.warning("training is not compiled and takes longer: torch.compile fails on this machine (%s)", reason)
        return False
    # Static shapes: else the odd last pass over the test split would make those of training variable, and slower. A
    # pass of another size, or without gradients, is compiled once more.
    model.compile(backend=BACKEND, dynamic=False)
    return True


def _obstacle(device):
    """Why this machine cannot compile, in one line; None if it can."""
    try:
        torch.compile(_line, backend=BACKEND, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # of the backend's many own kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def _line(x):
    return 2 * x + 1
