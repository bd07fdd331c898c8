"""Whole runs, in float64, against a plain loop over a second implementation of model, losses and optimizers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rank_increase.data.packed import open_dataset
from rank_increase.training.snapshots import snapshot_path
from runs import MODEL, STEPS, job_path, recipe, results, train
from second import Transformer

SIZES = {key: value for key, value in MODEL.items() if key != "family"}


def plain_steps(dataset, job, epochs):
    """Images, float64 with mean 0 and variance 1, labels and learning rate of each step, as the recipe has it."""
    size, peak, warmup = job.recipe.batch_size, job.recipe.learning_rate, job.recipe.warmup_epochs * STEPS
    images, labels = normalised(dataset.train_samples, dataset), torch.tensor(dataset.train_labels)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([job.seed, epoch]).permutation(len(labels))
        for step in range(STEPS):
            done = (epoch - 1) * STEPS + step
            cosine = (1 + math.cos(math.pi * (done - warmup) / (epochs * STEPS - warmup))) / 2
            chosen = order[step * size : (step + 1) * size]
            yield images[chosen], labels[chosen], peak * (done + 1) / warmup if done < warmup else peak * cosine


def normalised(images, dataset):
    pixels = dataset.train_samples.astype(float)
    mean, std = (moment((0, 1, 2)).astype("f4").astype(float) for moment in (pixels.mean, pixels.std))  # as ours are
    return torch.tensor((images - mean) / std).permute(0, 3, 1, 2)


def plain_loss(name, logits, labels):
    """The sum over samples."""
    if name == "cross_entropy":
        shares = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        return -torch.log(shares[torch.arange(len(labels)), labels]).sum()
    wanted = torch.zeros_like(logits)
    wanted[torch.arange(len(labels)), labels] = 1
    return ((logits - wanted) ** 2).sum() / 2


def plain_optimizer(name, *, momentum=0.0, weight_decay=0.0, beta1=0.9, beta2=0.999, eps=1e-8):
    """A function that moves weights, a dict of tensors, by their gradients, in place."""
    state = {}

    def move(weights, gradients, rate):
        for key, weight in weights.items():
            gradient = gradients[key]
            if name == "sgd":
                velocity = momentum * state.get(key, 0) + gradient + weight_decay * weight
                state[key], change = velocity, velocity
            else:
                m, v, n = state.get(key, (0, 0, 0))
                m, v, n = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2, n + 1
                change = m / (1 - beta1**n) / (torch.sqrt(v / (1 - beta2**n)) + eps) + weight_decay * weight
                state[key] = m, v, n
            weight -= rate * change

    return move


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize(
    ("optimizer", "learning_rate"),
    [
        pytest.param({"name": "adam", "eps": 1e-3}, 3e-3, id="adam"),
        pytest.param(
            {"name": "adamw", "weight_decay": 3.0, "beta1": 0.8, "beta2": 0.99, "eps": 1e-3}, 3e-3, id="adamw"
        ),
        pytest.param({"name": "sgd"}, 0.1, id="sgd"),
        pytest.param({"name": "sgd", "momentum": 0.9, "weight_decay": 0.05}, 0.05, id="sgd with options"),
    ],
)
def test_run_is_that_of_a_plain_loop(job, dataset, double, loss, optimizer, learning_rate):
    settings = {"loss": {"name": loss}, "optimizer": optimizer, "learning_rate": learning_rate}
    job = replace(job, recipe=recipe(augment=False, snapshots_per_doubling=1, **settings))
    train(job)
    metrics, opened = results(job)[0], open_dataset(dataset)
    torch.manual_seed(job.seed)
    plain = Transformer(image_size=8, channels=2, classes=2, **SIZES)
    plain.scale(job.alpha)
    weights = {name: weight.requires_grad_() for name, weight in plain.weights.items()}
    move, losses, right = plain_optimizer(**optimizer), [], []
    for step, (images, labels, rate) in enumerate(plain_steps(opened, job, epochs=3), 1):
        logits = plain.logits(images)
        total = plain_loss(loss, logits, labels)
        gradients = dict(zip(weights, torch.autograd.grad(total / 16, list(weights.values())), strict=True))
        with torch.no_grad():
            move(weights, gradients, rate)
        losses.append(total.item() / 16)
        right.append((logits.argmax(1) == labels).double().mean().item())
        if step in (1, 2, 4, 8, 12):
            compare(load_file(snapshot_path(job_path(job) / "snapshots", step)), plain)
        if step % STEPS == 0:
            row = metrics.iloc[step // STEPS - 1]
            assert row["step"] == step and row["learning_rate"] == pytest.approx(rate, rel=1e-12)
            assert row["train_loss"] == pytest.approx(np.mean(losses[-STEPS:]), rel=1e-8)
            assert row["train_accuracy"] == pytest.approx(np.mean(right[-STEPS:]), rel=1e-12)
            assert on_test_split(plain, opened, loss) == pytest.approx(
                (row["test_loss"], row["test_accuracy"]), rel=1e-8
            )
    assert abs(losses[-1] - losses[0]) > 1e-3  # it has moved


def compare(snapshot, plain):
    assert len(snapshot) == 2 * 4
    for name, weight in snapshot.items():
        layer, letter = int(name[6]), name[-1]
        expected = torch.stack([plain.attention_matrix(layer, letter, head).detach() for head in range(2)])
        torch.testing.assert_close(weight, expected, rtol=1e-8, atol=1e-11, msg=name)


def on_test_split(plain, dataset, loss):
    """Mean loss and accuracy on the test split."""
    labels = torch.tensor(dataset.test_labels)
    with torch.no_grad():
        logits = plain.logits(normalised(dataset.test_samples, dataset))
    right = (logits.argmax(1) == labels).double().mean().item()
    return plain_loss(loss, logits, labels).item() / len(labels), right
