"""An optimizer: RMSprop of torch."""

import torch

from rank_increase.options import Positive, Share
from rank_increase.registry import register


@register.optimizer("rmsprop")
def rmsprop(parameters, learning_rate, *, decay: Share = 0.99, eps: Positive = 1e-8):
    """Gradient descent with each step over the root of a running mean of the squared gradient.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    learning_rate : float
        At its highest; the recipe's schedule sets it before each step.
    decay : float
        Of the running mean.
    eps : float
        Added to the root.
    """
    return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=decay, eps=eps)
