"""A loss: cross-entropy with smoothed labels."""

import torch.nn.functional as F

from rank_increase.options import Share
from rank_increase.registry import register


@register.loss("smoothed_cross_entropy")
def smoothed_cross_entropy(outputs, labels, *, smoothing: Share = 0.1):
    """Cross-entropy in nats, summed over samples, with a share of each label spread over all classes.

    Parameters
    ----------
    outputs : torch.Tensor
        Logits, (batch, classes).
    labels : torch.Tensor
        Classes, (batch,).
    smoothing : float
        The share.
    """
    return F.cross_entropy(outputs.float(), labels, label_smoothing=smoothing, reduction="sum")
