"""Losses of the toy model, squared error and cross-entropy, and their labels.

The losses take outputs Z and labels Y of shape (tokens, dim, samples), so that loops over samples are contiguous. For
cross-entropy a token has `dim` classes, and its output holds their logits.
"""

import numpy as np


def squared(Z, Y):
    """Half the mean squared error over all entries, and its slope in Z, shaped like Z."""
    residual = Z - Y
    return np.vdot(residual, residual) / (2 * Z.size), residual / Z.size


def cross_entropy(Z, Y):
    """Mean cross-entropy over tokens and samples, and its slope in Z, shaped like Z; Y holds probabilities."""
    shifted = Z - Z.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    count = Z.size // Z.shape[1]
    return np.vdot(Y, log_total - shifted) / count, (np.exp(shifted - log_total) - Y) / count


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def teach(Z, loss, labels):
    """Labels, shaped like Z, from a teacher's outputs Z.

    Parameters
    ----------
    Z : array, shape (samples, tokens, dim)
    loss : {"squared", "cross_entropy"}
        For the squared error, the labels are Z.
    labels : {"soft", "hard"}
        For cross-entropy: the softmax of Z over the classes, or 1 for its largest entry and 0 for the others.
    """
    if loss == "squared":
        return Z
    if labels == "hard":
        return np.eye(Z.shape[2])[Z.argmax(axis=2)]
    shares = np.exp(Z - Z.max(axis=2, keepdims=True))
    return shares / shares.sum(axis=2, keepdims=True)
