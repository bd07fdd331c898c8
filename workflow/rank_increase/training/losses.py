"""Losses. A loss takes outputs and labels and returns the sum over samples; the training loop takes the mean."""

import torch.nn.functional as F

from rank_increase.registry import register


@register.loss("cross_entropy")
def cross_entropy(outputs, labels):
    """Cross-entropy in nats, of logits (batch, classes) and labels (batch,)."""
    return F.cross_entropy(outputs.float(), labels, reduction="sum")


@register.loss("squared_error")
def squared_error(outputs, labels):
    """Half the squared distance between the outputs (batch, classes) and the one-hot label."""
    return 0.5 * (outputs.float() - F.one_hot(labels, outputs.shape[-1])).square().sum()
