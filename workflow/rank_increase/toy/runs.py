"""Records of a toy run, for every training method."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Run:
    """Records of a training run.

    time and loss are of shape (records,), values of shape (records, 2, dim): the diagonal entries, or singular values,
    of W_K W_Q^T and W_V W_O^T; of a transformer, (records, layers, heads, 2, dim). events are (time, coordinate,
    direction): direction 1 where a coordinate, numbered through all products, becomes active and -1 where it becomes
    inactive. conservation, (records, 2, 3), has for both
    products what `balance` says; None for a flow in coordinates that conserve u^2 - v^2 by construction.
    """

    time: np.ndarray
    loss: np.ndarray
    values: np.ndarray
    events: list
    conservation: np.ndarray | None = None


def balance(theta, theta_start):
    """Drift of what gradient flow conserves: W_K^T W_K - W_Q^T W_Q, and the same for W_V and W_O.

    For diagonal weights this is u^2 - v^2 (paper, Lemma 4.1).

    Parameters
    ----------
    theta, theta_start : array, shape (4, dim) or (4, dim, dim)
        Weights, and those at the start.

    Returns
    -------
    array, shape (2, 3)
        For both products, Frobenius norms: of its change since the start, of itself at the start, and the sum of the
        squared norms of the two weights.
    """
    now, start = (_squares(weights) for weights in (theta, theta_start))
    return np.array(
        [
            [np.linalg.norm(a - b - (a_0 - b_0)), np.linalg.norm(a_0 - b_0), np.sum(np.square(weights))]
            for a, b, a_0, b_0, weights in zip(
                now[::2], now[1::2], start[::2], start[1::2], (theta[:2], theta[2:]), strict=True
            )
        ]
    )


def _squares(theta):
    return theta**2 if theta.ndim == 2 else theta.swapaxes(1, 2) @ theta


def recorded_events(time, values, weight):
    """Events of a run from its records: where products pass the square of `weight`, interpolated in logarithms."""
    size = np.log(np.maximum(abs(values.reshape(len(time), -1)), 1e-300)) - 2 * np.log(weight)
    record, coordinate = np.nonzero(np.diff(size > 0, axis=0))
    before, after = size[record, coordinate], size[record + 1, coordinate]
    crossed = time[record] + np.diff(time)[record] * before / (before - after)
    order = np.argsort(crossed, kind="stable")
    direction = np.where(after > 0, 1, -1)
    return list(zip(crossed[order].tolist(), coordinate[order].tolist(), direction[order].tolist(), strict=True))
