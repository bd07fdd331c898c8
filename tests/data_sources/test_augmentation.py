"""The random crops and flips of batches, against torchvision's, image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from rank_increase.data.batches import _crop_and_flip


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (28, 1)])
def test_crops_and_flips_are_those_of_torchvision(side, channels):
    rng, count, margin = np.random.default_rng(side), 40, side // 8
    images = torch.from_numpy(rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8))
    shifts, flips = rng.integers(0, 2 * margin + 1, (count, 2)), rng.integers(0, 2, count)
    for found, image, (top, left), flip in zip(
        _crop_and_flip(images, shifts, flips, margin), images, shifts.tolist(), flips, strict=True
    ):
        framed = functional.pad(image.permute(2, 0, 1), [margin])
        expected = functional.crop(framed, top, left, side, side)
        expected = functional.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(found, expected.permute(1, 2, 0), rtol=0, atol=0)
