"""Gradient descent and SGD on the toy problem, in steps of the weights."""

import numpy as np

from rank_increase.toy.runs import Run, balance, log_sizes, recorded_events


def descent_run(problem, log_alpha, times, *, step, batch_size=None, weight, seed=0, on_step=None):
    """A `Run` of plain gradient descent or minibatch SGD, as the paper trains its toy models.

    Parameters
    ----------
    problem : Problem
    log_alpha : float
        Logarithm of the init scale; float64 weights, since alpha^2 = 1e-64 is zero in float32.
    times : array, ascending
        Times to record; each is rounded to a whole number of steps.
    step : float
        Learning rate. Time is step x number of steps.
    batch_size : int, optional
        Samples per step, drawn without replacement in each epoch; all samples if not given.
    weight : float
        A coordinate is active while its product is above the square of this.
    seed : int
        Seed of the order of the samples, the same at every init scale: runs of one problem differ only in their scale.
    on_step : callable, optional
        Called with the time of each record.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite: the step is too long.
    """
    head, start = problem.head(), np.exp(log_alpha) * problem.theta_0
    theta = start
    records = np.unique(np.rint(np.asarray(times) / step).astype(int))
    batches = _minibatches(head, batch_size, np.random.default_rng(seed)) if batch_size else None
    losses, values, conservation, done = [], [], [], 0
    for record in records:
        for _ in range(record - done):
            theta = theta + step * (next(batches) if batches else head).velocity(theta)[1]
        done = record
        losses.append(head.velocity(theta)[0])
        values.append(head.values(theta))
        conservation.append(balance(theta, start))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is not finite after {done} steps of {step}: take a shorter step")
        if on_step:
            on_step(done * step)
    time, values = records * step, np.array(values)
    events = recorded_events(time, values, weight)
    return Run(time, np.array(losses), values, log_sizes(values), events, np.array(conservation))


def _minibatches(head, batch_size, rng):
    while True:
        order = rng.permutation(len(head.X))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield head.subset(order[start : start + batch_size])
