import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase.toy.heads import DiagonalHead
from rank_increase.toy.losses import teach
from rank_increase.toy.transformer import DiagonalTransformer, products


def torch_loss_and_g(X, Y, p, shape, loss, bias, W_A, W_B):
    """Loss of Example 3.2 as the paper writes it, and minus its gradient in the products, by autograd."""
    p = torch.tensor(p, requires_grad=True)
    Z, Y = torch.tensor(X), torch.tensor(Y)
    bias, W_A, W_B = (None if array is None else torch.tensor(array) for array in (bias, W_A, W_B))
    for layer, heads in enumerate(p.reshape(shape)):
        attended = 0 if W_A is None else Z
        for head, (a, b) in enumerate(heads):
            S = Z @ torch.diag(a) @ Z.transpose(1, 2) + bias[layer, head]
            attended = attended + torch.softmax(S, dim=-1) @ Z @ torch.diag(b)
        Z = attended
        if W_A is not None:
            Z = attended + torch.nn.functional.gelu(attended @ W_A[layer]) @ W_B[layer].T
    entropy = -(Y * torch.log_softmax(Z, dim=-1)).sum(dim=-1).mean()
    value = ((Z - Y) ** 2).mean() / 2 if loss == "squared" else entropy
    value.backward()
    return value.item(), -p.grad.numpy()


def drawn(seed, layers, heads, samples, tokens, dim, loss, labels="soft", feed_forward=True):
    """X, Y, fixed weights and products."""
    rng = np.random.default_rng(seed)
    X, outputs = rng.standard_normal((2, samples, tokens, dim))
    W_A, W_B = rng.standard_normal((2, layers, dim, dim + 1)) / np.sqrt(dim) if feed_forward else (None, None)
    fixed = {"bias": rng.standard_normal((layers, heads, tokens, tokens)), "W_A": W_A, "W_B": W_B}
    return X, teach(outputs, loss, labels), fixed, rng.standard_normal(layers * heads * 2 * dim)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    shape=st.sampled_from([(1, 4, 5), (7, 1, 3), (6, 3, 1), (5, 4, 6)]),
    loss=st.sampled_from([("squared", "soft"), ("cross_entropy", "soft"), ("cross_entropy", "hard")]),
    feed_forward=st.booleans(),
    scale=st.sampled_from([1e-3, 0.3, 1.0]),
)
def test_loss_and_g_agree_with_autograd(seed, layers, heads, shape, loss, feed_forward, scale):
    X, Y, fixed, p = drawn(seed, layers, heads, *shape, *loss, feed_forward)
    transformer = DiagonalTransformer(X, Y, loss=loss[0], **fixed)
    assert transformer.shape == (layers, heads, 2, shape[2])
    value, g = transformer.loss_and_g(scale * p)
    expected, expected_g = torch_loss_and_g(X, Y, scale * p, transformer.shape, loss[0], **fixed)
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-13)
    np.testing.assert_allclose(g, expected_g, rtol=1e-7, atol=1e-11 * max(1.0, abs(expected_g).max()))


def test_one_head_without_feed_forward_part_and_bias_is_the_single_head():
    X, Y, _, p = drawn(0, 1, 1, 20, 5, 6, "squared")
    loss, g = DiagonalTransformer(X, Y, loss="squared", bias=np.zeros((1, 1, 5, 5))).loss_and_g(p)
    expected, expected_g = DiagonalHead(X, Y).loss_and_g(p)
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(g, expected_g, rtol=1e-9, atol=1e-14)


def test_the_loss_is_the_mean_over_subsets_of_the_samples():
    X, Y, fixed, p = drawn(1, 2, 2, 8, 3, 4, "cross_entropy")
    transformer = DiagonalTransformer(X, Y, loss="cross_entropy", **fixed)
    loss, g = transformer.loss_and_g(p)
    parts = [transformer.subset(slice(2)).loss_and_g(p), transformer.subset(np.arange(2, 8)).loss_and_g(p)]
    assert loss == pytest.approx(0.25 * parts[0][0] + 0.75 * parts[1][0], rel=1e-12)
    np.testing.assert_allclose(g, 0.25 * parts[0][1] + 0.75 * parts[1][1], atol=1e-14)


def test_identical_heads_have_the_same_slopes_and_a_bias_tells_them_apart():
    X, Y, fixed, _ = drawn(2, 2, 2, 10, 3, 4, "squared")
    one_head = np.random.default_rng(3).standard_normal((2, 1, 2, 4))
    p = np.repeat(one_head, 2, axis=1).ravel()
    for bias, same in ((np.zeros((2, 2, 3, 3)), True), (fixed["bias"], False)):
        transformer = DiagonalTransformer(X, Y, loss="squared", **{**fixed, "bias": bias})
        first, second = transformer.loss_and_g(p)[1].reshape(transformer.shape).swapaxes(0, 1)
        assert np.allclose(first, second, rtol=1e-10) == same


def test_products_come_layer_by_layer_head_by_head_keys_and_queries_first():
    theta = np.random.default_rng(0).standard_normal((4, 2, 3, 5))
    W_K, W_Q, W_V, W_O = theta
    found = products(theta).reshape(2, 3, 2, 5)
    np.testing.assert_array_equal(found[:, :, 0], W_K * W_Q)
    np.testing.assert_array_equal(found[:, :, 1], W_V * W_O)
    np.testing.assert_array_equal(products(theta[:, 0, 0]), found[0, 0].ravel())
