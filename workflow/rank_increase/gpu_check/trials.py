"""Runs on images of random pixels, for checks and measurements."""

import shutil
from pathlib import Path

import numpy as np

from rank_increase.data.packed import Source, Split, pack
from rank_increase.training.checkpoints import StopRequest
from rank_increase.training.loop import Job, Run
from rank_increase.training.recipe import Recipe


class Sole:
    """Ownership of a folder that nobody else knows."""

    def check(self):
        """Nobody has taken it over."""


def pack_noise(folder, shape, classes, train, test, seed=0):
    """Pack a dataset of random pixels, a little brighter the higher the class, and return its folder as a str."""
    rng, splits = np.random.default_rng(seed), {}
    for name, count in (("train", train), ("test", test)):
        labels = rng.integers(classes, size=count)
        images = rng.integers(0, 192, size=(count, *shape), dtype=np.uint8)
        images += (labels * 63 // max(1, classes - 1)).astype(np.uint8)[:, None, None, None]
        splits[name] = Split("noise", count, [(images, labels)])
    pack(folder, Source([str(label) for label in range(classes)], shape, splits, {}), {})
    return str(folder)


def trial(dataset, scratch, model, device, *, stop=None, fresh=True, compiled=None, **recipe):
    """A `Run` on this torch.device from init scale 1, in a scratch folder of its own that is emptied if `fresh`."""
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    Path(scratch).mkdir(parents=True, exist_ok=True)
    settings = {"epochs": 1, "learning_rate": 1e-3, "snapshots": 2, **recipe}
    job = Job(
        dataset=dataset,
        scratch=str(scratch),
        model=model,
        recipe=Recipe(**settings),
        alpha=1.0,
        seed=0,
        code="",
        checkpoint_minutes=60.0,
        pass_size=0,
        threads=1,
        label="trial",
        device=str(device),
        compiled=compiled,
    )
    return Run(job, Sole(), device, 0, 1, stop or StopRequest())
