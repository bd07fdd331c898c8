"""Measures of rank and size: functions of singular values of shape (..., r), nonnegative and descending.

The tables store all singular values, and a separate rule measures them, so a new function here recomputes no spectrum.
For the zero matrix, which a change is before the first step, ratios are 0/0 = NaN, stored as null in Parquet.
"""

import numpy as np

from rank_increase.options import Share
from rank_increase.registry import register


def _scaled(singular_values):
    """Singular values over the largest: their fourth powers do not underflow."""
    with np.errstate(invalid="ignore"):
        return singular_values / singular_values[..., :1]


@register.measure("stable_rank")
def stable_rank(singular_values):
    """sum s^2 / max s^2 = ||.||_F^2 / ||.||_2^2, in [1, r] (paper, Appendix B)."""
    return (_scaled(singular_values) ** 2).sum(-1)


@register.measure("effective_rank")
def effective_rank(singular_values):
    """exp of the entropy of s / sum s, in [1, r] (Roy and Vetterli 2007).

    Of s, not of s^2 as the "entropy" of WeightWatcher, and not divided by r.
    """
    scaled = _scaled(singular_values)
    share = scaled / scaled.sum(-1, keepdims=True)
    return np.exp(-np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)), axis=-1))


@register.measure("participation_ratio")
def participation_ratio(singular_values):
    """(sum s^2)^2 / sum s^4, in [1, r]: of the eigenvalues s^2 of the Gram matrix, not of entries of eigenvectors."""
    squares = _scaled(singular_values) ** 2
    return squares.sum(-1) ** 2 / (squares**2).sum(-1)


@register.measure("numerical_rank")
def numerical_rank(singular_values, *, rtol: Share = 0.01):
    """Number of s above rtol * max s.

    numpy's and torch's default, max(m, n) * eps, would count every direction that training has touched at all.
    """
    return (singular_values > rtol * singular_values[..., :1]).sum(-1)


@register.measure("frobenius_norm")
def frobenius_norm(singular_values):
    """sqrt(sum s^2)."""
    return np.linalg.norm(singular_values, axis=-1)


@register.measure("spectral_norm")
def spectral_norm(singular_values):
    """max s."""
    return singular_values[..., 0]


@register.measure("nuclear_norm")
def nuclear_norm(singular_values):
    """sum s."""
    return singular_values.sum(-1)
