"""Gradient flow of full weights at any init scale, in the coordinates of toy/full_coordinates.py."""

from dataclasses import replace
from math import prod

import numpy as np
from scipy.optimize import brentq

from rank_increase.toy.full_coordinates import FullCoordinates
from rank_increase.toy.rkc import Solver
from rank_increase.toy.runs import Event, Run

ACTIVE = -6.0  # rho from which a coordinate changes the gradient by more than rounding errors of a step
EVENT = 1e-8  # how well an event's time is found, in steps: far better than a step is


class FullFlow:
    """The flow of full weights from alpha * theta_0, step by step.

    Parameters
    ----------
    head : object with `loss_and_gradients`, such as heads.FullHead or heads.BlockHead
    theta_0 : array, shape (2 n, d, d')
        As in `FullCoordinates.of`, for the n products that the head takes.
    log_alpha : float
    tolerance : float
        Local error of a step: of the columns of X and Y and the rows of F+ and F-, whose size is 1; three times as
        much in rho.

    Attributes
    ----------
    coordinates : FullCoordinates
        Those of the present state; a step may change them.
    time, state : float, array
    gradients : int
        Gradients of the loss that were computed.
    """

    def __init__(self, head, theta_0, log_alpha, tolerance):
        self.head, self.tolerance, self.gradients = head, tolerance, 0
        self.coordinates, state = FullCoordinates.of(theta_0, log_alpha)
        self._solver = Solver(self._velocity, state, size=self._size, step=1e-3)

    @property
    def time(self):
        """Where the flow is."""
        return self._solver.time

    @property
    def state(self):
        """The state there."""
        return self._solver.y

    def step(self, end):
        """Make a step that does not pass the time `end`.

        Returns
        -------
        coordinates : FullCoordinates
            Those of the segment.
        segment : rkc.Segment
        """
        segment = self._solver.advance(min(end - self.time, self._longest()))
        coordinates = replace(self.coordinates, kappa=self.coordinates.kappa.copy())
        self._solver.restart(self.coordinates.canonical(segment.after))
        return coordinates, segment

    def _velocity(self, state):
        self.gradients += 1
        G = self.head.loss_and_gradients(self.coordinates.products(state))[1]
        return self.coordinates.velocity(state, G)

    def _size(self, error, before, after):
        *rows, rho = self.coordinates.parts(error)
        largest = max(np.square(part).sum(axis=-1).max() for part in rows)
        return max(np.sqrt(largest), abs(rho).max() / 3) / self.tolerance

    def _longest(self):
        """The longest step after which nothing has happened that its error would not show."""
        rho, rate = self.coordinates.parts(self.state)[4], self.coordinates.parts(self._solver.slope)[4]
        waiting = rho < ACTIVE
        longest = np.inf
        growing = waiting & (rate > 0)
        if growing.any():
            longest = (np.maximum(ACTIVE - rho, 0.5)[growing] / rate[growing]).min()
        # Coordinate j grows faster than i, which is ahead of it. Either their directions mix, from an overlap that may
        # be far below the tolerance, or j overtakes i.
        faster = rate[:, None, :] - rate[:, :, None]
        behind = np.triu(np.ones(faster.shape[1:], bool), 1) & waiting[:, :, None] & (faster > 0)
        if behind.any():
            longest = min(longest, 0.5 / faster[behind].max())
        return longest


def full_run(problem, log_alpha, times, tolerance, *, weight, on_step=None):
    """The gradient flow of a toy problem with full or block-diagonal weights, a runs.Run recorded at `times`.

    Parameters
    ----------
    problem : problem.Problem
    log_alpha : float
    times : array, ascending, from 0
    tolerance : float
        As in `FullFlow`.
    weight : float or array, of as many entries as `problem.shape`
        A singular value is active while it is above the square of this, for all or for each its own.
    on_step : callable, optional
        Called with the time after each step.

    Raises
    ------
    ArithmeticError
        If the flow cannot be integrated to the end.
    """
    head, level = problem.head(), 2 * np.log(np.broadcast_to(weight, prod(problem.shape))).reshape(problem.shape)
    flow = FullFlow(head, problem.factors, log_alpha, tolerance)
    start = flow.coordinates.conserved(flow.state)
    records, events = [], []

    def log_values(coordinates, state):
        return coordinates.log_values(state).reshape(problem.shape)

    def record(coordinates, state):
        products = coordinates.products(state)
        change = coordinates.conserved(state) - start
        balance = np.stack([np.linalg.norm(part.reshape(2, -1), axis=1) for part in (change, start)], axis=1)
        records.append((head.loss_and_gradients(products)[0], log_values(coordinates, state), balance))

    record(flow.coordinates, flow.state)
    before = log_values(flow.coordinates, flow.state)
    while len(records) < len(times):
        coordinates, segment = flow.step(times[-1])
        after = log_values(coordinates, segment.after)
        events += _events(coordinates, segment, before, after, level)
        while len(records) < len(times) and times[len(records)] <= segment.end * (1 + 1e-12):
            record(coordinates, segment.at(min(times[len(records)], segment.end)))
        before = after
        if on_step:
            on_step(flow.time)
    loss, logs, conservation = (np.array(column) for column in zip(*records, strict=True))
    return Run(times, loss, np.exp(logs), logs, sorted(events), conservation, 2 * log_alpha)


def _events(coordinates, segment, before, after, level):
    """Events of a step, by time: singular values are told apart by their rank in their product, or in its block."""

    def log_values(time):
        return coordinates.log_values(segment.at(time)).reshape(level.shape)

    found = []
    for coordinate in np.flatnonzero((before > level) != (after > level)):
        time = brentq(
            lambda time, i=coordinate: (log_values(time) - level).ravel()[i],
            segment.start,
            segment.end,
            xtol=EVENT * (segment.end - segment.start),
        )
        direction = 1 if (after > level).ravel()[coordinate] else -1
        found.append(Event.at(time, coordinate, direction, log_values(time), level))
    return found
