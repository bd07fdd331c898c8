"""scikit-learn's handwritten digits, which need no download."""

import numpy as np

from rank_increase.data.packed import Source, Split
from rank_increase.registry import register


@register.source("digits")
def digits(downloads, threads):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels of 0 to 16; every fifth is a test image."""
    from sklearn.datasets import load_digits  # takes seconds to import, and only this source needs it

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    splits = {
        name: Split("scikit-learn's digits", int(chosen.sum()), [(images[chosen], labels[chosen])])
        for name, chosen in (("train", ~test), ("test", test))
    }
    return Source([str(digit) for digit in range(10)], (8, 8, 1), splits, {})
