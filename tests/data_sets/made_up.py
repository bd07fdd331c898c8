"""Datasets of random pixels, and processes that start together."""

import multiprocessing

import numpy as np

from rank_increase.data.packed import Source, Split

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_increase.data.download", "rank_increase.data.sources.digits"])


def made_up(rng, train=5, test=3, shape=(4, 4, 2), classes=3, kind="pixels", **change):
    """A source of random pixels, or of the arrays in `change`, and its arrays."""
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"{split}_samples"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, classes, count)
    arrays |= change
    splits = {
        split: Split(f"{split} pixels", len(arrays[f"{split}_labels"]), chunks_of(arrays, split))
        for split in ("train", "test")
    }
    return Source([f"class {label}" for label in range(classes)], shape, splits, {"file": "digest"}, kind), arrays


def chunks_of(arrays, split):
    samples, labels = arrays[f"{split}_samples"], arrays[f"{split}_labels"]
    return [(samples[start : start + 2], labels[start : start + 2]) for start in range(0, len(labels), 2)]


def start_together(function, *arguments):
    """Exit codes of two processes that call a function, with a barrier that they can meet at, at the same time."""
    barrier = CONTEXT.Barrier(2, timeout=120)
    processes = [CONTEXT.Process(target=function, args=(barrier, *arguments)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]
