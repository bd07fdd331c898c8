"""The language model against a second implementation, made of the products that are measured."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from rank_increase.networks.gpt import GPT
from rank_increase.notation import WEIGHTS

# No two sizes are equal, so that no transposition goes unnoticed.
SIZES = {"dim": 12, "depth": 2, "heads": 3, "dim_head": 5, "mlp_dim": 7}
LENGTH, CLASSES = 6, 11


def make(seed=0, **change):
    torch.manual_seed(seed)
    return GPT((LENGTH,), CLASSES, **{**SIZES, **change}).double()


def normed(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return x * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + (0 if layer.bias is None else layer.bias.detach().numpy())


def second(model, tokens):
    """Logits by W_K W_Q^T and W_V W_O^T of every head, as the model names them; (batch, length, classes)."""
    x = model.embedding.weight.detach().numpy()[tokens] + model.position.detach().numpy()
    weights = {name: weight.numpy() for name, weight in model.weights().items()}
    mask = np.tri(LENGTH, dtype=bool)
    for layer, block in enumerate(model.blocks):
        y, added = normed(x, block.attention_norm), 0.0
        for head in range(SIZES["heads"]):
            W_K, W_Q, W_V, W_O = (weights[f"layer_{layer}.{name}"][head] for name in WEIGHTS)
            scores = np.where(mask, y @ (W_K @ W_Q.T).T @ y.swapaxes(1, 2) / math.sqrt(SIZES["dim_head"]), -np.inf)
            P = np.exp(scores - scores.max(-1, keepdims=True))
            added = added + P / P.sum(-1, keepdims=True) @ y @ (W_V @ W_O.T)
        x = x + added
        hidden = linear(normed(x, block.mlp_norm), block.mlp[0])
        x = x + linear(0.5 * hidden * (1 + erf(hidden / math.sqrt(2))), block.mlp[2])
    return linear(normed(x, model.norm), model.head)


@pytest.fixture
def tokens():
    return torch.randint(CLASSES, (4, LENGTH), generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_products(tokens):
    model = make(embedding_std=1.0)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.W_Q.weight *= 4  # so that tokens do not attend to all alike
    expected = second(model, tokens.numpy())
    np.testing.assert_allclose(model(tokens).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert expected.shape == (4, LENGTH, CLASSES)


@pytest.mark.parametrize("place", range(LENGTH))
def test_no_prediction_sees_a_later_token(tokens, place):
    model, changed = make(), tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % CLASSES
    difference = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    assert (difference[:place] == 0).all() and (difference[place:] > 0).all()


def test_the_init_scale_leaves_embeddings_and_gains():
    one, other = make(), make()
    other.scale_initial_weights(0.3)
    kept = {"embedding.weight", "position"} | {name for name, _ in one.named_parameters() if "norm" in name}
    for (name, before), after in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(after, before * (1 if name in kept else 0.3))


def test_embeddings_start_with_their_deviation():
    torch.manual_seed(0)
    model = GPT((500,), 300, **{**SIZES, "embedding_std": 0.3})
    assert model.embedding.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert model.position.std().item() == pytest.approx(0.3, rel=0.05)


def test_products_are_those_of_every_layer():
    model = make()
    assert [(product.name, product.layer) for product in model.products()] == [
        ("KQ", 0),
        ("VO", 0),
        ("KQ", 1),
        ("VO", 1),
    ]
    assert {weight.shape for weight in model.weights().values()} == {(3, 12, 5)}


def test_images_are_no_text():
    with pytest.raises(ValueError, match=r"^samples of shape \(8, 8, 3\) are no sequences of tokens"):
        GPT((8, 8, 3), 10, **SIZES)
