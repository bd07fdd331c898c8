"""Losses of outputs (batch, classes) and labels (batch,), or (batch, length, classes) and (batch, length).

A loss returns the sum over samples, of the mean over the positions of a sample; the training loop takes the mean.
"""

import torch.nn.functional as F

from rank_increase.registry import register


@register.loss("cross_entropy")
def cross_entropy(outputs, labels):
    """Cross-entropy in nats, of logits and labels."""
    total = F.cross_entropy(outputs.float().flatten(end_dim=-2), labels.flatten(), reduction="sum")
    return total / labels.shape[1:].numel()


@register.loss("squared_error")
def squared_error(outputs, labels):
    """Half the squared distance between the outputs and the one-hot label."""
    total = 0.5 * (outputs.float() - F.one_hot(labels, outputs.shape[-1])).square().sum()
    return total / labels.shape[1:].numel()


@register.loss("hinge")
def hinge(outputs, labels):
    """Sum over classes of max(0, 1 - y f), with f the output and y = 1 for the label and -1 for the others."""
    signs = 2 * F.one_hot(labels, outputs.shape[-1]) - 1
    return F.relu(1 - signs * outputs.float()).sum() / labels.shape[1:].numel()
