"""A measure: how many singular values carry nearly all of a matrix."""

import numpy as np

from rank_increase.options import Share
from rank_increase.registry import register


@register.measure("energy_rank")
def energy_rank(singular_values, *, share: Share = 0.9):
    """How many of the largest singular values make up `share` of sum s^2; null for the zero matrix."""
    energy = np.cumsum(singular_values**2, axis=-1)
    count = 1 + (energy < share * energy[..., -1:]).sum(-1)
    return np.where(energy[..., -1] > 0, count, np.nan)
