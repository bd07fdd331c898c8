"""Records of a toy run, for every training method, and the stages that Algorithm 1 predicts for it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Event(NamedTuple):
    """A coordinate, numbered through all products, that becomes active (direction 1) or inactive (-1).

    `log_next` is the natural logarithm of the largest product (of a singular value, with full weights) that is not
    active at that time, this one aside, over the one at which it becomes active; `log_next_own` is the same
    within the product of this coordinate. Both are negative, and -inf where all are active.
    """

    time: float
    coordinate: int
    direction: int
    log_next: float
    log_next_own: float

    @classmethod
    def at(cls, time, coordinate, direction, log_values, level):
        """The event of a coordinate, when the logarithms of all products are `log_values`, shape (..., dim).

        `level` is the logarithm of a product from which on it is active, for all or for each its own.
        """
        above = (log_values - level).reshape(-1, log_values.shape[-1])
        own, index = divmod(int(coordinate), above.shape[1])
        above[own, index] = -np.inf
        waiting = np.where(above < 0, above, -np.inf).max(axis=1)
        return cls(float(time), int(coordinate), direction, float(waiting.max()), float(waiting[own]))


class Run(NamedTuple):
    """Records of a training run.

    time and loss are of shape (records,), values of shape (records, 2, dim): the diagonal entries, or singular values,
    of W_K W_Q^T and W_V W_O^T; of a transformer, (records, layers, heads, 2, dim). log_values are the natural
    logarithms of their sizes, also where values underflow. events is a list of `Event`. conservation, (records, 2, 2),
    has for both products what `balance` says; None for a flow in coordinates that conserve u^2 - v^2 by construction.
    log_unit is the natural logarithm of the unit of its numbers.
    """

    time: np.ndarray
    loss: np.ndarray
    values: np.ndarray
    log_values: np.ndarray
    events: list
    conservation: np.ndarray | None = None
    log_unit: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Stage k + 1 of Algorithm 1: the coordinate i_k that becomes active at T_{k+1}, and the weights that follow.

    Times are rescaled, t / ln(1/alpha). `product` is u * v at theta_{k+1}, of shape (p,); `sign` that of v_i u_i.
    `gap_to_next` is how much longer the next coordinate would have needed. `deactivated` are the coordinates that left
    the support. `curvature` is the least eigenvalue of the loss's Hessian in u on the support, positive where
    theta_{k+1} is a strict local minimum (Assumption 4.3). `loss` is without the penalty of weight decay, `curvature`
    with it.
    """

    time: float
    coordinate: int
    sign: int
    product: np.ndarray
    loss: float
    gap_to_next: float
    deactivated: tuple
    curvature: float


def balance(theta, theta_start):
    """Drift of what gradient flow conserves: W_K^T W_K - W_Q^T W_Q, and the same for W_V and W_O.

    For diagonal weights this is u^2 - v^2 (paper, Lemma 4.1).

    Parameters
    ----------
    theta, theta_start : array, shape (4, dim) or (4, dim, dim)
        Weights, and those at the start.

    Returns
    -------
    array, shape (2, 2)
        For both products, Frobenius norms: of its change since the start, and of itself at the start.
    """
    now, start = (_squares(weights) for weights in (theta, theta_start))
    return np.array(
        [
            [np.linalg.norm(a - b - (a_0 - b_0)), np.linalg.norm(a_0 - b_0)]
            for a, b, a_0, b_0 in zip(now[::2], now[1::2], start[::2], start[1::2], strict=True)
        ]
    )


def _squares(theta):
    return theta**2 if theta.ndim == 2 else theta.swapaxes(1, 2) @ theta


def recorded_events(time, values, weight):
    """Events of a run from its records: where products pass the square of `weight`, interpolated in logarithms."""
    shape, log_values = values.shape[1:], log_sizes(values).reshape(len(time), -1)
    level = np.broadcast_to(2 * np.log(weight), log_values.shape[1:])
    record, coordinate = np.nonzero(np.diff(log_values > level, axis=0))
    before, after = log_values[record], log_values[record + 1]
    passing = np.arange(len(record)), coordinate
    share = (level[coordinate] - before[passing]) / (after[passing] - before[passing])
    crossed = time[record] + np.diff(time)[record] * share
    between = before + share[:, None] * (after - before)
    direction = np.where(after[passing] > level[coordinate], 1, -1)
    order = np.argsort(crossed, kind="stable")
    level = level.reshape(shape)
    return [Event.at(crossed[i], coordinate[i], int(direction[i]), between[i].reshape(shape), level) for i in order]


def log_sizes(values):
    """Natural logarithms of |values|; a large negative number instead of -inf, so that it can be interpolated."""
    return np.log(np.maximum(abs(values), 1e-300))
