"""Assumptions 4.3 and 4.4 tested in the limit alpha -> 0, in which they are stated."""

from dataclasses import dataclass

import numpy as np

from rank_increase.toy.algorithm1 import descend


@dataclass(frozen=True)
class Return:
    """Where the gradient flow from a perturbed point comes to rest, all coordinates but those perturbed exactly zero.

    Distances are the largest absolute difference of the products to those at theta_k, k = `stage`, before and after;
    the latter is infinite if the flow does not come to rest at a strict minimum. `std` is that of the noise.
    """

    assumption: str
    stage: int
    std: float
    draw: int
    start_distance: float
    end_distance: float


def perturbed_ends(head, stages, chosen, *, stds, draws, rng):
    """Yield a `Return` for each assumption, stage, size of the noise and draw.

    The noise is balanced: u and v = s u stay equal in size, as in the assumptions. For Assumption 4.3 it is added on
    the support of theta_k, to which the flow is to return. For Assumption 4.4 it is added to theta_{k-1} on its support
    and on the coordinate that is to become active, whose sign is that of g; the flow is to end at theta_k.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`
    stages : list of algorithm1.Stage
    chosen : sequence of int
        Numbers k of the stages to test, from 1.
    stds : sequence of float
        Standard deviations of the noise on u.
    draws : int
        For each of them.
    rng : numpy.random.Generator
    """
    for k in chosen:
        stage = stages[k - 1]
        before = stages[k - 2].product if k > 1 else np.zeros_like(stage.product)
        sign = np.sign(before)
        sign[stage.coordinate] = stage.sign
        for assumption, at, signs in (("4.3", stage.product, np.sign(stage.product)), ("4.4", before, sign)):
            for std in stds:
                for draw in range(draws):
                    u = np.sqrt(abs(at)) + std * rng.standard_normal(len(at))
                    p = signs * u**2  # (u, s u); zero where the sign is
                    yield Return(assumption, k, std, draw, abs(p - stage.product).max(), _end_distance(head, p, stage))


def _end_distance(head, p, stage):
    try:
        rest, _ = descend(head, p)
    except (ArithmeticError, np.linalg.LinAlgError):  # it does not come to rest, or not at a strict minimum
        return np.inf
    return abs(rest - stage.product).max()
