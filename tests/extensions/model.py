"""A model family: a residual MLP, whose products to watch are those of the two weights of each layer."""

import torch.nn.functional as F
from torch import nn

from rank_increase.networks.attention import Product, scale_linear_layers
from rank_increase.options import Count
from rank_increase.registry import register


class Layer(nn.Module):
    """x + gelu(norm(x) W_1) W_2, in the paper's orientation of weights."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.W_1 = nn.Linear(dim, hidden, bias=False)
        self.W_2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        """Features after this layer, (batch, dim)."""
        return x + self.W_2(F.gelu(self.W_1(self.norm(x))))


@register.model("residual_mlp")
class ResidualMLP(nn.Module):
    """An MLP with residual connections, on all pixels of an image at once.

    Parameters
    ----------
    shape : tuple of int
        Of an image: height, width, channels.
    classes : int
    dim : int
        Features between layers.
    hidden : int
        Features within a layer.
    depth : int
        Layers.
    """

    def __init__(self, shape, classes, *, dim: Count, hidden: Count, depth: Count = 2):
        super().__init__()
        height, width, channels = shape
        self.embedding = nn.Linear(height * width * channels, dim)
        self.layers = nn.ModuleList(Layer(dim, hidden) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        """Class logits, (batch, classes), of images (batch, channels, height, width)."""
        x = self.embedding(images.flatten(1))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def scale_initial_weights(self, scale):
        """Multiply the initial values of all layers but the embedding by the init scale, in place."""
        scale_linear_layers([self.layers, self.head], scale)

    def products(self):
        """W_1 W_2 of each layer: a product A B^T by the names of its factors in `weights`."""
        return [Product("W1W2", n, f"layer_{n}.W_1", f"layer_{n}.W_2^T") for n in range(len(self.layers))]

    def weights(self):
        """The factors, a dict of float32 tensors of shape (heads, dim, hidden); an MLP has one head."""
        found = {}
        for n, layer in enumerate(self.layers):  # nn.Linear computes x @ weight.T, so its weight is W_1^T
            found[f"layer_{n}.W_1"] = layer.W_1.weight.detach().T[None]
            found[f"layer_{n}.W_2^T"] = layer.W_2.weight.detach()[None]
        return found
