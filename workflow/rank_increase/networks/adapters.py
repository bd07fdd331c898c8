"""Adapters: the attention weights of other libraries' checkpoints, per head and in the paper's orientation.

An adapter takes the tensors of a checkpoint by name and returns W_K, W_Q, W_V, W_O of each layer. With x for what the
attention receives, after its LayerNorm, x W_Q W_K^T x^T is the part of a head's logits that depends on both tokens, and
x W_V W_O^T what the head adds to the tokens that attend to x. Biases, the scale of the logits, LayerNorm and LayerScale
are in no product.
"""

import re

import numpy as np

from rank_increase.options import Count
from rank_increase.registry import register


@register.adapter("gpt2")
def gpt2(tensors, *, heads: Count):
    """GPT-2 as in transformers: one Conv1D for query, key and value, whose weights are not transposed.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
    heads : int
        Attention heads of a layer (`n_head` in config.json).
    """
    layers = []
    for fused, output in layered(tensors, "h.*.attn.c_attn.weight", "h.*.attn.c_proj.weight"):
        query, key, value = np.split(fused, 3, axis=1)  # Conv1D computes x @ weight: (dim, features)
        layers.append(attention(query, key, value, output.T, heads))
    return layers


@register.adapter("gpt_neox")
def gpt_neox(tensors, *, heads: Count):
    """GPT-NeoX as in transformers, such as Pythia: query, key and value of each head side by side, rotary positions.

    Rotary positions turn queries and keys before they meet: the logits of two tokens at a distance d are
    x W_Q R_d W_K^T y^T, with a rotation R_d of some of the head's features. W_K W_Q^T is the product at distance 0,
    which no rotation changes. Singular values of products at other distances differ from its own.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
    heads : int
        Attention heads of a layer (`num_attention_heads` in config.json).
    """
    layers, name = [], "layers.*.attention.{}.weight"
    for fused, output in layered(tensors, name.format("query_key_value"), name.format("dense")):
        by_head = fused.reshape(check_heads(len(fused) // 3, heads), 3, -1, fused.shape[1])
        query, key, value = (part.reshape(-1, fused.shape[1]).T for part in by_head.swapaxes(0, 1))
        layers.append(attention(query, key, value, output, heads))
    return layers


@register.adapter("torchvision_vit")
def torchvision_vit(tensors, *, heads: Count):
    """The VisionTransformer of torchvision: torch's MultiheadAttention.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
    heads : int
        Attention heads of a layer (`num_heads`).
    """
    name = "encoder_layer_*.self_attention."
    return _stacked(tensors, name + "in_proj_weight", name + "out_proj.weight", heads)


@register.adapter("timm_vit")
def timm_vit(tensors, *, heads: Count):
    """The VisionTransformer of timm, without normalised queries and keys: they do not meet in a product of weights.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
    heads : int
        Attention heads of a layer (`num_heads`).
    """
    if normed := [name for name in tensors if name.endswith("attn.q_norm.weight")]:
        raise ValueError(f"it normalises queries and keys ({normed[0]}), so that its logits are those of no product.")
    return _stacked(tensors, "blocks.*.attn.qkv.weight", "blocks.*.attn.proj.weight", heads)


def _stacked(tensors, fused_name, output_name, heads):
    """Layers of a model that stacks the rows of query, key and value, each of nn.Linear."""
    layers = []
    for fused, output in layered(tensors, fused_name, output_name):
        query, key, value = (part.T for part in np.split(fused, 3))
        layers.append(attention(query, key, value, output, heads))
    return layers


def layered(tensors, *names):
    """The tensors with these names, layer by layer: a list of tuples.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
    names : str
        In which "*" stands for the number of the layer, from 0. A tensor may have a prefix before its name, such as
        "transformer.".

    Raises
    ------
    ValueError
        If a layer is missing, or there twice.
    """
    columns = []
    for name in names:
        pattern = re.compile(r"(?:.*[._])?" + re.escape(name).replace(r"\*", "([0-9]+)"))
        found = sorted((int(match[1]), key) for key in tensors if (match := pattern.fullmatch(key)))
        count = len(columns[0]) if columns else len(found)
        if [layer for layer, _ in found] != list(range(count)) or not found:
            there = ", ".join(key for _, key in found) or "none"
            raise ValueError(f"it should have one {name} for each layer, numbered from 0, but it has {there}.")
        columns.append([tensors[key] for _, key in found])
    return list(zip(*columns, strict=True))


def attention(query, key, value, output, heads):
    """The weights of a layer: a dict of W_K, W_Q, W_V, W_O, each of shape (heads, dim, dim_head).

    Parameters
    ----------
    query, key, value : numpy.ndarray
        Shape (dim, heads * dim_head), with the features of one head side by side: queries are x @ query.
    output : numpy.ndarray
        Shape (dim, heads * dim_head): with the outputs of all heads side by side, in z, the layer adds z @ output.T.
    heads : int

    Raises
    ------
    ValueError
        If the features cannot be shared out among the heads.
    """
    weights = {"W_K": key, "W_Q": query, "W_V": value, "W_O": output}
    return {
        name: weight.reshape(len(weight), check_heads(weight.shape[1], heads), -1).swapaxes(0, 1)
        for name, weight in weights.items()
    }


def check_heads(features, heads):
    """The number of heads, if it divides that of the features; raises a ValueError if not."""
    if features % heads:
        raise ValueError(f"its {features} features cannot be shared out among {heads} heads: set `heads` as it says.")
    return heads
