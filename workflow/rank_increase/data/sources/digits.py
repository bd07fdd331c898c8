"""scikit-learn's handwritten digits, which need no download."""

import numpy as np

from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count
from rank_increase.registry import register


@register.source("digits")
def digits(downloads, threads, *, patch: Count | None = None):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels of 0 to 16; every fifth is a test image.

    Parameters
    ----------
    patch : int, optional
        Pack features instead of images: patches with this side, a divisor of 8, as tokens, whose pixels less their mean
        over all train patches have a norm of 1 on average.
    """
    from sklearn.datasets import load_digits  # takes seconds to import, and only this source needs it

    if patch and 8 % patch:
        raise DatasetError(f"`patch` is {patch}, but images of 8 pixels need a divisor of 8.")
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    if patch:
        side = 8 // patch
        tokens = (
            images.reshape(-1, side, patch, side, patch).swapaxes(2, 3).reshape(-1, side**2, patch**2).astype(float)
        )
        tokens -= tokens[~test].mean((0, 1))
        images = tokens / np.linalg.norm(tokens[~test], axis=-1).mean()
    kind = "features" if patch else "pixels"
    splits = {
        name: Split("scikit-learn's digits", int(chosen.sum()), [(images[chosen], labels[chosen])])
        for name, chosen in (("train", ~test), ("test", test))
    }
    return Source([str(digit) for digit in range(10)], images.shape[1:], splits, {}, kind)
