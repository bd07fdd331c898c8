"""The orbits between stages of Algorithm 1, and the constants C_k of Theorem 4.5 that follow from them.

For small alpha, stage k comes at time T_k ln(1/alpha) + C_k + o(1). Theorem 4.5 leaves C_k open; it is computed here
without a fit. In the coordinates s of `diagonal_flow`, ds/dt = g(u v). Let r be s less its part that grows with
ln(1/alpha). While the weights rest at theta_k, r of a waiting coordinate changes at the constant rate g(theta_k). When
the next coordinate becomes active, the weights follow the orbit from theta_k to theta_{k+1}, on which the products of
waiting coordinates are zero in the limit, and their r changes by the integral of g. Both are carried from stage to
stage, beginning with r = s at alpha = 1. For the first stage, whose coordinate i comes before any orbit,
C_1 = ln(2 sqrt(level) / |u_i(0) + sgn(g_i) v_i(0)|) / |g_i| if its product is small when it passes `level`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import LSODA
from scipy.optimize import brentq

from rank_increase.toy.diagonal_flow import JACOBIAN_SAMPLES, differentiate_g


@dataclass(frozen=True)
class Orbit:
    """The orbit from theta_{k-1} to theta_k.

    Attributes
    ----------
    delay : float
        C_k: the coordinate passes its level at time T_k ln(1/alpha) + C_k + o(1). NaN if it does not pass it.
    area : float
        Integral over time of |loss - limit|, where the limit falls at T_k ln(1/alpha): what the stage adds to the
        distance of a loss curve to its limit, times ln(1/alpha).
    """

    delay: float
    area: float


def follow_orbits(head, coordinates, s, stages, levels, *, start=1e-8, near=1e-4, rtol=1e-7, atol=1e-7, patience=1e6):
    """Yield the `Orbit` of each stage.

    Parameters
    ----------
    head : object with `loss_and_g` and `subset`
    coordinates : diagonal_flow.LogCoordinates
        Those of theta_0, at alpha = 1.
    s : array, shape (p,)
        State of theta_0 in them.
    stages : list of algorithm1.Stage
    levels : array, shape (p,)
        Sizes of the products at which coordinates count as active.
    start : float
        Product of the new coordinate at which an orbit begins, from theta_{k-1}.
    near : float
        An orbit ends when r is this near to its value at theta_k; the rest of the integral is that of the linear flow.
    rtol, atol : float
        Error bounds of the solver.
    patience : float
        Longest time of an orbit, in units of 1 / |g| of the new coordinate.

    Raises
    ------
    ArithmeticError
        If an orbit does not come to rest at theta_k.
    """
    log_c = coordinates.log_c
    r, p, offset = s.copy(), np.zeros_like(s), 0.0
    for stage in stages:
        i, waiting = stage.coordinate, p == 0
        loss, g = head.loss_and_g(p)
        # The linear flow at theta_{k-1} takes |p_i| to 1 at time `offset` after T_k ln(1/alpha): the orbit's time zero.
        wait = (stage.sign * (np.log(2) - log_c[i] / 2) - r[i]) / g[i]
        offset, begin = offset + wait, np.log(start) / 2 / abs(g[i])
        r[waiting] += (g * (wait + begin))[waiting]
        first = p.copy()
        first[i] = stage.sign * start
        active = np.flatnonzero(first)
        r[active] = _at_product(first, log_c)[active]
        path = _Path(head, np.sign(first), log_c)
        end, r, crossed, integral = _follow(
            path, begin, r, stage, -offset, levels[i], near=near, rtol=rtol, atol=atol, longest=patience / abs(g[i])
        )
        p = stage.product
        rest = np.flatnonzero(p)
        left = _at_product(p, log_c)[rest] - r[rest]  # the integral of g from here on, exactly
        derivatives = differentiate_g(head, p, rest)[:, rest]
        next_loss, next_g = head.loss_and_g(p)
        r = r + derivatives @ np.linalg.solve(derivatives[rest], left) - next_g * end
        split = np.clip(-offset, begin, end)
        before, after = integral
        area = loss * (split - begin) - before + after - next_loss * (end - split)
        yield Orbit(offset + crossed, area + (loss - next_loss) * abs(-offset - split))


def resolved_from(times, delays, middles):
    """ln(1/alpha_0) of each stage: below alpha_0, its support alone is active in its middle; shape (stages,).

    Stage j comes at T_j + C_j / ln(1/alpha). Up to this order, all stages up to k come before the middle of stage k and
    all others after it once ln(1/alpha) is above this bound, zero if at every alpha.

    Parameters
    ----------
    times, delays, middles : array, shape (stages,)
        T_k, C_k and the middles of stages, rescaled times; stages without C_k (NaN) give no bound.
    """
    bounds = delays / (middles[:, None] - times)  # of every stage on the middle of every other
    return np.fmax(0.0, np.fmax.reduce(bounds, axis=1)) if len(times) else np.zeros(0)


def _at_product(p, log_c):
    """r at the products p, whose signs are those of r; zero at zero."""
    return np.sign(p) * (np.log(4 * abs(np.where(p == 0, 1, p))) - log_c) / 2


class _Path:
    """Right side of the flow of (r, integral of the loss), with coordinates of zero `sign` waiting."""

    def __init__(self, head, sign, log_c):
        self.head, self.sign, self.log_c = head, sign, log_c
        self.few, self.active = head.subset(slice(JACOBIAN_SAMPLES)), np.flatnonzero(sign)

    def product(self, r):
        # A trial step may overshoot; a large finite number makes the solver shorten it, infinity would not.
        return self.sign * np.exp(np.minimum(self.log_c + 2 * self.sign * r, 30.0)) / 4

    def velocity(self, _, y):
        loss, g = self.head.loss_and_g(self.product(y[:-1]))
        return np.append(g, loss)

    def jacobian(self, _, y):
        p = self.product(y[:-1])
        slope, matrix = 2 * abs(p), np.zeros((len(y), len(y)))
        matrix[:-1, :-1] = differentiate_g(self.few, p, self.active) * slope
        matrix[-1, :-1] = -self.few.loss_and_g(p)[1] * slope
        return matrix


def _follow(path, begin, r, stage, split, level, *, near, rtol, atol, longest):
    """Time and r at the end, time of passing the level, and the integrals of the loss before and after `split`."""
    solver = LSODA(path.velocity, begin, np.append(r, 0.0), begin + longest, rtol=rtol, atol=atol, jac=path.jacobian)
    goal, i = _at_product(stage.product, path.log_c), stage.coordinate
    rest, gone = stage.product != 0, (path.sign != 0) & (stage.product == 0)
    reach = (np.log(4 * level) - path.log_c[i]) / 2
    crossed, before = np.nan, 0.0
    while solver.status == "running":
        passed = stage.sign * solver.y[i] >= reach
        message = solver.step()
        step = solver.dense_output()
        if np.isnan(crossed) and not passed and stage.sign * solver.y[i] >= reach:
            crossed = brentq(lambda t, step=step: stage.sign * step(t)[i] - reach, step.t_min, step.t_max)
        if step.t_min < split <= step.t_max:
            before = step(split)[-1]
        elif split > step.t_max:
            before = solver.y[-1]
        y = solver.y[:-1]
        if (abs(y - goal)[rest] < near).all() and (abs(path.product(y)[gone]) < 1e-9).all():
            return solver.t, y, crossed, (before, solver.y[-1] - before)
    raise ArithmeticError(f"the orbit to stage at T = {stage.time:.6g} has not come to rest: {message or 'it is slow'}")
