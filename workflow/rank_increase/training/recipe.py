"""How a network is trained: the section `recipe` of the configuration, and the schedules that follow from it."""

import math
from typing import Literal

from rank_increase.options import Count, Flag, Positive, Section, Size


class Recipe(Section):
    """How a network is trained."""

    epochs: Count
    """Passes over the training data. Paper: 500 (CIFAR), 360 (ImageNet)."""
    warmup_epochs: Size = 0
    """Epochs in which the learning rate rises linearly; a cosine to 0 follows. Paper: 15."""
    batch_size: Count
    """Samples per step, over all GPUs. Paper: 512, 4096."""
    learning_rate: Positive
    """Highest learning rate. Paper: 1e-4, 3e-3."""
    decay: Literal["cosine", "none"] = "cosine"
    """How the learning rate falls after the warm-up: along a cosine to 0, or not at all."""
    clip: Positive | None = None
    """Largest norm of the gradient of all weights: a longer one is shortened to it; null: none is."""
    loss: dict = {"name": "cross_entropy"}
    """The loss: a name, or {name: ..., options}."""
    optimizer: dict = {"name": "adam"}
    """The optimizer: a name, or {name: ..., options}."""
    augment: Flag = False
    """Whether to crop and flip images at random. The paper does not mention it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of activations; weights are always float32. auto: bfloat16 on CUDA, float32 elsewhere."""
    train_samples: Count | None = None
    """Number of training samples, drawn at random, the same for every run; null: all."""
    test_samples: Count | None = None
    """Number of test samples, drawn likewise; null: all. With few training samples, testing on all takes most of the
    time."""
    shuffled_labels: Flag = False
    """Whether training labels are shuffled, so that they can only be memorised."""
    snapshots: Count = 12
    """Number of epochs after which weights are kept: 0, the last, and others evenly spaced in log(epoch)."""
    snapshots_per_doubling: Size = 0
    """Number of further snapshots each time the step doubles, at steps evenly spaced in log(step)."""

    def used_samples(self, train, test):
        """Numbers of training and test samples that are used, of those in the dataset; a tuple."""
        return min(self.train_samples or train, train), min(self.test_samples or test, test)

    def is_mixed(self, device):
        """Whether activations are bfloat16 on a device of this type, such as "cuda" or "cpu"."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device == "cuda")

    def learning_rate_at(self, step, steps):
        """Learning rate of a step, from 0, if an epoch has `steps`: a linear rise, then a cosine to 0, or the highest.

        The paper calls it "cyclic learning rate decay with a linear warmup schedule".
        """
        warmup, total = self.warmup_epochs * steps, self.epochs * steps
        if step < warmup:
            return self.learning_rate * ((step + 1) / warmup)
        if self.decay == "none":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    def snapshot_epochs(self):
        """Epochs after which weights are kept, ascending: 0, the last, and others evenly spaced in log(epoch)."""
        wanted = min(self.snapshots, self.epochs + 1)
        chosen = [0, 1] if wanted > 2 else [0]
        while len(chosen) < wanted:  # rounded, the first ones would coincide; they are consecutive instead
            last, remaining = chosen[-1], wanted - len(chosen)
            ratio = (self.epochs / max(last, 1)) ** (1 / remaining)
            chosen.append(max(last + 1, round(max(last, 1) * ratio)))
        return chosen

    def snapshot_steps(self, steps):
        """Steps after which weights are kept, ascending, from 0, if an epoch has `steps`; a list of int."""
        chosen, last = {epoch * steps for epoch in self.snapshot_epochs()}, self.epochs * steps
        if self.snapshots_per_doubling:
            count = math.ceil(self.snapshots_per_doubling * math.log2(last)) + 1
            chosen |= {round(2 ** (number / self.snapshots_per_doubling)) for number in range(count)}
        return sorted(step for step in chosen if step <= last)
