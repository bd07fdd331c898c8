"""Training of the toy problem in steps: gradient descent and SGD, and with the update rules of toy.optimizers."""

from dataclasses import replace

import numpy as np

from rank_increase.toy.diagonal_flow import initial_state
from rank_increase.toy.optimizers import update_rule
from rank_increase.toy.runs import Event, Run, balance, log_sizes, recorded_events

INVISIBLE = np.log(1e-8)  # products of weights below this change the gradient by less than its rounding error
DIVERGED = np.log(1e6)  # above 3e6, LogCoordinates.product is cut off
AT_REST = 1e-12  # a share by which a weight changes in a step; below this it has come to rest


def descent_run(
    problem, log_alpha, times, *, method, step, batch_size=None, weight, seed=0, on_step=None, **optimizer_options
):
    """A `Run` of training in steps.

    Parameters
    ----------
    problem : Problem
    log_alpha : float
        Logarithm of the init scale. GD and SGD of diagonal weights take any; otherwise the weights are float64, in
        which alpha^2 must not be zero.
    times : array, ascending
        Times to record; each is rounded to a whole number of steps.
    method : {"gd", "sgd", "adam", "sign", "muon"}
    step : float
        Learning rate. Time is step x number of steps.
    batch_size : int, optional
        Samples per step, drawn without replacement in each epoch; all samples if not given.
    weight : float or array, shape (p,)
        A coordinate is active while the larger of its weights is above this, in GD and SGD of diagonal weights; in
        others while its product is above the square of this. For all p coordinates or for each its own.
    seed : int
        Seed of the order of the samples, the same at every init scale: runs of one problem differ only in their scale.
    on_step : callable, optional
        Called with the time of each record.
    optimizer_options : float
        Those of adam and muon (`toy.optimizers`).

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite: the step is too long.
    """
    head = problem.head()
    batches = _minibatches(head, batch_size, np.random.default_rng(seed)) if batch_size else None
    if method in ("gd", "sgd") and problem.theta_0.ndim == 2:
        student = LogWeights(problem.theta_0, log_alpha, step, weight)
    else:
        student = Weights(problem.theta_0, log_alpha, update_rule(method, step, **optimizer_options))
    records = np.unique(np.rint(np.asarray(times) / step).astype(int))
    losses, values, log_values, conservation, done = [], [], [], [], 0
    for record in records:
        while done < record:
            done += student.move(next(batches), 1) if batches else student.move(head, record - done)
        loss, products, logs = student.loss_and_values(head)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite after {done} steps of {step}: take a shorter step")
        losses.append(loss)
        values.append(products)
        log_values.append(logs)
        conservation.append(student.balance())
        if on_step:
            on_step(done * step)
    time, values = records * step, np.array(values)
    events = student.events(time, values, weight)
    return Run(time, np.array(losses), values, np.array(log_values), events, np.array(conservation), student.log_unit)


class Weights:
    """Weights themselves, moved by an update rule."""

    log_unit = 0.0

    def __init__(self, theta_0, log_alpha, update):
        self.start = self.theta = np.exp(log_alpha) * theta_0
        self.update = update

    def move(self, head, most):
        """Take a step on the loss of `head`; return 1, the number of steps."""
        self.theta = self.theta + self.update(head.velocity(self.theta)[1])
        return 1

    def loss_and_values(self, head):
        """Loss on the samples of `head`; diagonal entries or singular values of the products, (2, dim); their logs."""
        values = head.values(self.theta)
        return head.velocity(self.theta)[0], values, log_sizes(values)

    def balance(self):
        """As runs.balance."""
        return balance(self.theta, self.start)

    @staticmethod
    def events(time, values, weight):
        """Events between records."""
        return recorded_events(time, values, weight)


class LogWeights:
    """Diagonal weights under gradient descent, in the coordinates of the flow, where a step is exact at any scale.

    A step multiplies u + v by 1 + x and u - v by 1 - x with x = step g (paper, eq. 4). In those of
    diagonal_flow.LogCoordinates, of which the flow conserves c,

        s  grows by  (ln|1 + x| - ln|1 - x|) / 2    and    ln|c|  by  ln|1 + x| + ln|1 - x|.
    """

    def __init__(self, theta_0, log_alpha, step, weight):
        self.coordinates, self.s = initial_state(theta_0, log_alpha)
        self.log_unit, self.step = 2 * log_alpha, step
        self.log_weight = np.broadcast_to(np.log(weight), self.s.shape)
        self.start, self.done, self.passages = self._c(), 0, []
        self.size = self.coordinates.log_size(self.s)

    def move(self, head, most):
        """Take a step on the loss of `head`, or up to `most` at once on a plateau; return the number of steps."""
        x = self.step * head.loss_and_g(self.coordinates.product(self.s))[1]
        count = self._steps_of_rest(x, most) if most > 1 else 1
        if count > 1:
            x = np.where(self.size < INVISIBLE, x, 0.0)
        up, down = np.log(abs(1 + x)), np.log(abs(1 - x))
        before = self.size, self.coordinates, self.s
        self.coordinates = replace(
            self.coordinates,
            log_c=self.coordinates.log_c + count * (up + down),
            u_is_larger=self.coordinates.u_is_larger ^ (abs(x) > 1),
            sign=np.where(x < -1, -self.coordinates.sign, self.coordinates.sign),
        )
        self.s = self.s + count * (up - down) / 2
        self.size = self.coordinates.log_size(self.s)
        self._note_passages(before, count)
        self.done += count
        return count

    def _steps_of_rest(self, x, most):
        """How many steps have the same g, up to its rounding error: visible weights rest, and no other gets visible."""
        hidden = self.size < INVISIBLE
        if (abs(x[~hidden]) > AT_REST).any():
            return 1
        # The larger of u and v grows at most as the larger of u + v and u - v.
        left = (INVISIBLE - self.size[hidden]) / np.maximum(np.log1p(abs(x[hidden])), 1e-300)
        return int(max(1, min(most, left.min(initial=np.inf))))

    def _note_passages(self, before, count):
        size, coordinates, s = before
        above = self.size > self.log_weight
        for i in np.flatnonzero((size > self.log_weight) != above):
            part = (self.log_weight[i] - size[i]) / (self.size[i] - size[i])
            log_values = coordinates.log_product(s).reshape(2, -1)
            between = log_values + part * (self._log_values() - log_values)
            time, direction = self.step * (self.done + count * part), 1 if above[i] else -1
            self.passages.append(Event.at(time, i, direction, between, 2 * self.log_weight.reshape(2, -1)))

    def loss_and_values(self, head):
        """Loss on the samples of `head`, infinite if training diverges; the products, shape (2, dim); their logs."""
        p = self.coordinates.product(self.s)
        loss = head.loss_and_g(p)[0] if self.size.max() < DIVERGED else np.inf
        return loss, p.reshape(2, -1), self._log_values()

    def _log_values(self):
        return self.coordinates.log_product(self.s).reshape(2, -1)

    def _c(self):
        """u^2 - v^2 in units of alpha^2, shape (2, dim)."""
        size = np.exp(self.coordinates.log_c - self.log_unit)
        return np.where(self.coordinates.u_is_larger, size, -size).reshape(2, -1)

    def balance(self):
        """As runs.balance, in units of alpha^2."""
        return np.column_stack([np.linalg.norm(part, axis=1) for part in (self._c() - self.start, self.start)])

    def events(self, time, values, weight):
        """Events at the steps where they occur."""
        return sorted(self.passages)


def _minibatches(head, batch_size, rng):
    while True:
        order = rng.permutation(len(head.X))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield head.subset(order[start : start + batch_size])
