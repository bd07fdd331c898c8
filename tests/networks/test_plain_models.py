"""The decoder and the model of patterns, against the formulas of their papers with loops over heads and tokens."""

import math

import pytest
import torch

from rank_increase.networks.decoder import Decoder
from rank_increase.networks.patterns import Patterns


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def attended(x, weights, layer, causal):
    """What attention gives each token of one sample (tokens, dim): head by head, token by token."""
    heads = []
    W = {name: weights[f"layer_{layer}.{name}"] for name in ("W_K", "W_Q", "W_V")}
    for head in range(len(W["W_K"])):
        keys, queries, values = (x @ W[name][head] for name in ("W_K", "W_Q", "W_V"))
        out = []
        for token in range(len(x)):
            seen = slice(0, token + 1) if causal else slice(None)
            scores = keys[seen] @ queries[token] / math.sqrt(keys.shape[1])
            out.append(torch.softmax(scores, 0) @ values[seen])
        heads.append(torch.stack(out))
    return torch.cat(heads, dim=1)


@pytest.mark.parametrize(("depth", "heads", "residual"), [(1, 1, False), (2, 3, True)])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_decoder_is_its_formula(depth, heads, residual, activation):
    torch.manual_seed(0)
    options = {"depth": depth, "heads": heads, "residual": residual, "activation": activation, "std": 0.5}
    model = Decoder((5,), 11, dim=6, mlp_dim=7, predicts="each", **options)
    tokens = torch.randint(11, (2, 5))
    weights = model.weights()
    for sample, found in zip(tokens, model(tokens), strict=True):
        x = model.embedding[sample] + model.position
        for layer in range(depth):
            x = residual * x + attended(x, weights, layer, causal=True)
            hidden = x @ weights[f"layer_{layer}.W_1"][0]
            hidden = torch.tanh(hidden) if activation == "tanh" else torch.nn.functional.gelu(hidden)
            x = residual * x + hidden @ weights[f"layer_{layer}.W_2"][0]
        torch.testing.assert_close(found, x @ model.output)
    torch.manual_seed(0)
    last = Decoder((5,), 11, dim=6, mlp_dim=7, predicts="last", **options)
    torch.testing.assert_close(last(tokens), model(tokens)[:, -1])


@pytest.mark.parametrize(("depth", "heads"), [(1, 1), (2, 2)])
def test_patterns_is_its_formula(depth, heads):
    torch.manual_seed(0)
    model = Patterns((4, 6), 3, neurons=8, depth=depth, heads=heads, std=0.5)
    samples = torch.randn(2, 4, 6)
    weights = model.weights()
    for sample, found in zip(samples, model(samples), strict=True):
        x = sample
        for layer in range(depth):
            hidden = torch.relu(attended(x, weights, layer, causal=False) @ weights[f"layer_{layer}.W_O"][0].T)
            if layer < depth - 1:
                x = x + hidden @ getattr(model, f"back_{layer}")
        of_class = [sum((1 if n % 3 == k else -1) * hidden[:, n].mean() for n in range(8)) / 8 for k in range(3)]
        torch.testing.assert_close(found, torch.stack(of_class))


def test_patterns_start_at_the_identity():
    model = Patterns((4, 6), 2, neurons=5, heads=3, scale=0.3)
    for name in ("W_K", "W_Q", "W_V"):
        weight = model.weights()[f"layer_0.{name}"]
        assert weight.shape == (3, 6, 2)
        torch.testing.assert_close(torch.cat(list(weight), dim=1), 0.3 * torch.eye(6))


@pytest.mark.parametrize(
    "model",
    [lambda: Decoder((5,), 11, dim=6, mlp_dim=7, std=0.1), lambda: Patterns((4, 6), 3, neurons=8, depth=2)],
)
def test_weights_are_scaled_set_and_named(model):
    torch.manual_seed(1)
    one = model()
    before = one.weights()
    assert {matrix.weight for matrix in one.matrices()} == set(before)
    assert all(matrix.weight == f"layer_{matrix.layer}.{matrix.name}" for matrix in one.matrices())
    assert {name for product in one.products() for name in product[2:]} <= set(before)
    one.scale_initial_weights(0.5)
    for name, weight in one.weights().items():
        torch.testing.assert_close(weight, before[name] / 2)
    one.set_weights(before)
    for name, weight in one.weights().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


def test_initial_weights_have_the_standard_deviation_that_is_said():
    torch.manual_seed(0)
    for name, weight in Decoder((5,), 11, dim=64, mlp_dim=128, std=0.02).weights().items():
        assert weight.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Decoder((8, 8, 1), 10, dim=4, mlp_dim=4, std=1.0), "are no sequences of tokens"),
        (lambda: Decoder((8,), 10, dim=4, mlp_dim=4, std=1.0, heads=3), "3 heads do not divide 4 features"),
        (lambda: Patterns((8, 8, 1), 10, neurons=4), "are no rows of features"),
        (lambda: Patterns((8, 9), 10, neurons=4, heads=2), "2 heads do not divide 9 features"),
    ],
)
def test_mistakes_are_sentences(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
