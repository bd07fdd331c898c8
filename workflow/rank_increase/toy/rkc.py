"""Runge-Kutta-Chebyshev: an explicit solver for large, mildly stiff systems such as the flow of full weight matrices.

Second order; a step of s stages is stable for real negative eigenvalues down to about -0.65 s^2 / step, so its cost
grows with the square root of the stiffness and no Jacobian is formed. Source: Sommeijer, Shampine and Verwer, "RKC: an
explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998), sections 2 and 3.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

MAX_STAGES = 250
REFRESH = 20  # steps between two estimates of the spectral radius


@dataclass(frozen=True)
class Segment:
    """A step of a solution: times, states and their derivatives at both ends."""

    start: float
    end: float
    before: np.ndarray
    before_slope: np.ndarray
    after: np.ndarray
    after_slope: np.ndarray

    def at(self, time):
        """The state at a time within the step, by the cubic through values and slopes at both ends."""
        step = self.end - self.start
        x = (time - self.start) / step
        return (
            (1 + 2 * x) * (1 - x) ** 2 * self.before
            + x * (1 - x) ** 2 * step * self.before_slope
            + x**2 * (3 - 2 * x) * self.after
            - x**2 * (1 - x) * step * self.after_slope
        )


class Solver:
    """The solution of dy/dt = f(y), step by step.

    Parameters
    ----------
    f : callable
        Function of an array shaped like `y`.
    y : array, shape (size,)
        State at time 0; not changed.
    size : callable
        ``size(error, before, after) -> float``: a local error of a step between two states, in units of what is
        allowed.
    step : float
        Length of the first step that is tried.

    Attributes
    ----------
    time, y, slope : float, array, array
        Where the solution is, and f there.
    """

    def __init__(self, f, y, *, size, step):
        self.f, self.size, self.step = f, size, step
        self.time, self.y, self.slope = 0.0, y, f(y)
        self._last, self._steps = None, 0
        self._vector = np.random.default_rng(0).standard_normal(y.size)

    def restart(self, y):
        """Go on from `y`: the same point in other coordinates."""
        self.y, self.slope = y, self.f(y)

    def advance(self, longest):
        """Make one step, of at most `longest`; returns its `Segment`.

        Raises
        ------
        ArithmeticError
            If no step is short enough: the solution diverges.
        """
        if self._steps % REFRESH == 0:
            self._radius = self._spectral_radius()
        while True:
            step = min(self.step, longest, 0.65 * MAX_STAGES**2 / max(self._radius, 1e-300))
            if not step > 1e-14 * self.time:
                raise ArithmeticError(f"no step is short enough at time {self.time:.6g}: the solution is not finite")
            stages = max(2, int(np.ceil(np.sqrt(1 + 1.54 * step * self._radius))))
            # Of a step far beyond an activation, stages may overflow: it is refused, and a shorter one tried.
            with np.errstate(over="ignore", invalid="ignore"):
                new = self._stages(step, stages)
                slope = self.f(new)
                error = (12 * (self.y - new) + 6 * step * (self.slope + slope)) / 15
                error = self.size(error, self.y, new)
            if error <= 1:  # not if it is NaN
                break
            self.step = step * (max(0.1, 0.8 / np.cbrt(error)) if np.isfinite(error) else 0.1)
            self._radius = self._spectral_radius()
        segment = Segment(self.time, self.time + step, self.y, self.slope, new, slope)
        error = max(error, 1e-10)
        growth = 0.8 / np.cbrt(error)
        if self._last:  # as in the paper: the trend of the error continues
            growth = min(growth, growth * np.cbrt(self._last[0] / error) * step / self._last[1])
        # A step that was cut short says little of what the next one may be.
        self.step = max(step * min(10.0, max(0.1, growth)), self.step if step < self.step else 0.0)
        self._last, self._steps = (error, step), self._steps + 1
        self.time, self.y, self.slope = segment.end, new, slope
        return segment

    def _stages(self, step, stages):
        mu, nu, mu_t, gamma_t = _coefficients(stages)
        y, slope = self.y, self.slope
        before, now = y, y + mu_t[1] * step * slope
        for j in range(2, stages + 1):
            after = (1 - mu[j] - nu[j]) * y + mu[j] * now + nu[j] * before
            after += step * (mu_t[j] * self.f(now) + gamma_t[j] * slope)
            before, now = now, after
        return now

    def _spectral_radius(self, iterations=8, tolerance=0.05):
        """Upper estimate of the largest eigenvalue of df/dy by power iteration, starting from the previous vector."""
        size = np.sqrt(np.finfo(float).eps) * max(np.linalg.norm(self.y), 1e-8)
        radius = 0.0
        for _ in range(iterations):
            moved = self.y + size / np.linalg.norm(self._vector) * self._vector
            change = (self.f(moved) - self.slope) / size
            previous, radius = radius, np.linalg.norm(change)
            if not np.isfinite(radius):
                raise ArithmeticError(f"the solution is no longer finite at time {self.time:.6g}")
            self._vector = change if radius > 0 else self._vector
            if abs(radius - previous) <= tolerance * radius:
                break
        return 1.2 * radius  # the iteration approaches from below


@cache
def _coefficients(stages):
    """Weights of the stages: mu, nu, mu~, gamma~ (each indexed by stage, from 0)."""
    w0 = 1 + 2 / 13 / stages**2  # damping 2/13
    T = np.zeros((stages + 1, 3))  # Chebyshev polynomials and two derivatives at w0
    T[0, 0], T[1, :2] = 1, (w0, 1)
    for j in range(2, stages + 1):
        T[j] = 2 * w0 * T[j - 1] - T[j - 2]
        T[j, 1:] += [2 * T[j - 1, 0], 4 * T[j - 1, 1]]
    w1 = T[stages, 1] / T[stages, 2]
    b = np.empty(stages + 1)
    b[2:] = T[2:, 2] / T[2:, 1] ** 2
    b[:2] = b[2]
    mu = np.r_[0, 0, 2 * b[2:] * w0 / b[1:-1]]
    nu = np.r_[0, 0, -b[2:] / b[:-2]]
    mu_t = np.r_[0, b[1] * w1, 2 * b[2:] * w1 / b[1:-1]]
    gamma_t = np.r_[0, 0, -(1 - b[1:-1] * T[1:-1, 0]) * mu_t[2:]]
    return mu, nu, mu_t, gamma_t
