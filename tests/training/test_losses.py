"""Losses against closed forms, their gradients, and what the loop relies on: sums over samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.registry import registered
from rank_increase.training.losses import cross_entropy, hinge, squared_error

LOSSES = {name: entry.load() for name, entry in registered("loss").items()}


def drawn(seed, samples=7, classes=4, size=3.0):
    """Outputs and labels."""
    rng = np.random.default_rng(seed)
    outputs = torch.tensor(size * rng.standard_normal((samples, classes)), requires_grad=True)
    return outputs, torch.tensor(rng.integers(0, classes, samples))


def unit_vectors(labels, classes=4):
    return torch.eye(classes, dtype=torch.float64)[labels]


def test_the_losses_are_these():
    assert {"cross_entropy": cross_entropy, "squared_error": squared_error, "hinge": hinge} == LOSSES


def test_cross_entropy_in_closed_form(double):
    labels = torch.tensor([0, 2, 3])
    assert cross_entropy(torch.zeros(3, 4), labels).item() == pytest.approx(3 * math.log(4), rel=1e-14)
    # One logit t, the others 0: log(1 + 3 exp(-t)) if it is the label's, and t more if not.
    outputs = torch.zeros(3, 4)
    outputs[:, 2] = 1.7
    expected = 3 * math.log1p(3 * math.exp(-1.7)) + 2 * 1.7
    assert cross_entropy(outputs, labels).item() == pytest.approx(expected, rel=1e-14)
    certain = 1e4 * unit_vectors(labels)
    assert cross_entropy(certain, labels).item() == 0
    assert cross_entropy(-certain, labels).item() == pytest.approx(3 * (1e4 + math.log(3)), rel=1e-14)


def test_squared_error_in_closed_form(double):
    labels = torch.tensor([0, 2, 3])
    assert squared_error(unit_vectors(labels), labels).item() == 0
    assert squared_error(torch.zeros(3, 4), labels).item() == 1.5
    assert squared_error(torch.full((3, 4), 2.0), labels).item() == pytest.approx(3 * (1 + 3 * 4) / 2, rel=1e-14)


def test_hinge_in_closed_form(double):
    labels = torch.tensor([0, 2, 3])
    assert hinge(torch.zeros(3, 4), labels).item() == 12
    assert hinge(2 * unit_vectors(labels) - 1, labels).item() == 0
    # 2 of the label is beyond its margin, 2 of another class 3 away from its own, and 0 is 1 away.
    assert hinge(2 * unit_vectors(torch.tensor([0, 0, 3])), labels).item() == 3 + (3 + 1 + 2) + 3


@pytest.mark.parametrize("seed", range(3))
def test_gradients(double, seed):
    outputs, labels = drawn(seed)
    [gradient] = torch.autograd.grad(cross_entropy(outputs, labels), outputs)
    shares = torch.softmax(outputs.detach(), dim=1)
    torch.testing.assert_close(gradient, shares - unit_vectors(labels), rtol=1e-12, atol=1e-13)
    [gradient] = torch.autograd.grad(squared_error(outputs, labels), outputs)
    torch.testing.assert_close(gradient, outputs.detach() - unit_vectors(labels), rtol=1e-14, atol=0)
    for loss in LOSSES.values():
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels), outputs)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 9), cut=st.integers(0, 9))
def test_loss_is_the_sum_over_samples_and_never_negative(name, seed, samples, cut):
    outputs, labels = drawn(seed, samples)
    loss, outputs = LOSSES[name], outputs.detach()
    whole = loss(outputs, labels)
    assert whole.shape == () and whole >= 0
    torch.testing.assert_close(loss(outputs[:cut], labels[:cut]) + loss(outputs[cut:], labels[cut:]), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_label_for_each_position_is_the_mean_over_them(name):
    outputs, labels = drawn(3, samples=12)
    of_each = [LOSSES[name](outputs[n : n + 1], labels[n : n + 1]) for n in range(12)]
    expected = torch.stack(of_each).reshape(3, 4).mean(1).sum()
    torch.testing.assert_close(LOSSES[name](outputs.reshape(3, 4, 4), labels.reshape(3, 4)), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_outputs_of_half_precision_are_summed_in_single(name):
    outputs, labels = drawn(0, samples=4000)
    half = outputs.detach().bfloat16()
    found = LOSSES[name](half, labels)
    assert found.dtype == torch.float32
    numbers = half.double().numpy()
    if name == "cross_entropy":
        exact = (np.log(np.exp(numbers).sum(1)) - numbers[np.arange(4000), labels]).sum()
    elif name == "squared_error":
        exact = ((numbers - np.eye(4)[labels]) ** 2).sum() / 2
    else:
        exact = np.maximum(0, 1 - (2 * np.eye(4)[labels] - 1) * numbers).sum()
    assert found.item() == pytest.approx(exact, rel=1e-5)
