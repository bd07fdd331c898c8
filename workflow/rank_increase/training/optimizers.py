"""Optimizers. A function takes the parameters and the learning rate and returns an optimizer of torch."""

import torch

from rank_increase.options import Decay, NotNegative, Positive
from rank_increase.registry import register


@register.optimizer("adam")
def adam(parameters, learning_rate, *, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Positive = 1e-8):
    """Adam, without weight decay (paper, Appendix B).

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the running means of the gradient and of its square.
    eps : float
        Added to the root of the second mean. With 1e-8, the first steps are signs of the gradient.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(beta1, beta2), eps=eps, fused=True)


@register.optimizer("adamw")
def adamw(
    parameters,
    learning_rate,
    *,
    weight_decay: NotNegative,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    eps: Positive = 1e-8,
):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    weight_decay : float
        In each step, weights shrink by this share times the learning rate.
    beta1, beta2, eps : float
        As in Adam.
    """
    decay = {"weight_decay": weight_decay, "fused": True}
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(beta1, beta2), eps=eps, **decay)


@register.optimizer("sgd")
def sgd(parameters, learning_rate, *, momentum: Decay = 0.0, weight_decay: NotNegative = 0.0):
    """Stochastic gradient descent.

    Parameters
    ----------
    momentum : float
        Heavy-ball momentum, below 1.
    weight_decay : float
        This times the weights is added to the gradient.
    """
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
