"""The decoder of "From Condensation to Rank Collapse" (Chen and Luo, arXiv 2510.06954)."""

from typing import Literal

import torch
from torch import nn

from rank_increase.networks.attention import Product
from rank_increase.networks.plain import PlainModel, attend, normal
from rank_increase.options import Count, Flag, Positive
from rank_increase.registry import register

ACTIVATIONS = {"tanh": torch.tanh, "gelu": nn.functional.gelu}


class Layer(nn.Module):
    """Causal attention without an output matrix, and two more matrices around an activation; no biases."""

    def __init__(self, dim, heads, mlp_dim, std, activation, residual):
        super().__init__()
        for name in ("W_K", "W_Q", "W_V"):
            setattr(self, name, normal(heads, dim, dim // heads, std=std))
        self.W_1 = normal(1, dim, mlp_dim, std=std)
        self.W_2 = normal(1, mlp_dim, dim, std=std)
        self.activation, self.residual = ACTIVATIONS[activation], residual

    def forward(self, x):
        """Tokens after this layer, (batch, tokens, dim)."""
        attended = attend(x, self.W_K, self.W_Q, self.W_V, causal=True).transpose(1, 2).flatten(2)
        x = self.residual * x + attended
        return self.residual * x + self.activation(x @ self.W_1[0]) @ self.W_2[0]


@register.model("decoder", tables=["cosines", "key_query"])
class Decoder(PlainModel):
    """A decoder without LayerNorm, whose embedding and output are drawn and not trained.

    With `residual: false` and one layer: softmax(...) X W_V, then tanh(. W_1) W_2, as in that paper.

    Parameters
    ----------
    shape : tuple of int
        Of a sample: its length.
    classes : int
        Size of the vocabulary.
    dim : int
        Features of a token, a multiple of `heads`. That paper: 640; 64 on text.
    mlp_dim : int
        Features between W_1 and W_2. That paper: 1280; 800 on text.
    std : float
        Standard deviation of all trained matrices. That paper: dim^-0.85; dim^-1.2 on text.
    depth : int
        Layers.
    heads : int
        Attention heads of a layer.
    residual : bool
        Whether both parts of a layer add to their input.
    activation : str
        Between W_1 and W_2: tanh or gelu.
    predicts : str
        last: one label for a sample; each: a label for each token.

    Raises
    ------
    ValueError
        If samples are no sequences, or heads do not divide the features.
    """

    def __init__(
        self,
        shape,
        classes,
        *,
        dim: Count,
        mlp_dim: Count,
        std: Positive,
        depth: Count = 1,
        heads: Count = 1,
        residual: Flag = False,
        activation: Literal["tanh", "gelu"] = "tanh",
        predicts: Literal["last", "each"] = "last",
    ):
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"samples of shape {tuple(shape)} are no sequences of tokens, as this model needs them.")
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} features: choose a divisor.")
        # Neither that paper's text on positions nor the scale of what it freezes is known; see docs/condensation.md.
        self.register_buffer("embedding", torch.randn(classes, dim))
        self.register_buffer("position", torch.randn(shape[0], dim))
        self.register_buffer("output", torch.randn(dim, classes) / dim**0.5)
        self.depth, self.last = depth, predicts == "last"
        for layer in range(depth):
            setattr(self, f"layer_{layer}", Layer(dim, heads, mlp_dim, std, activation, residual))

    def forward(self, tokens):
        """Logits of the next token, (batch, classes) or (batch, length, classes), of tokens (batch, length)."""
        x = self.embedding[tokens] + self.position
        for layer in range(self.depth):
            x = getattr(self, f"layer_{layer}")(x)
        return (x[:, -1] if self.last else x) @ self.output

    def products(self):
        """The products to measure: W_K W_Q^T of each layer; there is no W_O."""
        return [Product("KQ", layer, f"layer_{layer}.W_K", f"layer_{layer}.W_Q") for layer in range(self.depth)]
