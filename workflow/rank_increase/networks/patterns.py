"""The model of "Learning on Transformers is Provable Low-Rank and Sparse" (Li et al., arXiv 2406.17167)."""

import torch
from torch import nn

from rank_increase.networks.attention import Product
from rank_increase.networks.plain import PlainModel, attend, normal
from rank_increase.options import Count, Positive
from rank_increase.registry import register


class Layer(nn.Module):
    """Attention whose value is mapped to neurons; W_K, W_Q and W_V start as multiples of the identity."""

    def __init__(self, dim, heads, neurons, scale, std):
        super().__init__()
        for name in ("W_K", "W_Q", "W_V"):
            setattr(self, name, nn.Parameter(scale * torch.eye(dim).unflatten(1, (heads, -1)).transpose(0, 1).clone()))
        self.W_O = normal(1, neurons, dim, std=std)

    def forward(self, x):
        """Neurons after ReLU, (batch, tokens, neurons)."""
        attended = attend(x, self.W_K, self.W_Q, self.W_V).transpose(1, 2).flatten(2)
        return torch.relu(attended @ self.W_O[0].T)


@register.model("patterns", tables=["ablations", "gradients"])
class Patterns(PlainModel):
    """Attention and a two-layer perceptron whose second layer is fixed: each neuron votes for one class.

    The output for class k is the mean over tokens of the neurons of class k, less that of the other neurons.

    Parameters
    ----------
    shape : tuple of int
        Of a sample: tokens, features.
    classes : int
    neurons : int
        Rows of W_O in each layer, divided among the classes in turn.
    depth : int
        Layers; each but the last passes its neurons on as tokens, through a fixed matrix.
    heads : int
        Attention heads of a layer, a divisor of the features.
    scale : float
        W_K, W_Q and W_V start as this times the identity.
    std : float
        Standard deviation of W_O at the start.

    Raises
    ------
    ValueError
        If samples are no rows of features, or heads do not divide these.
    """

    def __init__(
        self,
        shape,
        classes,
        *,
        neurons: Count,
        depth: Count = 1,
        heads: Count = 1,
        scale: Positive = 0.3,
        std: Positive = 0.01,
    ):
        super().__init__()
        if len(shape) != 2:
            raise ValueError(f"samples of shape {tuple(shape)} are no rows of features, as this model needs them.")
        dim = shape[1]
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} features: choose a divisor.")
        own = torch.eye(classes).repeat(-(-neurons // classes), 1)[:neurons]
        self.register_buffer("vote", (2 * own - 1) / neurons)
        self.depth = depth
        for layer in range(depth):
            setattr(self, f"layer_{layer}", Layer(dim, heads, neurons, scale, std))
            if layer < depth - 1:
                self.register_buffer(f"back_{layer}", torch.randn(neurons, dim) / neurons**0.5)

    def forward(self, x):
        """Outputs, (batch, classes), of tokens (batch, tokens, features)."""
        for layer in range(self.depth):
            hidden = getattr(self, f"layer_{layer}")(x)
            if layer < self.depth - 1:
                x = x + hidden @ getattr(self, f"back_{layer}")
        return hidden.mean(1) @ self.vote

    def products(self):
        """The products to measure: W_K W_Q^T of each layer."""
        return [Product("KQ", layer, f"layer_{layer}.W_K", f"layer_{layer}.W_Q") for layer in range(self.depth)]
