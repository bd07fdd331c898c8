"""Gradient flow of full weights, integrated in the weights themselves."""

import numpy as np

from rank_increase.toy.rkc import integrate
from rank_increase.toy.runs import Run, balance, recorded_events


def full_run(problem, log_alpha, times, rtol, atol, *, weight, on_step=None):
    """The gradient flow of a toy problem with full weights, a runs.Run recorded at `times`.

    Parameters
    ----------
    rtol, atol : float
        Error bounds of a step; `atol` is in units of alpha, since weights that small decide what grows next.
    weight : float
        A singular value is active while it is above the square of this.
    """
    head, alpha = problem.head(), np.exp(log_alpha)
    start, shape = alpha * problem.theta_0, problem.theta_0.shape
    loss, values, conservation = [], [], []
    solution = integrate(
        lambda theta: head.velocity(theta.reshape(shape))[1].ravel(),
        start.ravel(),
        times,
        rtol=rtol,
        atol=atol * alpha,
    )
    for time, theta in zip(times, solution, strict=True):
        theta = theta.reshape(shape)
        loss.append(head.velocity(theta)[0])
        values.append(head.values(theta))
        conservation.append(balance(theta, start))
        if on_step:
            on_step(time)
    values = np.array(values)
    return Run(times, np.array(loss), values, recorded_events(times, values, weight), np.array(conservation))
