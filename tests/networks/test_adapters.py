"""Products of other libraries' weights, against what their own attention computes from the same tokens."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rank_increase.notation import WEIGHTS
from rank_increase.registry import find, registered

DATA = Path(__file__).parents[1] / "data"
DIM, HEADS, DIM_HEAD = 24, 3, 8
RECORDED = ["gpt2", "gpt_neox", "timm_vit"]  # by make_foreign_models.py
FAMILIES = [*RECORDED, "torchvision_vit"]


@cache
def recorded(family):
    """Tensors of a model, and what each of its attention layers receives, attends to, and adds."""
    if family == "torchvision_vit":
        return of_torchvision()
    found = load_file(DATA / f"foreign_{family}.safetensors")
    tensors = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
    seen = [{key: found[f"seen.{key}.{layer}"] for key in ("x", "probabilities", "added")} for layer in range(2)]
    return tensors, seen


def of_torchvision():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models import VisionTransformer
    torch.manual_seed(0)
    model = VisionTransformer(4, 2, 2, HEADS, DIM, 28).eval()
    seen = []
    for block in model.encoder.layers:
        torch.nn.init.normal_(block.self_attention.in_proj_weight, std=0.3)  # or all tokens get equal weights

        def keep(attention, args, output):
            probabilities = attention.forward(*args, need_weights=True, average_attn_weights=False)[1]
            kept = {"x": args[0], "probabilities": probabilities, "added": output[0]}
            seen.append({key: value.detach().numpy() for key, value in kept.items()})

        block.self_attention.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.randn(2, 3, 4, 4))
    return {name: value.numpy() for name, value in model.state_dict().items()}, seen


def rotation(distance):
    """R_d of the recorded GPT-NeoX: half of a head's eight features are turned, in two planes."""
    turned = np.eye(DIM_HEAD)
    for plane in range(2):
        angle = distance * 10000 ** (-plane / 2)
        places = np.ix_([plane, plane + 2], [plane, plane + 2])
        turned[places] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turned


def logits(family, x, W_K, W_Q):
    """Of a head: query first, (batch, tokens, tokens)."""
    if family != "gpt_neox":
        return x @ (W_Q @ W_K.T) @ x.swapaxes(1, 2)
    tokens = x.shape[1]
    found = np.empty((len(x), tokens, tokens))
    for query in range(tokens):
        for key in range(tokens):
            product = W_Q @ rotation(key - query) @ W_K.T
            found[:, query, key] = np.einsum("bd,de,be->b", x[:, query], product, x[:, key])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_those_of_the_models_own_forward_pass(family):
    tensors, seen = recorded(family)
    layers = find("adapter", family).load()(tensors, heads=HEADS)
    assert len(layers) == len(seen) == 2
    for weights, layer in zip(layers, seen, strict=True):
        assert {name: weight.shape for name, weight in weights.items()} == dict.fromkeys(
            WEIGHTS, (HEADS, DIM, DIM_HEAD)
        )
        x, added = layer["x"].astype(float), 0.0
        for head in range(HEADS):
            W_K, W_Q, W_V, W_O = (weights[name][head].astype(float) for name in WEIGHTS)
            scores = logits(family, x, W_K, W_Q) / DIM_HEAD**0.5
            if family in ("gpt2", "gpt_neox"):
                scores = np.where(np.tri(x.shape[1]), scores, -np.inf)
            P = np.exp(scores - scores.max(-1, keepdims=True))
            P /= P.sum(-1, keepdims=True)
            np.testing.assert_allclose(layer["probabilities"][:, head], P, atol=1e-4)
            added = added + P @ x @ (W_V @ W_O.T)
        assert np.abs(P - np.tri(x.shape[1]) / np.arange(1, x.shape[1] + 1)[:, None]).max() > 0.1  # not all alike
        np.testing.assert_allclose(layer["added"], added, atol=1e-4 * np.abs(added).max())


def test_rotary_positions_leave_the_product_at_distance_0():
    tensors, seen = recorded("gpt_neox")
    weights = find("adapter", "gpt_neox").load()(tensors, heads=HEADS)[0]
    x, W_K, W_Q = seen[0]["x"][:, :1].astype(float), weights["W_K"][0].astype(float), weights["W_Q"][0].astype(float)
    np.testing.assert_allclose(logits("gpt_neox", x, W_K, W_Q), x @ W_Q @ W_K.T @ x.swapaxes(1, 2))
    one = np.linalg.svd(W_K @ W_Q.T, compute_uv=False)
    far = np.linalg.svd(W_Q @ rotation(3) @ W_K.T, compute_uv=False)
    assert np.abs(one - far).max() > 0.01 * one[0]  # so the page says of which distance it speaks


@pytest.mark.parametrize("family", FAMILIES)
def test_names_may_have_a_prefix_or_none(family):
    tensors, _ = recorded(family)
    prefix = {"gpt2": "transformer.", "gpt_neox": "gpt_neox.", "torchvision_vit": "encoder."}.get(family, "")
    adapter = find("adapter", family).load()
    bare = adapter({name.removeprefix(prefix): value for name, value in tensors.items()}, heads=HEADS)
    wrapped = adapter({f"module.{name}": value for name, value in tensors.items()}, heads=HEADS)
    for one, other in zip(bare, wrapped, strict=True):
        for name in WEIGHTS:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_keep_their_numbers_beyond_ten(family):
    tensors, _ = recorded(family)
    many = {}
    for layer in range(12):
        for name, value in tensors.items():
            if ".1." in name or "layer_1." in name:
                many[name.replace(".1.", f".{layer}.").replace("layer_1.", f"layer_{layer}.")] = value + layer
    layers = find("adapter", family).load()(many, heads=HEADS)
    assert len(layers) == 12
    steps = [layers[n + 1]["W_V"] - layers[n]["W_V"] for n in range(11)]
    np.testing.assert_allclose(steps, 1, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_mistakes_are_told(family):
    tensors, _ = recorded(family)
    adapter = find("adapter", family).load()
    with pytest.raises(ValueError, match=r"24 features cannot be shared out among 5 heads: set `heads` as it says\.$"):
        adapter(tensors, heads=5)
    with pytest.raises(ValueError, match=r"for each layer, numbered from 0, but it has none\.$"):
        adapter({"lm_head.weight": tensors}, heads=HEADS)
    lacking = {name: value for name, value in tensors.items() if ".0." not in name and "layer_0." not in name}
    with pytest.raises(ValueError, match="for each layer, numbered from 0, but it has .*1"):
        adapter(lacking, heads=HEADS)


def test_a_vit_with_normalised_queries_has_no_such_product():
    tensors = {**recorded("timm_vit")[0], "blocks.0.attn.q_norm.weight": np.ones(8)}
    with pytest.raises(ValueError, match="it normalises queries and keys"):
        find("adapter", "timm_vit").load()(tensors, heads=HEADS)


def test_every_adapter_is_tested():
    assert set(FAMILIES) == set(registered("adapter"))
