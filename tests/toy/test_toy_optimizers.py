import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.toy.optimizers import orthogonalise, update_rule


def walked(rule, theta, gradients):
    """Weights after each of these gradients."""
    visited = []
    for gradient in gradients:
        theta = theta + rule(-gradient)
        visited.append(theta)
    return np.array(visited)


def walked_by_torch(make, theta, gradients):
    """The same by a torch optimizer, which has one parameter for each weight matrix."""
    parameters = [torch.tensor(weight, requires_grad=True) for weight in theta]
    optimizer, visited = make(parameters), []
    for gradient in gradients:
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = torch.tensor(part)
        optimizer.step()
        visited.append(np.stack([parameter.detach().numpy().copy() for parameter in parameters]))
    return np.array(visited)


def drawn(*shape, scale=1.0):
    """Weights, and ten gradients with a common part, some of them tiny."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((10, *shape)) + rng.standard_normal(shape)
    return rng.standard_normal(shape), scale * gradients


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-12])
@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 5)])
def test_adam_is_that_of_torch(shape, scale):
    theta, gradients = drawn(*shape, scale=scale)
    found = walked(update_rule("adam", 0.01, beta1=0.8, beta2=0.99, eps=1e-8), theta, gradients)
    expected = walked_by_torch(
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.8, 0.99), eps=1e-8), theta, gradients
    )
    np.testing.assert_allclose(found - theta, expected - theta, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-12])
def test_muon_is_that_of_torch_in_double_precision(monkeypatch, scale):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    theta, gradients = drawn(4, 5, 5, scale=scale)
    found = walked(update_rule("muon", 0.01, momentum=0.9, eps=1e-7), theta, gradients)
    expected = walked_by_torch(
        lambda parameters: torch.optim.Muon(parameters, lr=0.01, weight_decay=0.0, momentum=0.9, eps=1e-7),
        theta,
        gradients,
    )
    np.testing.assert_allclose(found - theta, expected - theta, rtol=1e-7, atol=1e-15)


def test_sign_descent_is_adam_without_memory():
    theta, gradients = drawn(4, 6)
    found = walked(update_rule("sign", 0.01), theta, gradients)
    expected = walked_by_torch(
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.0, 0.0), eps=1e-300), theta, gradients
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["gd", "sgd"])
def test_gradient_descent_is_that_of_torch(method):
    theta, gradients = drawn(4, 5, 5)
    expected = walked_by_torch(lambda parameters: torch.optim.SGD(parameters, lr=0.01), theta, gradients)
    np.testing.assert_allclose(walked(update_rule(method, 0.01), theta, gradients), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["adam", "muon"])
def test_diagonal_weights_move_as_the_diagonals_of_full_ones(method):
    options = {"adam": {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}, "muon": {"momentum": 0.9, "eps": 1e-8}}[method]
    theta, gradients = drawn(4, 6)
    full = np.array([[np.diag(weight) for weight in gradient] for gradient in gradients])
    found = walked(update_rule(method, 0.01, **options), np.zeros((4, 6)), gradients)
    expected = walked(update_rule(method, 0.01, **options), np.zeros((4, 6, 6)), full)
    np.testing.assert_allclose(np.diagonal(expected, axis1=2, axis2=3), found, rtol=1e-9)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_orthogonalise_keeps_singular_vectors_and_evens_out_singular_values(values, seed):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((len(values), len(values))))[0] for _ in range(2))
    values = np.array(values)
    found = U.T @ orthogonalise((U * values @ V.T)[None], 1e-8)[0] @ V
    np.testing.assert_allclose(found - np.diag(np.diag(found)), 0, atol=1e-9)
    large = values / np.linalg.norm(values) > 0.01
    assert (np.diag(found)[large] > 0.67).all() and (np.diag(found) < 1.22).all()
