"""Optimizers: torch's own with our options, against torch's defaults and against plain loops in float64."""

import inspect

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rank_increase.registry import registered
from rank_increase.training.optimizers import adam, adamw, sgd

ENTRIES = registered("optimizer")
TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
NAMES = {"beta1": ("betas", 0), "beta2": ("betas", 1)}  # where torch has another


def parameter(values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def moved(make, gradients, rates, **options):
    """Values of two weights after each step with given gradients and learning rates."""
    weight, values = parameter([0.7, -1.3]), []
    optimizer = make([weight], 123.0, **options)
    for gradient, rate in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate  # as the loop does
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        values.append(weight.detach().numpy().copy())
    return np.stack(values)


@pytest.fixture
def steps():
    """Gradients of two weights, and learning rates."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 2)) * np.geomspace(1, 1e-6, 30)[:, None], rng.uniform(0.01, 0.2, 30)


def test_the_optimizers_are_these():
    assert {name: entry.load() for name, entry in ENTRIES.items()} == {"adam": adam, "adamw": adamw, "sgd": sgd}


@pytest.mark.parametrize("name", TORCH)
def test_defaults_are_torchs(name):
    default = inspect.signature(TORCH[name]).parameters
    options = dict(ENTRIES[name].options().model_fields)
    required = {key for key, field in options.items() if field.is_required()}
    assert required == ({"weight_decay"} if name == "adamw" else set())
    for key in options.keys() - required:
        other, place = NAMES.get(key, (key, None))
        expected = default[other].default if place is None else default[other].default[place]
        assert options[key].default == expected, key
    given = dict.fromkeys(required, 0.1)
    [group] = ENTRIES[name].load()([parameter([0.0])], 0.3, **given).param_groups
    [expected] = TORCH[name]([parameter([0.0])], lr=0.3, **given).param_groups
    del group["params"], expected["params"]
    assert {**group, "fused": None} == {**expected, "fused": None}


@pytest.mark.parametrize("options", [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 0.1}, {"beta1": 0.0}])
@pytest.mark.parametrize("decay", [None, 0.0, 0.7])
def test_adam_and_adamw_are_plain_loops(steps, options, decay):
    beta1, beta2, eps = options.get("beta1", 0.9), options.get("beta2", 0.999), options.get("eps", 1e-8)
    weight, m, v, expected = np.array([0.7, -1.3]), 0, 0, []
    for step, (gradient, rate) in enumerate(zip(*steps, strict=True), 1):
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        change = m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)
        weight = weight - rate * (change + (decay or 0) * weight)
        expected.append(weight)
    found = moved(adam, *steps, **options) if decay is None else moved(adamw, *steps, weight_decay=decay, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_is_a_plain_loop(steps, momentum, decay):
    weight, velocity, expected = np.array([0.7, -1.3]), 0, []
    for gradient, rate in zip(*steps, strict=True):
        velocity = momentum * velocity + gradient + decay * weight
        weight = weight - rate * velocity
        expected.append(weight)
    np.testing.assert_allclose(moved(sgd, *steps, momentum=momentum, weight_decay=decay), expected, rtol=1e-10)


def test_first_step_of_adam_is_the_sign_of_the_gradient():
    np.testing.assert_allclose(moved(adam, [[1e-3, -5.0]], [0.25]), [[0.7 - 0.25, -1.3 + 0.25]], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"beta1": 0.0}),
        ("adam", {"beta1": 0.0, "beta2": 0.0}),
        ("adamw", {"weight_decay": 0.0, "beta2": 0.9}),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}),
        ("sgd", {"momentum": 0.99}),
    ],
)
def test_options_at_their_bounds_are_accepted_also_by_torch(name, options):
    accepted = ENTRIES[name].options()(**options)
    ENTRIES[name].load()([parameter([0.0])], 0.1, **accepted.model_dump())


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("adam", {"beta1": 1.0}, "beta1"),
        ("adam", {"beta2": 1.0}, "beta2"),
        ("adam", {"beta1": -0.1}, "beta1"),
        ("adam", {"eps": 0.0}, "eps"),
        ("adam", {"weight_decay": 0.1}, "weight_decay"),
        ("adamw", {}, "weight_decay"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay"),
        ("adamw", {"weight_decay": 0.1, "beta2": 1.0}, "beta2"),
        ("sgd", {"momentum": 1.0}, "momentum"),
        ("sgd", {"momentum": -0.5}, "momentum"),
        ("sgd", {"nesterov": True}, "nesterov"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_training(name, options, key):
    with pytest.raises(ValidationError, match=key):
        ENTRIES[name].options()(**options)
