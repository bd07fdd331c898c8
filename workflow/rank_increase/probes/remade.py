"""A trained network made again from its snapshots, to see what it computes with these weights, or others."""

import numpy as np
import torch

from rank_increase.data.batches import Batches
from rank_increase.registry import find
from rank_increase.training.loop import initial_model


class RemadeNetwork:
    """A network whose weights can be set, in double precision (losses in single) on the CPU.

    Parameters
    ----------
    dataset : data.packed.Dataset
        What it was trained on.
    snapshots : training.snapshots.Snapshots
        Of a run.
    model, recipe : dict
        As configured.
    alpha, seed : str or float, int
        Of the run.
    extensions : tuple of str

    Raises
    ------
    ValueError
        If the model does not start with the weights of the first snapshot, so that what is not in the snapshots, such
        as a frozen embedding, would be another's too.
    """

    def __init__(self, dataset, snapshots, *, model, recipe, alpha, seed, extensions=()):
        self._snapshots = snapshots
        self.model = initial_model(dataset.manifest, model, float(alpha), seed, extensions)
        for name, weight in self.model.weights().items():
            # Drawn in float32 by the same generator, so they are equal to the last bit on the machine that trained.
            if not np.allclose(weight.numpy(), snapshots.weight(0, name), rtol=1e-5, atol=0):
                raise ValueError(f"{name} of the model with seed {seed} is not that of the first snapshot")
        self.model.double().eval()
        options = {key: value for key, value in recipe["loss"].items() if key != "name"}
        loss = find("loss", recipe["loss"]["name"], extensions).load()
        self._loss = lambda outputs, labels: loss(outputs, labels, **options)
        chosen = {key: recipe[key] for key in ("train_samples", "test_samples", "shuffled_labels")}
        batches = Batches(dataset, torch.device("cpu"), batch_size=1, seed=seed, **chosen)
        self._train = self._converted(batches, batches.train_at_once())
        self._test = self._converted(batches, next(batches.test(batches.test_count)))

    def weights(self, step):
        """Weights at a step: a dict of tensors."""
        return {name: torch.from_numpy(self._snapshots.weight(step, name)) for name in self.model.weights()}

    def accuracy(self, weights):
        """Accuracy on the test split with these weights."""
        self.model.set_weights(weights)
        inputs, labels = self._test
        with torch.no_grad():
            return (self.model(inputs).argmax(-1) == labels).double().mean().item()

    def gradient(self, weights, count=None):
        """Gradient of the mean loss on the first `count` training samples, all if not given: a dict of tensors."""
        self.model.set_weights(weights)
        inputs, labels = (part[:count] for part in self._train)
        loss = self._loss(self.model(inputs), labels) / len(labels)
        parameters = dict(self.model.named_parameters())
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    @staticmethod
    def _converted(batches, samples_and_labels):
        """Samples as the model takes them, in double precision, and labels."""
        samples, labels = samples_and_labels
        inputs = batches.inputs(samples)
        return inputs.double() if inputs.is_floating_point() else inputs, labels
