"""Gradient flow of full weights from alpha = 1e-30, with 120 digits: writes tests/data/full_flow_*.npz, in minutes.

`pip install gmpy2; PYTHONPATH=workflow python tests/toy/make_full_reference.py`. The tests read what it wrote, and run
its functions with float64: they do not need gmpy2.

The weights themselves are integrated. Nothing is rescaled, no coordinates are changed, and alpha is a number like any
other. In float64 a singular value of 1e-60 beside one of order 1 is rounding noise; here it has 60 digits.
"""

import sys
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path

import mpmath
import numpy as np
from scipy.integrate import DOP853

from rank_increase.toy.problem import make_problem

DATA = Path(__file__).parents[1] / "data"
DIGITS = 120
LN_ALPHA = -30 * np.log(10)


@dataclass(frozen=True)
class Case:
    """A problem of dim 4 and how long to follow it, in true time; the weights have `rank` columns.

    The seeds are of well-conditioned teachers, so that nearly all singular values wake within minutes of computation.
    """

    seed: int
    teacher: str
    rank: int
    end: float
    records: int

    def problem(self):
        """The toy problem, with weights of shape (4, 4, rank): the first columns of theta_0."""
        problem = make_problem(
            self.seed,
            samples=8,
            tokens=3,
            dim=4,
            weights="full",
            teacher=self.teacher,
            teacher_std_KQ=1.0,
            teacher_std_VO=2.0,
        )
        return replace(problem, theta_0=problem.theta_0[:, :, : self.rank])


CASES = {
    "diagonal_teacher": Case(seed=78, teacher="diagonal", rank=4, end=1000.0, records=201),
    "dense_teacher": Case(seed=538, teacher="dense", rank=4, end=1050.0, records=211),
    "rectangular": Case(seed=538, teacher="dense", rank=2, end=400.0, records=201),
}
# Of the run that is stored, and of a coarser one: their difference bounds its error.
TOLERANCES = [1e-14, 1e-12]


def velocity(X, Y, theta, exp=np.exp):
    """Loss and -dL/dtheta, paper eq. (3), in the plainest NumPy: any number type will do.

    Parameters
    ----------
    X, Y : array, shape (samples, tokens, dim)
    theta : array, shape (4, dim, rank)
        W_K, W_Q, W_V, W_O.
    exp : callable
        Exponential of each entry of an array of this number type.
    """
    W_K, W_Q, W_V, W_O = theta
    X_T = X.transpose(0, 2, 1)
    A, B = X @ (W_K @ W_Q.T), X @ (W_V @ W_O.T)
    P = exp(A @ X_T)
    P = P / P.sum(axis=2, keepdims=True)
    E = (P @ B - Y) / X.size
    loss = (E * E).sum() * X.size / 2
    dP = E @ B.transpose(0, 2, 1)
    dS = P * (dP - (P * dP).sum(axis=2, keepdims=True))
    g_KQ = -(X_T @ dS @ X).sum(axis=0)
    g_VO = -(X_T @ P.transpose(0, 2, 1) @ E).sum(axis=0)
    return loss, np.stack([g_KQ @ W_Q, g_KQ.T @ W_K, g_VO @ W_O, g_VO.T @ W_V])


def integrate(f, y, times, tolerance):
    """Solution of y' = f(y) at `times`, one after the other, from y at times[0].

    The method is that of Dormand and Prince of order 8, with SciPy's coefficients: 16 digits of them suffice.
    The estimated error of a step is at most `tolerance` for each weight matrix relative to its largest entry. That is
    enough for the small singular values of their products too: a Runge-Kutta method multiplies the pair of weights of
    a product from the left, as the flow does, and so does its error.
    """
    yield y
    h = (times[1] - times[0]) / 8
    for start, end in zip(times[:-1], times[1:], strict=True):
        time = start
        while time < end:
            steps = -int((time - end) // h)  # as few equal ones as reach the next record
            step = (end - time) / steps
            slopes = np.empty((DOP853.n_stages + 1, *y.shape), y.dtype)
            slopes[0] = f(y)
            for stage in range(1, DOP853.n_stages):
                slopes[stage] = f(y + step * combine(DOP853.A[stage, :stage], slopes[:stage]))
            new = y + step * combine(DOP853.B, slopes[:-1])
            slopes[-1] = f(new)
            fifth, third = (
                float((step * abs(combine(E, slopes)).max(axis=(1, 2)) / abs(y).max(axis=(1, 2))).max())
                for E in (DOP853.E5, DOP853.E3)
            )
            error = fifth**2 / np.hypot(fifth, 0.1 * third)  # as in SciPy
            if error <= tolerance:
                time, y = (end if steps == 1 else time + step), new
            h = step * max(0.2, min(0.9 * (tolerance / error) ** (1 / 8), 3.0))
        yield y


def combine(coefficients, slopes):
    """Linear combination of the slopes, an array of shape (stages, ...)."""
    return sum((c * slope for c, slope in zip(coefficients.tolist(), slopes, strict=True) if c), 0 * slopes[0])


def log_singular_values(matrix, rank):
    """Natural logarithms of the `rank` largest singular values of an array of numbers, descending."""
    values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
    return [float(mpmath.log(values[i])) for i in range(rank)]


def multiprecision_run(name, tolerance):
    """Records of loss, shape (records,), and of the logarithms of singular values, shape (records, 2, rank)."""
    import gmpy2  # here, as the tests use the rest with float64

    gmpy2.get_context().precision = int(DIGITS * np.log2(10)) + 1
    mpmath.mp.dps = DIGITS
    exact, exp = np.frompyfunc(lambda x: gmpy2.mpfr(float(x)), 1, 1), np.frompyfunc(gmpy2.exp, 1, 1)
    case, problem = CASES[name], CASES[name].problem()
    X, Y, theta_0 = exact(problem.X), exact(problem.Y), exact(problem.theta_0)
    times = exact(np.linspace(0, case.end, case.records))
    start = theta_0 * gmpy2.exp(gmpy2.mpfr(LN_ALPHA))
    loss, log_values = [], []
    for theta in integrate(lambda theta: velocity(X, Y, theta, exp)[1], start, times, tolerance):
        W_K, W_Q, W_V, W_O = theta
        loss.append(float(velocity(X, Y, theta, exp)[0]))
        log_values.append([log_singular_values(product, case.rank) for product in (W_K @ W_Q.T, W_V @ W_O.T)])
        if len(loss) % 20 == 1:
            print(name, tolerance, len(loss), f"{loss[-1]:.3g}", np.round(log_values[-1], 1).tolist(), flush=True)
    return np.array(loss), np.array(log_values)


def main():
    """Write the references whose names are the arguments, or all; the two runs of each go side by side."""
    with Pool(len(TOLERANCES)) as pool:
        for name in sys.argv[1:] or CASES:
            (loss, log_values), (other_loss, other_log_values) = pool.starmap(
                multiprecision_run, [(name, tolerance) for tolerance in TOLERANCES]
            )
            case, problem = CASES[name], CASES[name].problem()
            errors = abs(log_values - other_log_values).max(), abs(loss / other_loss - 1).max()
            print(name, "errors of log_values and, relative, of loss:", *errors)
            np.savez_compressed(
                DATA / f"full_flow_{name}.npz",
                X=problem.X,
                Y=problem.Y,
                theta_0=problem.theta_0,
                ln_alpha=LN_ALPHA,
                time=np.linspace(0, case.end, case.records),
                loss=loss,
                log_values=log_values,
                errors=errors,
            )


if __name__ == "__main__":
    main()
