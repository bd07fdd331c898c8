"""Exact coordinates for the gradient flow of full weights, in which alpha enters by its logarithm only.

For one product M = W_L W_R^T (W_L, W_R = W_K, W_Q or W_V, W_O, of shape (d, d')) and G = -dL/dM, the flow is
W_L' = G W_R, W_R' = G^T W_L: linear in Z = [W_L; W_R], with a propagator in SO(d, d). Its Iwasawa coordinates are

    W_L = X (f+ + f-) / sqrt 2,    W_R = Y (f+ - f-) / sqrt 2,    X, Y orthogonal,
    rows f+_i = exp(rho_i) F+_i,   f-_i = exp(kappa_i - rho_i) F-_i,   F of order one,

and the flow becomes, with H = X^T G Y, E = (H + H^T) / 2, D = (H - H^T) / 2,

    X' = X Omega,  Omega_ij = -H_ji (i < j),        Y' = Y Psi,  Psi_ij = -H_ij (i < j),        rho_i' = H_ii,
    F+_i' =  sum_{j>i} 2 E_ij exp(rho_j - rho_i) F+_j - sum_j 2 D_ij exp(kappa_j - rho_j - rho_i) F-_j,
    F-_i' = -sum_{j<i} 2 E_ij exp(kappa_j - rho_j - kappa_i + rho_i) F-_j

(docs/full-weights.md derives them). Nothing is approximated, and there are no poles. Where f- is small and the rows of
F+ are orthonormal, 2 rho_i - ln 2 is the logarithm of a singular value of M. With diagonal weights X and Y rest, and
rho follows the flow of diagonal weights.
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import exp, inf, log, prod, sqrt

import numpy as np
from numba import njit

from rank_increase.toy.kernels import COMPILE

ORTHOGONAL = 1e-13  # cosine of the angle between two rows that are orthogonal
COLLAPSED = 1e-13  # what is left of a row of norm 1 that depends on others, up to rounding errors
ANY_ORDER = {"reassoc", "contract"}  # sums may be taken in any order: several terms at a time
OVERSHOT = 30.0  # logarithm at which a trial step is cut off: a large number makes the solver shorten it, infinity not


@dataclass
class FullCoordinates:
    """The coordinates of n products, whose state is one vector: both of a head, or all blocks of both.

    The state holds X^T, Y^T, F+ and F- of the products, shape (n, d, d) or (n, d, d'), and rho, shape (n, d), in this
    order; row i of each belongs to coordinate i. kappa, shape (n, d), is constant until `canonical` changes it.
    `log_alpha` is the unit of what the flow conserves.
    """

    kappa: np.ndarray
    dim_head: int
    log_alpha: float

    @classmethod
    def of(cls, theta_0, log_alpha):
        """Coordinates and state of the weights alpha * theta_0.

        Parameters
        ----------
        theta_0 : array, shape (2 n, d, d')
            Both factors of each product in turn: W_K, W_Q, W_V, W_O.
        log_alpha : float

        Returns
        -------
        coordinates : FullCoordinates
        state : array, shape (n (2 d d + 2 d d' + d),)
        """
        left, right = theta_0[::2], theta_0[1::2]
        count, dim, dim_head = left.shape
        unit = np.tile(np.eye(dim), (count, 1, 1))
        parts = unit, unit, (left + right) / sqrt(2), (left - right) / sqrt(2), np.full((count, dim), log_alpha)
        coordinates = cls(np.full((count, dim), 2 * log_alpha), dim_head, log_alpha)
        return coordinates, coordinates.canonical(np.concatenate([part.ravel() for part in parts]))

    def parts(self, state):
        """X^T, Y^T, F+, F- and rho: views of a state."""
        layout = _layout(*self.kappa.shape, self.dim_head)
        return [state[start:end].reshape(shape) for start, end, shape in layout]

    def weights(self, state):
        """Both factors of each product in turn, shape (2 n, d, d').

        They are zero where they are below the range of floating point numbers.
        """
        X, Y, plus, minus = self._factors(state)
        left, right = X.swapaxes(1, 2) @ (plus + minus), Y.swapaxes(1, 2) @ (plus - minus)
        return np.stack([left, right], axis=1).reshape(-1, *left.shape[1:]) / sqrt(2)

    def products(self, state):
        """The products, shape (n, d, d)."""
        weights = self.weights(state)
        return weights[::2] @ weights[1::2].swapaxes(1, 2)

    def _factors(self, state):
        X, Y, plus, minus, rho = self.parts(state)
        scale, small = np.exp(np.minimum(rho, OVERSHOT)), np.exp(np.minimum(self.kappa - rho, OVERSHOT))
        return X, Y, scale[..., None] * plus, small[..., None] * minus

    def velocity(self, state, G):
        """d(state)/dt, where G, shape (n, d, d), holds -dL/dM of each product M."""
        change = np.empty_like(state)
        for product in zip(*self.parts(state), self.kappa, G, *self.parts(change), strict=True):
            _velocity(*product)
        return change

    def canonical(self, state):
        """The same weights in the coordinates of the family in which steps are long; changes `kappa`.

        X and Y are made orthogonal again, norms of rows go into the logarithms, f+ is the larger of f+ and f-, rows
        are sorted by rho, and those of f+ are orthogonal.
        """
        state = state.copy()
        for product in zip(*self.parts(state), self.kappa, strict=True):
            _canonical(*product)
        return state

    def log_values(self, state):
        """Natural logarithms of the singular values of each product, descending, shape (n, min(d, d')).

        To high relative accuracy, also of those far below the largest one.
        """
        return np.array(
            [_log_values(*part, kappa) for *part, kappa in zip(*self.parts(state)[2:], self.kappa, strict=True)]
        )

    def conserved(self, state):
        """W_L^T W_L - W_R^T W_R of each product in units of alpha^2, shape (n, d', d')."""
        _, _, plus, minus, _ = self.parts(state)
        mixed = plus.swapaxes(1, 2) @ (np.exp(np.minimum(self.kappa - 2 * self.log_alpha, 300.0))[..., None] * minus)
        return mixed + mixed.swapaxes(1, 2)


@cache
def _layout(count, dim, dim_head):
    """Where each part of a state starts and ends, and its shape."""
    shapes = [(count, dim, dim)] * 2 + [(count, dim, dim_head)] * 2 + [(count, dim)]
    ends = [0, *accumulate(prod(shape) for shape in shapes)]
    return list(zip(ends, ends[1:], shapes, strict=False))


@njit(**COMPILE)
def _ratio(numerator, denominator):
    return exp(min(numerator - denominator, OVERSHOT))


@njit(**COMPILE)
def _velocity(X, Y, plus, minus, rho, kappa, G, X_change, Y_change, plus_change, minus_change, rho_change):
    """The flow of one product's coordinates, written to the last five arguments."""
    H, small = X @ G @ Y.T, kappa - rho  # `small` is the logarithm of f-
    Omega, Psi, up, down, across = [np.zeros_like(H) for _ in range(5)]
    for i in range(len(H)):
        rho_change[i] = H[i, i]
        for j in range(i + 1, len(H)):
            twice_E, twice_D = H[i, j] + H[j, i], H[i, j] - H[j, i]
            Omega[i, j], Omega[j, i] = H[j, i], -H[j, i]
            Psi[i, j], Psi[j, i] = H[i, j], -H[i, j]
            up[i, j] = twice_E * _ratio(rho[j], rho[i])
            across[i, j] = -twice_D * _ratio(small[j], rho[i])
            across[j, i] = twice_D * _ratio(small[i], rho[j])
            down[j, i] = -twice_E * _ratio(small[i], small[j])
    np.dot(Omega, X, X_change)
    np.dot(Psi, Y, Y_change)
    plus_change[:] = up @ plus + across @ minus
    np.dot(down, minus, minus_change)


@njit(**COMPILE)
def _orthonormal_rows(A):
    """Gram-Schmidt of rows that are nearly orthonormal; in place."""
    A[:] = np.linalg.solve(np.linalg.cholesky(A @ A.T), A)


@njit(**COMPILE, fastmath=ANY_ORDER)
def _dot(a, b):
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@njit(**COMPILE)
def _norm(row):
    return sqrt(_dot(row, row))


@njit(**COMPILE)
def _normalise(rows, logs):
    """Put the norms of rows into `logs`, in place. A row of zeros gets the logarithm -inf."""
    for i in range(rows.shape[0]):
        size = _norm(rows[i])
        if size > 0:
            logs[i] += log(size)
            for k in range(rows.shape[1]):
                rows[i, k] /= size
        else:
            logs[i] = -inf


@njit(**COMPILE)
def _shares(log_a, log_b):
    """log m, a / m and b / m of the larger m of two numbers given by their logarithms."""
    largest = max(log_a, log_b)
    if largest == -inf:
        return largest, 0.0, 0.0
    return largest, exp(log_a - largest), exp(log_b - largest)


@njit(**COMPILE)
def _combine(rows, i, j, a, b, c, d):
    """Rows i and j become a row_i + b row_j and c row_i + d row_j."""
    one, two = rows[i], rows[j]
    for k in range(len(one)):
        one[k], two[k] = a * one[k] + b * two[k], c * one[k] + d * two[k]


@njit(**COMPILE)
def _orthogonal_rows(X, Y, plus, minus, rho, small):
    """One-sided Jacobi: rotations of the coordinates after which the rows of f+ are orthogonal; in place.

    The tangent of an angle is tau exp(rho_j - rho_i), with tau of order one kept apart: nothing underflows, and the
    small row gets its change of order one. Rows of f+ come with norm 1, or are zero.
    """
    for _ in range(60):
        rotated = False
        for first in range(plus.shape[0] - 1):
            for second in range(first + 1, plus.shape[0]):
                i, j = (first, second) if rho[first] >= rho[second] else (second, first)
                if rho[j] == -inf:
                    continue
                a, b, d = _dot(plus[i], plus[i]), _dot(plus[i], plus[j]), _dot(plus[j], plus[j])
                if abs(b) <= ORTHOGONAL * sqrt(a * d):
                    continue
                rotated = True
                log_ratio = rho[j] - rho[i]
                ratio = exp(log_ratio)
                difference = a - ratio * ratio * d
                root = sqrt(difference * difference + 4 * ratio * ratio * b * b)
                tau = 2 * b / (difference + (root if difference >= 0 else -root))
                c = 1 / sqrt(1 + (tau * ratio) ** 2)
                s = c * tau * ratio
                _combine(plus, i, j, c, s * ratio, -c * tau, c)
                if _dot(plus[j], plus[j]) < COLLAPSED**2:
                    plus[j], rho[j] = 0.0, -inf
                small_i, mine, its = _shares(small[i], small[j] + log_ratio)
                small_j, own, other = _shares(small[j], small[i] + log_ratio)
                _combine(minus, i, j, c * mine, c * tau * its, -c * tau * other, c * own)
                small[i], small[j] = small_i, small_j
                if abs(s) > 1e-18:
                    _combine(X, i, j, c, s, -s, c)
                    _combine(Y, i, j, c, s, -s, c)
        if not rotated:
            return
        _normalise(plus, rho)
        _normalise(minus, small)


@njit(**COMPILE)
def _sort(X, Y, plus, minus, rho, small):
    order = np.argsort(-rho, kind="mergesort")
    X[:], Y[:], plus[:], minus[:] = X[order], Y[order], plus[order], minus[order]
    rho[:], small[:] = rho[order], small[order]


@njit(**COMPILE)
def _canonical(X, Y, plus, minus, rho, kappa):
    dim, rank = plus.shape
    _orthonormal_rows(X)
    _orthonormal_rows(Y)
    small = kappa - rho  # the logarithm of f-
    for _ in range(100):
        _normalise(plus, rho)
        _normalise(minus, small)
        _sort(X, Y, plus, minus, rho, small)
        _orthogonal_rows(X, Y, plus, minus, rho, small)
        _sort(X, Y, plus, minus, rho, small)
        # With d' < d, no more than d' orthogonal rows are left: the others are zero up to rounding errors, and f- takes
        # their place where it is larger than the least of those.
        least = rho[rank - 1] if rank < dim else -inf
        for i in range(rank, dim):
            plus[i] = 0.0
            rho[i] = -inf
        swapped = False
        for i in range(dim):
            if small[i] > max(rho[i], least) + 1e-9:
                swapped = True
                for k in range(rank):
                    plus[i, k], minus[i, k] = minus[i, k], plus[i, k]
                rho[i], small[i] = small[i], rho[i]
                for k in range(dim):
                    Y[i, k] = -Y[i, k]
        if not swapped:
            break
    for i in range(rank, dim):
        rho[i] = least
    # Scales of f- that grow with i keep all factors of its flow below one.
    for i in range(dim):
        scale = max(small[i], small[i - 1]) if i else small[i]
        if scale == -inf:
            scale = rho[i] - 1000.0
        factor = exp(small[i] - scale)
        for k in range(rank):
            minus[i, k] *= factor
        small[i] = scale
        kappa[i] = small[i] + rho[i]


@njit(**COMPILE)
def _log_values(plus, minus, rho, kappa):
    """Logarithms of the singular values of (f+ + f-)(f+ - f-)^T / 2, by a decomposition that reveals the rank.

    The matrix is S C S with a graded diagonal S = exp(rho). C = L D U gives (S L / S) (S D S) (U S / S), of which the
    outer factors are well conditioned; a QR decomposition of the first, and Jacobi rotations of graded rows, do the
    rest (Demmel et al., Linear Algebra Appl. 299 (1999), algorithm 3.1).
    """
    dim, rank = plus.shape
    sizes = np.empty(dim)
    for i in range(dim):
        sizes[i] = rho[i] + log(max(_norm(plus[i]), 1e-300))
    order = np.argsort(-sizes, kind="mergesort")
    rho, kappa, plus, minus = rho[order], kappa[order], plus[order], minus[order]
    left, right = np.empty_like(plus), np.empty_like(plus)
    for i in range(dim):
        small = exp(min(kappa[i] - 2 * rho[i], OVERSHOT))
        for k in range(rank):
            left[i, k], right[i, k] = plus[i, k] + small * minus[i, k], plus[i, k] - small * minus[i, k]
    rest = left @ right.T / 2
    L, U, D = np.zeros((dim, rank)), np.zeros((rank, dim)), np.empty(rank)
    for p in range(rank):
        D[p] = rest[p, p]
        for i in range(p, dim):
            ratio = exp(rho[i] - rho[p])
            L[i, p], U[p, i] = rest[i, p] / D[p] * ratio, rest[p, i] / D[p] * ratio
        for i in range(p + 1, dim):
            factor = rest[i, p] / D[p]
            for j in range(p, dim):
                rest[i, j] -= factor * rest[p, j]
    R = np.linalg.qr(L)[1]
    logs = np.empty(rank)
    for p in range(rank):
        logs[p] = 2 * rho[p] + log(abs(D[p]))
    for i in range(rank):
        for j in range(rank):
            R[i, j] *= exp(min(logs[j] - logs[i], 700.0)) * (1.0 if D[j] > 0 else -1.0) if j >= i else 0.0
    rows = R @ U
    none = np.empty((rank, 0))
    _normalise(rows, logs)
    _sort(none, none, rows, none, logs, np.zeros(rank))
    _orthogonal_rows(none, none, rows, none, logs, np.zeros(rank))
    return -np.sort(-logs)
