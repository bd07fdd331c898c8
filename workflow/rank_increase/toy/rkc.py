"""Runge-Kutta-Chebyshev: an explicit solver for large, mildly stiff systems such as the flow of full weight matrices.

Second order; a step of s stages is stable for real negative eigenvalues down to about -0.65 s^2 / step, so its cost
grows with the square root of the stiffness and no Jacobian is formed. Source: Sommeijer, Shampine and Verwer, "RKC: an
explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998), sections 2 and 3.
"""

from functools import cache

import numpy as np
from numpy.polynomial import chebyshev


@cache
def _coefficients(stages):
    """Weights of the stages: mu, nu, mu~, gamma~ (each indexed by stage, from 0) and the first mu~."""
    w0 = 1 + 2 / 13 / stages**2  # damping 2/13
    T = np.empty((stages + 1, 3))  # Chebyshev polynomials and two derivatives at w0
    for j in range(stages + 1):
        basis = np.eye(stages + 1)[j]
        T[j] = [chebyshev.chebval(w0, chebyshev.chebder(basis, order)) for order in range(3)]
    w1 = T[stages, 1] / T[stages, 2]
    b = np.empty(stages + 1)
    b[2:] = T[2:, 2] / T[2:, 1] ** 2
    b[:2] = b[2]
    mu = np.r_[0, 0, 2 * b[2:] * w0 / b[1:-1]]
    nu = np.r_[0, 0, -b[2:] / b[:-2]]
    mu_t = np.r_[0, b[1] * w1, 2 * b[2:] * w1 / b[1:-1]]
    gamma_t = np.r_[0, 0, -(1 - b[1:-1] * T[1:-1, 0]) * mu_t[2:]]
    return mu, nu, mu_t, gamma_t


def _step(f, y, f_y, step, stages):
    """The solution one step later."""
    mu, nu, mu_t, gamma_t = _coefficients(stages)
    before, now = y, y + mu_t[1] * step * f_y
    for j in range(2, stages + 1):
        after = (1 - mu[j] - nu[j]) * y + mu[j] * now + nu[j] * before
        after += step * (mu_t[j] * f(now) + gamma_t[j] * f_y)
        before, now = now, after
    return now


class _SpectralRadius:
    """Upper estimate of the largest eigenvalue of df/dy by power iteration, starting from the previous vector."""

    def __init__(self, size):
        self.vector = np.random.default_rng(0).standard_normal(size)

    def __call__(self, f, y, f_y, iterations=8, tolerance=0.02):
        size = np.sqrt(np.finfo(float).eps) * max(np.linalg.norm(y), 1e-8)
        radius = 0.0
        for _ in range(iterations):
            change = (f(y + size / np.linalg.norm(self.vector) * self.vector) - f_y) / size
            previous, radius = radius, np.linalg.norm(change)
            self.vector = change if radius > 0 else self.vector
            if abs(radius - previous) <= tolerance * radius:
                break
        return 1.2 * radius  # the iteration approaches from below


def integrate(f, y, times, *, rtol, atol, max_stages=60, refresh=25):
    """Yield the solution of dy/dt = f(y), y(times[0]) given, at each of `times`.

    Within a step, the solution is interpolated by the cubic through values and slopes at both ends.

    Parameters
    ----------
    f : callable
        Autonomous function of an array shaped like `y`.
    y : array, shape (size,)
        Not changed.
    times : array, ascending
    rtol, atol : float
        Allowed local error of a step in the root mean square over components.
    max_stages : int
        Longest Chebyshev recursion of a step.
    refresh : int
        Steps between estimates of the spectral radius.

    Raises
    ------
    ArithmeticError
        If no step is short enough for the tolerance: the solution diverges.
    """
    t, end, f_y = times[0], times[-1], f(y)
    radius, steps, estimate = 0.0, 0, _SpectralRadius(y.size)
    pending = iter(times)
    wanted = next(pending)
    while wanted <= t:
        yield y
        wanted = next(pending, None)
        if wanted is None:
            return
    step, last_error, last_step = 1e-6 * (end - t), 0.0, 0.0
    while True:
        if steps % refresh == 0:
            radius = estimate(f, y, f_y)
        if not np.isfinite(radius):
            raise ArithmeticError(f"the solution is no longer finite at time {t:.6g}")
        step = min(step, end - t, 0.65 * max_stages**2 / max(radius, 1e-300))
        stages = max(2, int(np.ceil(np.sqrt(1 + 1.54 * step * radius))))
        new = _step(f, y, f_y, step, stages)
        f_new = f(new)
        error = _rms((12 * (y - new) + 6 * step * (f_y + f_new)) / 15 / (atol + rtol * np.maximum(abs(y), abs(new))))
        if not error <= 1:  # also if it is NaN
            step *= max(0.1, 0.8 / np.cbrt(error)) if np.isfinite(error) else 0.1
            radius = estimate(f, y, f_y)
            if step < 1e-14 * max(end, 1e-300):
                raise ArithmeticError(f"no step is short enough at time {t:.6g}: the solution is no longer finite")
            continue
        while wanted <= t + step * (1 + 1e-12):
            yield _hermite(y, f_y, new, f_new, step, min((wanted - t) / step, 1.0))
            wanted = next(pending, None)
            if wanted is None:
                return
        growth = 0.8 / np.cbrt(max(error, 1e-10))
        if last_error > 0:  # as in the paper: the trend of the error continues
            growth = min(growth, growth * np.cbrt(last_error / max(error, 1e-10)) * step / last_step)
        last_error, last_step = max(error, 1e-10), step
        t, y, f_y, steps = t + step, new, f_new, steps + 1
        step *= min(10.0, max(0.1, growth))


def _rms(x):
    return np.sqrt(np.mean(np.square(x)))


def _hermite(y0, f0, y1, f1, step, x):
    return (
        (1 + 2 * x) * (1 - x) ** 2 * y0
        + x * (1 - x) ** 2 * step * f0
        + x**2 * (3 - 2 * x) * y1
        - x**2 * (1 - x) * step * f1
    )
