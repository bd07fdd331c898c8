"""A user's model with products of another name, loss and optimizer, out of a file of the user's."""

from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
import torch.nn.functional as F

from rank_increase.probes.spectra import spectra_frame
from rank_increase.training.snapshots import Snapshots
from runs import STEPS, job_path, recipe, run_of, train

EXTENSION = """
    import torch
    from torch import nn

    from rank_increase.networks.attention import Product
    from rank_increase.options import Count, Positive
    from rank_increase.registry import register


    @register.model("two_layers")
    class TwoLayers(nn.Module):
        def __init__(self, shape, classes, *, width: Count):
            super().__init__()
            height, side, channels = shape
            self.first = nn.Linear(height * side * channels, width, bias=False)
            self.second = nn.Linear(width, classes, bias=False)

        def forward(self, images):
            return self.second(self.first(images.flatten(1)))

        def scale_initial_weights(self, scale):
            with torch.no_grad():
                self.second.weight *= scale

        def products(self):
            return [Product("whole", 0, "inwards", "outwards")]

        def weights(self):
            inwards = self.first.weight.detach().T  # (pixels, width)
            outwards = torch.zeros_like(inwards)
            outwards[: len(self.second.weight)] = self.second.weight.detach()
            return {"inwards": inwards[None].clone(), "outwards": outwards[None]}


    @register.loss("fourth_power")
    def fourth_power(outputs, labels, *, weight: Positive = 1.0):
        return weight * (outputs - nn.functional.one_hot(labels, outputs.shape[-1])).pow(4).sum()


    @register.optimizer("signs")
    def signs(parameters, learning_rate):
        return torch.optim.Rprop(parameters, lr=learning_rate)
"""


@pytest.fixture
def own(job, tmp_path):
    """A finished run of the user's model."""
    (tmp_path / "mine.py").write_text(dedent(EXTENSION))
    chosen = {"loss": {"name": "fourth_power", "weight": 3.0}, "optimizer": {"name": "signs"}}
    settings = recipe(learning_rate=1e-3, epochs=2, augment=False, snapshots_per_doubling=1, **chosen)
    model = {"family": "two_layers", "width": 3}
    job = replace(job, model=model, recipe=settings, extensions=(str(tmp_path / "mine.py"),))
    train(job)
    return job


def test_snapshots_hold_the_products_that_the_model_names(own):
    snapshots = Snapshots(job_path(own) / "snapshots")
    assert snapshots.products == [("whole", 0, "inwards", "outwards")] and snapshots.steps == [0, 1, 2, 4, 8]
    run = run_of(replace(own, scratch=f"{own.scratch}_untrained"))
    images = run.batches.inputs(next(run.batches.train(1))[0])
    A, B = snapshots.factors(0, snapshots.products[0])
    assert A.shape == B.shape == (1, 128, 3) and not B[0, 2:].any() and B[0, :2].all()
    outputs = run.model(images).detach().numpy()
    np.testing.assert_allclose(images.flatten(1).numpy() @ (A[0] @ B[0].T)[:, :2], outputs, rtol=1e-4, atol=1e-6)


def test_it_is_trained_by_the_loss_and_the_optimizer_of_the_user(own):
    run = run_of(replace(own, scratch=f"{own.scratch}_untrained"))
    images, labels = next(run.batches.train(1))
    outputs = run.model(run.batches.inputs(images)).detach()
    expected = 3 * (outputs - F.one_hot(labels, 2)).pow(4).sum()
    assert run.loss(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    snapshots = Snapshots(job_path(own) / "snapshots")
    before, after = (snapshots.factors(step, snapshots.products[0]) for step in (0, 1))
    # The first step of this optimizer is the learning rate in each weight; the rest of B is padding.
    for factor, (initial, moved) in enumerate(zip(before, after, strict=True)):
        change = np.abs(moved - initial)[0, : 128 if factor == 0 else 2]
        np.testing.assert_allclose(change, run.recipe.learning_rate_at(0, STEPS), rtol=1e-3)


def test_spectra_are_those_of_the_products_that_the_model_names(own):
    snapshots = Snapshots(job_path(own) / "snapshots")
    spectra = spectra_frame(snapshots, seed=0)
    assert set(spectra["product"]) == {"whole"} and set(spectra["head"]) == {0} and set(spectra["layer"]) == {0}
    product = {
        step: (lambda A, B: A[0] @ B[0].T)(*snapshots.factors(step, snapshots.products[0])) for step in (0, 2, 8)
    }
    for matrix, step, expected in (
        ("initial", 0, product[0]),
        ("trained", 2, product[2]),
        ("delta", 8, product[8] - product[0]),
    ):
        found = spectra[(spectra["step"] == step) & (spectra["matrix"] == matrix)]["singular_values"].item()
        np.testing.assert_allclose(found, np.linalg.svd(expected, compute_uv=False)[: len(found)], atol=1e-12)
        assert found[0] > 1e-3
