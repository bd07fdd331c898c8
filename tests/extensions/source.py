"""A source of data: images of stripes, which are drawn instead of read."""

import numpy as np

from rank_increase.data.packed import Source, Split
from rank_increase.options import Count, NotNegative, Seed
from rank_increase.registry import register

DIRECTIONS = {"horizontal": (0, 1), "vertical": (1, 0), "falling": (1, -1), "rising": (1, 1)}


@register.source("stripes")
def stripes(downloads, threads, *, size: Count, train: Count, test: Count, noise: NotNegative = 0.5, seed: Seed = 0):
    """Gray stripes in four directions at random phases; the direction is the class.

    Parameters
    ----------
    downloads : str
        Folder for what a source downloads; this one downloads nothing.
    threads : int
        That it may use.
    size : int
        Side of an image, in pixels.
    train, test : int
        Images of each split.
    noise : float
        Standard deviation of the noise in each pixel, over the amplitude of the stripes.
    seed : int
        Of the images.
    """
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count in (("train", train), ("test", test)):
        labels = rng.integers(len(DIRECTIONS), size=count)
        x, y = np.indices((size, size))
        a, b = np.array(list(DIRECTIONS.values()))[labels].T[..., None, None]
        waves = np.sin(a * x + b * y + rng.uniform(0, 2 * np.pi, size=(count, 1, 1)))
        waves += noise * rng.standard_normal(waves.shape)
        images = np.clip(128 + 50 * waves, 0, 255).astype(np.uint8)[..., None]
        splits[name] = Split("stripes", count, [(images, labels)])  # a large source yields many such chunks
    return Source(list(DIRECTIONS), (size, size, 1), splits, sha256={})
