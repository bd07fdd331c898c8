"""Multi-head attention with four separate matrices, shared by the models.

nn.Linear computes x @ weight.T, the paper x @ W: a stored weight is the transpose of the paper's matrix. Only
`Attention.weights` knows this; what it returns is in the paper's orientation.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rank_increase.notation import WEIGHTS


class Product(NamedTuple):
    """A product A B^T of two weights to measure, given by the names of its factors in the model's `weights`.

    Factors have shape (heads, dim, dim_head), in the paper's orientation.
    """

    name: str
    layer: int
    A: str
    B: str


class Matrix(NamedTuple):
    """A single matrix to measure, given by its name in the model's `weights`, of shape (heads, rows, columns)."""

    name: str
    layer: int
    weight: str


class Attention(nn.Module):
    """Multi-head softmax attention without biases, as in eq. (1) of the paper; `causal`: to no later token."""

    def __init__(self, dim, heads, dim_head, causal=False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.W_K = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_Q = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_V = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_O = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x, first_only=False):
        """Output of shape (batch, tokens, dim), or (batch, 1, dim) for only the first token's query."""
        if first_only:
            q = self.W_Q(x[:, :1])
            k, v = F.linear(x, torch.cat([self.W_K.weight, self.W_V.weight])).chunk(2, dim=-1)
        else:  # one product of three times the width is faster than three
            weight = torch.cat([self.W_Q.weight, self.W_K.weight, self.W_V.weight])
            q, k, v = F.linear(x, weight).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)
        )  # (B, heads, T, dim_head)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.W_O(out.transpose(1, 2).flatten(2))

    def weights(self):
        """W_K, W_Q, W_V, W_O as the paper writes them: a dict of tensors of shape (heads, dim, dim_head).

        They belong to the forward pass by x W_Q W_K^T x^T / sqrt(dim_head) for the attention logits of a head, and by
        x W_V W_O^T for what it adds to the tokens that attend to x.
        """
        found = {}
        for name in WEIGHTS:
            weight = getattr(self, name).weight.detach()
            # K, Q, V: (heads * dim_head, dim), heads in rows. O: (dim, heads * dim_head), heads in columns.
            weight = weight if name == "W_O" else weight.T
            by_head = weight.unflatten(1, (self.heads, -1)).transpose(0, 1)
            found[name] = by_head.clone(memory_format=torch.contiguous_format)
        return found


def without_autocast(device):
    """A context in which modules compute in the precision of their weights, on this torch.device."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def attention_weights(layers):
    """`Attention.weights` of several layers by name, such as layer_0.W_K: a dict of tensors."""
    return {f"layer_{n}.{name}": weight for n, layer in enumerate(layers) for name, weight in layer.weights().items()}


def attention_products(layers):
    """The products W_K W_Q^T (KQ) and W_V W_O^T (VO) of this many layers: a list of `Product`."""
    return [
        Product(name, layer, *(f"layer_{layer}.W_{letter}" for letter in name))
        for layer in range(layers)
        for name in ("KQ", "VO")
    ]


def attention_matrices(layers):
    """The single matrices W_K, W_Q, W_V, W_O of this many layers: a list of `Matrix`."""
    return [Matrix(name, layer, f"layer_{layer}.{name}") for layer in range(layers) for name in WEIGHTS]


@torch.no_grad()
def scale_linear_layers(modules, scale):
    """Multiply weights and biases of all linear layers in `modules` by `scale`, in place."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                for parameter in layer.parameters():
                    parameter *= scale


class AttentionModel(nn.Module):
    """A model with `blocks`, each with `attention`, and a `head`: what is measured, and what the init scale changes."""

    def scale_initial_weights(self, scale):
        """Multiply the initial values of all layers except the embeddings by `scale`, in place.

        The paper varies "the initialization scale of all layers by multiplying their initial values by a scale factor
        (we fix the scale of the initial token mapper)". Layers are the linear ones, with their biases: attention, MLP
        and head. The token mapper turns a sample into tokens: embeddings, class token and positions. LayerNorm keeps
        its gain of 1 and bias of 0, which are not random initial values: a scaled gain would act as a second factor
        `scale` on the next layer.

        Parameters
        ----------
        scale : float
            The alpha of a run; 1 leaves torch's default initial values as they are.
        """
        scale_linear_layers([self.blocks, self.head], scale)

    def products(self):
        """The products to measure: a list of `Product`."""
        return attention_products(len(self.blocks))

    def matrices(self):
        """The single matrices to measure: a list of `Matrix`."""
        return attention_matrices(len(self.blocks))

    def weights(self):
        """Weights for snapshots, by name: the factors of `products`, tensors on the model's device."""
        return attention_weights([block.attention for block in self.blocks])
