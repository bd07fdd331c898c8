"""Gradient flow of networks with diagonal weights, solved in coordinates that the flow conserves (paper, section 4).

With c = u^2 - v^2, conserved by Lemma 4.1, one of u and v is sqrt|c| cosh(s) and the other sqrt|c| sinh(s), up to sign,
so

    u v = |c|/2 sinh(2 s)    and    ds/dt = g(u v),

exactly. The state s has the size of ln(1/alpha), and only ln|c| is kept: alpha = 1e-3000 needs no more digits than 0.1.

With weight decay lambda, du/dt = v g - lambda u and dv/dt = u g - lambda v, so that c shrinks as exp(-2 lambda t) while
ds/dt stays g(u v): of the constants, ln|c| alone drifts.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import LSODA
from scipy.optimize import brentq

from rank_increase.toy.kernels import flush
from rank_increase.toy.runs import Event, Run

# A Jacobian on this many samples serves the solver's Newton iteration as well as one on all 1000. With 120, long steps
# stop converging once many coordinates are active: ten times as many steps at alpha = 1e-3000.
JACOBIAN_SAMPLES = 300
# A flow is also recorded where it moves: at the end of a step of the solver once the largest change of a product since
# the last such record, times the time since then, is above this. Areas under curves are then known everywhere alike.
MOVED = 0.25


@dataclass(frozen=True)
class LogCoordinates:
    """Constants of a flow: ln|u^2 - v^2| of each coordinate, which of u and v is larger, and its sign.

    With weight decay (lambda, `decay`), they are the constants at one time; `after` gives those at another.
    """

    log_c: np.ndarray
    u_is_larger: np.ndarray
    sign: np.ndarray
    decay: float = 0.0

    @classmethod
    def of(cls, u, v, log_alpha=0.0):
        """Coordinates and state s of the weights alpha * (u, v).

        Parameters
        ----------
        u, v : array, shape (p,)
            Such as theta_0; the scale alpha enters only through its logarithm.
        log_alpha : float

        Returns
        -------
        coordinates : LogCoordinates
        s : array, shape (p,)

        Raises
        ------
        ValueError
            If |u_i| = |v_i| for some i, which Assumption 4.2 excludes.
        """
        c = u**2 - v**2
        if not c.all():
            raise ValueError("|u| = |v| at some coordinate: Assumption 4.2 asks for u_i(0)^2 != v_i(0)^2")
        u_is_larger = c > 0
        sign = np.sign(np.where(u_is_larger, u, v))
        return cls(np.log(abs(c)) + 2 * log_alpha, u_is_larger, sign), np.arcsinh(2 * u * v / abs(c)) / 2

    def after(self, time):
        """The constants `time` later, a number or an array that broadcasts against (p,)."""
        return replace(self, log_c=self.log_c - 2 * self.decay * time) if self.decay else self

    def product(self, s):
        """u v, shape of `s`."""
        size = abs(s)
        return np.sign(s) * self._exp(size) * -np.expm1(-4 * size) / 4

    def log_product(self, s):
        """ln|u v|, shape of `s`: -inf where s is zero."""
        size = abs(s)
        with np.errstate(divide="ignore"):
            return self.log_c + 2 * size + np.log(-np.expm1(-4 * size) / 4)

    def slope(self, s):
        """d(u v)/ds = u^2 + v^2, shape of `s`."""
        size = abs(s)
        return self._exp(size) * (1 + np.exp(-4 * size)) / 2

    def _exp(self, size):
        # A trial step may overshoot a plateau by far; a large finite number makes the solver shorten it, infinity not.
        return np.exp(np.minimum(self.log_c + 2 * size, 30.0))

    def weights(self, s):
        """u and v."""
        size = abs(s)
        half = np.exp(self.log_c / 2 + size) / 2
        larger = self.sign * half * (1 + np.exp(-2 * size))
        smaller = self.sign * np.sign(s) * half * -np.expm1(-2 * size)
        return np.where(self.u_is_larger, larger, smaller), np.where(self.u_is_larger, smaller, larger)

    def log_size(self, s):
        """ln max(|u|, |v|), shape of `s`."""
        size = abs(s)
        return self.log_c / 2 + size + np.log1p(np.exp(-2 * size)) - np.log(2)

    def reach(self, weight):
        """|s| at which max(|u|, |v|) = `weight`; zero where it is never below."""
        log_ratio = np.maximum(np.log(weight) - self.log_c / 2, 0.0)
        return log_ratio + np.log1p(np.sqrt(-np.expm1(-2 * log_ratio)))


@dataclass(frozen=True)
class Crossing:
    """A coordinate whose larger weight passes a threshold, upwards (direction 1) or downwards (-1).

    `threshold` is as given to `integrate`; `state` is the state s of the whole flow at that time, shape (p,).
    """

    time: float
    threshold: float | np.ndarray
    coordinate: int
    direction: int
    state: np.ndarray


def integrate(head, coordinates, s, times, *, rtol, atol, thresholds=(), on_step=None):
    """The flow from state `s` at times[0].

    Solved by LSODA, since active coordinates relax quickly while others drift for a time of order ln(1/alpha).

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`, such as heads.DiagonalHead
    coordinates : LogCoordinates
        At time 0.
    s : array, shape (p,)
    times : array, ascending
        Times to record.
    rtol, atol : float
        Error bounds of s. An atol above 1e-5 misses stages.
    thresholds : sequence of float or array, shape (p,)
        Sizes of max(|u_i|, |v_i|) whose crossings are reported, for all coordinates or for each its own.
    on_step : callable, optional
        Called with the time and the state after each step.

    Returns
    -------
    states : array, shape (len(times), p)
    crossings : list of Crossing, by time

    Raises
    ------
    ArithmeticError
        If the solver cannot continue.
    """
    states = np.empty((len(times), len(s)))
    states[0], recorded, crossings = s, 1, []
    jacobian = _Jacobian(head.subset(slice(JACOBIAN_SAMPLES)), coordinates)
    solver = LSODA(
        lambda t, s: head.loss_and_g(coordinates.after(t).product(s))[1],
        times[0],
        s,
        times[-1],
        rtol=rtol,
        atol=atol,
        jac=jacobian,
    )
    while recorded < len(times):
        before = solver.y
        message = solver.step()
        if solver.status == "failed":
            raise ArithmeticError(f"the flow cannot be integrated beyond time {solver.t:.6g}: {message}")
        step = solver.dense_output()
        stop = np.searchsorted(times, solver.t, side="right")
        states[recorded:stop], recorded = step(times[recorded:stop]).T, stop
        for threshold in thresholds:
            crossings += _crossings(step, before, solver.y, threshold, coordinates)
        if on_step:
            on_step(solver.t, solver.y)
    return states, sorted(crossings, key=lambda crossing: crossing.time)


def _crossings(step, before, after, threshold, coordinates):
    def excess(t, s):
        return abs(s) - coordinates.after(t).reach(threshold)

    active_before, active_after = excess(step.t_min, before) > 0, excess(step.t_max, after) > 0
    for i in np.flatnonzero(active_before != active_after):
        time = brentq(lambda t, i=i: excess(t, step(t))[i], step.t_min, step.t_max)
        yield Crossing(time, threshold, int(i), 1 if active_after[i] else -1, step(time))


class _Jacobian:
    """dg/ds on a few samples, by differences of g along the coordinates whose products can move it.

    Columns of dg/dp are kept until a product has moved by 0.1: on a plateau, and while the solver adapts its step, they
    are requested repeatedly at the same place, and its Newton iteration needs no exact ones.
    """

    def __init__(self, head, coordinates):
        self.head, self.coordinates = head, coordinates
        self.p, self.known, self.dg_dp = np.inf, None, None

    def __call__(self, t, s):
        coordinates = self.coordinates.after(t)
        p, slope = coordinates.product(s), flush(coordinates.slope(s))
        if abs(p - self.p).max() > 0.1:
            self.p, self.known, self.dg_dp = p, np.zeros(len(p), bool), np.zeros((len(p), len(p)))
        wanted = (slope > 1e-4) & ~self.known
        if wanted.any():
            self.dg_dp += differentiate_g(self.head, self.p, np.flatnonzero(wanted))
            self.known |= wanted
        return self.dg_dp * slope


def differentiate_g(head, p, columns, change=1e-6):
    """Derivatives of g along some of the products, by differences; shape (p, p), zero in the other columns."""
    derivatives = np.zeros((len(p), len(p)))
    g = head.loss_and_g(p)[1]
    for i in columns:
        moved = p.copy()
        moved[i] += change
        derivatives[:, i] = (head.loss_and_g(moved)[1] - g) / change
    return derivatives


def initial_state(theta_0, log_alpha, decay=0.0):
    """Coordinates and state of the diagonal weights alpha * theta_0, shape (4, ..., dim), for `integrate`.

    Coordinates are numbered as in heads.DiagonalHead and transformer.DiagonalTransformer.
    """
    W_K, W_Q, W_V, W_O = theta_0
    u, v = (np.stack(pair, axis=-2).ravel() for pair in ((W_K, W_V), (W_Q, W_O)))
    coordinates, s = LogCoordinates.of(u, v, log_alpha)
    return replace(coordinates, decay=decay), s


def diagonal_run(problem, log_alpha, times, rtol, atol, *, weight, decay=0.0, on_step=None):
    """The gradient flow of a toy problem with diagonal weights, a runs.Run recorded at `times` and where it moves.

    Parameters
    ----------
    problem : problem.Problem
    log_alpha : float
    times : array, ascending, from 0
    rtol, atol : float
        As in `integrate`.
    weight : float or array, shape (p,)
        A coordinate is active while the larger of its weights is above this.
    decay : float
        Weight decay lambda.
    on_step : callable, optional
        Called with the time after each step.
    """
    head = problem.head()
    coordinates, s = initial_state(problem.theta_0, log_alpha, decay)
    moved = [(times[0], s, coordinates.product(s))]

    def keep(time, state):
        p = coordinates.after(time).product(state)
        if abs(p - moved[-1][2]).max() * (time - moved[-1][0]) > MOVED and time < times[-1]:
            moved.append((time, state.copy(), p))
        if on_step:
            on_step(time)

    states, crossings = integrate(head, coordinates, s, times, rtol=rtol, atol=atol, thresholds=[weight], on_step=keep)
    times, first = np.unique(np.r_[times, [time for time, *_ in moved[1:]]], return_index=True)
    states = np.vstack([states, *(state for _, state, _ in moved[1:])])[first]
    values = coordinates.after(times[:, None]).product(states)
    loss = np.array([head.loss_and_g(p)[0] for p in values])
    shape, level = (len(times), *head.shape), 2 * np.log(np.broadcast_to(weight, len(s))).reshape(head.shape)
    events = [
        Event.at(
            crossing.time,
            crossing.coordinate,
            crossing.direction,
            coordinates.after(crossing.time).log_product(crossing.state).reshape(head.shape),
            level,
        )
        for crossing in crossings
    ]
    log_values = coordinates.after(times[:, None]).log_product(states)
    return Run(times, loss, values.reshape(shape), log_values.reshape(shape), events)
