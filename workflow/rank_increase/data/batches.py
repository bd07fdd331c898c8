"""Batches of a packed dataset on the training device, in an order that depends only on seed and epoch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from rank_increase.data.packed import map_in_order

DEVICE_SHARE = 0.4  # of a GPU's free memory that a split may fill; a larger split is read batch by batch
AHEAD = 2  # threads that each prepare a batch of such a split, while the device computes
READERS = 16  # reads at a time: from a network file system, each takes milliseconds
DRAW = 0  # seed of what is the same for every run: which samples are used, and shuffled labels


class Batches:
    """Batches of a dataset.

    No random stream runs from step to step: the order of an epoch, its crops and its flips are functions of
    (seed, epoch), whatever the device and the number of processes. A resumed run needs only the number of its step.

    Parameters
    ----------
    dataset : packed.Dataset
    device : torch.device
    batch_size : int
        Samples in a step, over all processes. The incomplete last batch of an epoch is dropped.
    seed : int
    augment : bool
        Whether to crop images at random, with a margin of an eighth of their side, and to flip them at random.
    train_samples, test_samples : int, optional
        How many are used, drawn at random, the same for every seed; all if not given.
    shuffled_labels : bool
        Whether training labels are shuffled, in the same way for every seed.
    rank, processes : int
        Each process sees every `processes`-th sample of a batch.

    Raises
    ------
    ValueError
        If a batch is larger than the dataset, more samples are to be used than there are, or other samples than images
        are to be cropped and flipped.
    """

    def __init__(
        self,
        dataset,
        device,
        *,
        batch_size,
        seed,
        augment=False,
        train_samples=None,
        test_samples=None,
        shuffled_labels=False,
        rank=0,
        processes=1,
    ):
        labels = dataset.train_labels
        self._chosen = _draw("train_samples", train_samples, len(labels), 0)
        self._chosen_tests = _draw("test_samples", test_samples, len(dataset.test_labels), 1)
        if shuffled_labels:
            labels = labels[np.random.default_rng([DRAW, 2]).permutation(len(labels))]
        self._count, self.test_count = len(self._chosen), len(self._chosen_tests)
        self.steps = self._count // batch_size  # in an epoch
        if not self.steps:
            raise ValueError(f"`batch_size` is {batch_size}, more than the {self._count} training samples.")
        self._kind = dataset.manifest["kind"]
        if augment and self._kind != "pixels":
            raise ValueError(f"`augment` crops and flips images, but the samples are {self._kind}: set it to false.")
        self.batch_size, self._seed, self._augment = batch_size, seed, augment
        self._rank, self._processes = rank, processes
        if self._kind == "pixels":
            self._mean = torch.tensor(dataset.manifest["mean"], dtype=torch.float32, device=device)
            self._std = torch.tensor(dataset.manifest["std"], dtype=torch.float32, device=device)
        self._train = _Split(dataset.train_samples, labels, self._chosen, device)
        self._test = _Split(dataset.test_samples, dataset.test_labels, self._chosen_tests[rank::processes], device)

    def train(self, epoch, first_step=0):
        """Yield this process's part of each step: samples (n, *shape) as packed, and labels (n,) or (n, length)."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(self._count)
        if self._augment:
            margin = self._train.samples.shape[1] // 8
            shifts = rng.integers(0, 2 * margin + 1, size=(self._count, 2))
            flips = rng.integers(0, 2, size=self._count)
        places = [
            np.arange(step * self.batch_size + self._rank, (step + 1) * self.batch_size, self._processes)
            for step in range(first_step, self.steps)
        ]
        wanted = [order[p] for p in places]
        for chosen, (samples, labels) in zip(places, self._train.read(wanted), strict=True):
            yield _crop_and_flip(samples, shifts[chosen], flips[chosen], margin) if self._augment else samples, labels

    def train_at_once(self):
        """All samples of the train split that are used, in the order of the dataset, and their labels."""
        return next(self._train.read([np.arange(self._count)]))

    def test(self, size):
        """Yield samples and labels of this process's part of the test split, at most `size` at a time."""
        places = np.arange(self._test.count)
        return self._test.read([places[start : start + size] for start in range(0, len(places), size)])

    def inputs(self, samples):
        """Samples in the form that a model takes.

        Pixels become images (n, channels, height, width), float32, normalised by mean and deviation of the train split;
        tokens become int64; features are float32 already.
        """
        if self._kind == "pixels":
            return ((samples.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        return samples.long() if self._kind == "tokens" else samples


def _draw(key, wanted, count, stream):
    """Places of `wanted` samples of `count`, ascending; all if it is None."""
    if wanted is None:
        return np.arange(count)
    if wanted > count:
        raise ValueError(f"`{key}` is {wanted}, but the dataset has {count}: lower it, or leave it out to use all.")
    return np.sort(np.random.default_rng([DRAW, stream]).permutation(count)[:wanted])


def meta_batch(kind, shape):
    """One sample in the form that a model takes, on torch's meta device, without numbers: for counting FLOPs."""
    if kind == "pixels":
        height, width, channels = shape
        shape = channels, height, width
    return torch.empty((1, *shape), dtype=torch.int64 if kind == "tokens" else torch.float32, device="meta")


class _Split:
    """The chosen samples of a split, and their labels: on a GPU if they fit there, else read when needed."""

    def __init__(self, samples, labels, chosen, device):
        self.samples, self._labels, self._chosen, self._device = samples, labels, chosen, device
        self.count = len(chosen)
        self._resident = self._readers = None
        if _has_room(device, self.count * sum(array.nbytes // len(array) for array in (samples, labels))):
            if samples.dtype in (np.uint16, np.uint32):  # which torch does not index on every device
                samples = samples.astype(np.int32)
            self._resident = [torch.tensor(array[chosen], device=device) for array in (samples, labels)]
        elif device.type != "cpu":
            self._readers = ThreadPoolExecutor(READERS)

    def read(self, batches):
        """Yield samples and labels on the device for each array of places among the chosen ones."""
        if self._resident and batches:  # one copy of the places to the device, not one each step
            order = torch.from_numpy(np.concatenate(batches)).to(self._device)
            for places in order.split([len(batch) for batch in batches]):
                yield [part[places] for part in self._resident]
        elif not self._readers:
            yield from map(self._gather, batches)
        else:
            for samples, labels in map_in_order(self._gather, batches, AHEAD):
                yield samples.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _gather(self, places):
        """A copy of only these samples and labels: the memory map is never read as a whole."""
        pinned, places = self._device.type == "cuda", self._chosen[places]
        dtype = getattr(torch, self.samples.dtype.name)
        samples = torch.empty((len(places), *self.samples.shape[1:]), dtype=dtype, pin_memory=pinned)

        def copy(part):  # other modes than "clip" make another copy
            np.take(self.samples, places[part], axis=0, out=samples.numpy()[part], mode="clip")

        if self._readers:
            size = -(-len(places) // READERS)
            list(self._readers.map(copy, [slice(start, start + size) for start in range(0, len(places), size)]))
        else:
            copy(slice(None))
        labels = torch.from_numpy(self._labels[places])
        return samples, labels.pin_memory() if pinned else labels


def _has_room(device, size):
    """Whether a GPU has room for so many bytes of a split; on the CPU, memory maps do."""
    if device.type == "cpu":
        return False
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else torch.mps.recommended_max_memory()
    return size < DEVICE_SHARE * free


def _crop_and_flip(images, shifts, flips, margin):
    """Images (n, height, width, channels) cropped from a black frame of width `margin`, mirrored where `flips` is 1.

    torchvision.transforms.v2 gives the same pixels, but draws once per batch. One draw per image needs one call per
    image. On the CPU, that is two to four times as slow for images of 32 pixels (and faster only for large ones); on a
    GPU, it takes several kernels per image instead of a few per batch.
    """
    count, side = images.shape[:2]
    shifts, flips = (torch.from_numpy(part).to(images.device) for part in (shifts, flips))
    framed = F.pad(images, (0, 0, margin, margin, margin, margin))
    along = torch.arange(side, device=images.device)
    columns = torch.where(flips[:, None] == 1, side - 1 - along, along) + shifts[:, 1:]  # (n, side)
    rows = along + shifts[:, :1]
    return framed[torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
