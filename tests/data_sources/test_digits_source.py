"""The source `digits`."""

import numpy as np

from rank_increase.data.packed import open_dataset, pack
from rank_increase.data.sources.digits import digits


def test_digits_are_split_and_complete(tmp_path):
    pack(tmp_path / "digits", digits(tmp_path, 1), {"source": "digits"})
    dataset = open_dataset(tmp_path / "digits")
    assert dataset.train_samples.shape == (1438, 8, 8, 1) and dataset.test_samples.shape == (359, 8, 8, 1)
    assert dataset.train_samples.max() == 16
    every = {image.tobytes() for image in np.concatenate([dataset.train_samples, dataset.test_samples])}
    assert len(every) == 1797
