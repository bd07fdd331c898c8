"""Attention whose matrices are parameters in the orientation of the papers, for models that are measured by matrix."""

import torch
from torch import nn

from rank_increase.networks.attention import Matrix


def attend(x, W_K, W_Q, W_V, causal=False):
    """softmax(x W_Q (x W_K)^T / sqrt(dim_head)) x W_V of every head.

    Parameters
    ----------
    x : torch.Tensor
        Shape (batch, tokens, dim).
    W_K, W_Q, W_V : torch.Tensor
        Shape (heads, dim, dim_head).
    causal : bool
        Whether a token attends to itself and those before it alone.

    Returns
    -------
    torch.Tensor
        Shape (batch, heads, tokens, dim_head).
    """
    k, q, v = (torch.einsum("btd,hde->bhte", x, weight) for weight in (W_K, W_Q, W_V))
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def normal(*shape, std):
    """A parameter with independent normal entries."""
    return nn.Parameter(std * torch.randn(shape))


class PlainModel(nn.Module):
    """A model all of whose parameters are matrices of shape (heads, rows, columns), named layer_{l}.{matrix}.

    What is not trained is a buffer.
    """

    def scale_initial_weights(self, scale):
        """Multiply all trained matrices by `scale`, in place."""
        with torch.no_grad():
            for weight in self.parameters():
                weight *= scale

    def weights(self):
        """All trained matrices by name: a dict of tensors of shape (heads, rows, columns)."""
        return {name: weight.detach().clone() for name, weight in self.named_parameters()}

    def set_weights(self, weights):
        """Give the trained matrices other values: tensors as `weights` returns them."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight.copy_(weights[name])

    def matrices(self):
        """The trained matrices to measure one by one: a list of `attention.Matrix`."""
        places = {name: name.split(".") for name, _ in self.named_parameters()}
        return [Matrix(matrix, int(layer.removeprefix("layer_")), name) for name, (layer, matrix) in places.items()]
