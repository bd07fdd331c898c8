"""The anchor-function task, drawn at random."""

import numpy as np

from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count, Points, Seed, Size
from rank_increase.registry import register

ANCHORS = 4  # tokens 1 to 4; keys come after them


@register.source("anchor")
def anchor(
    downloads,
    threads,
    *,
    keys: Count = 96,
    length: Points = 10,
    position: Size | None = None,
    vocabulary: Count = 201,
    train: Count = 12800,
    test: Count = 1000,
    seed: Seed = 0,
):
    """The anchor function: keys with an anchor a among them, and as the label the key after a, plus a mod 2.

    Tokens 1 to 4 are anchors, those after them keys.

    Parameters
    ----------
    keys : int
        Number of keys.
    length : int
        Tokens in a sequence.
    position : int, optional
        Of the anchor, from 0, not the last; null: anywhere before the last, at random.
    vocabulary : int
        Number of tokens of which labels and samples are made.
    train, test : int
        Sequences of each split.
    seed : int
        Seed of the draw.
    """
    if vocabulary < ANCHORS + keys + 2:
        raise DatasetError(f"`vocabulary` is {vocabulary}, but {keys} keys need {ANCHORS + keys + 2}: make it larger.")
    if position is not None and position > length - 2:
        raise DatasetError(f"`position` is {position}, but the anchor has a key after it: at most {length - 2}.")
    rng, splits = np.random.default_rng(seed), {}
    for name, count in (("train", train), ("test", test)):
        tokens = rng.integers(ANCHORS + 1, ANCHORS + keys + 1, (count, length))
        places = rng.integers(0, length - 1, count) if position is None else np.full(count, position)
        rows, anchors = np.arange(count), rng.integers(1, ANCHORS + 1, count)
        tokens[rows, places] = anchors
        splits[name] = Split("anchor function", count, [(tokens, tokens[rows, places + 1] + anchors % 2)])
    return Source([str(number) for number in range(vocabulary)], (length,), splits, {}, "tokens")
