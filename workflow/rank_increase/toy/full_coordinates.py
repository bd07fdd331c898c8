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
from math import exp, inf, log, sqrt

import numpy as np
from numba import njit

from rank_increase.toy.kernels import COMPILE

ORTHOGONAL = 1e-13  # cosine of the angle between two rows that are orthogonal
COLLAPSED = 1e-13  # share of a row that is left when it was a multiple of another, up to rounding errors
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
        count, dim = self.kappa.shape
        shapes = [(count, dim, dim)] * 2 + [(count, dim, self.dim_head)] * 2 + [(count, dim)]
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(state, ends[:-1]), shapes, strict=True)]

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
        X, Y, plus, minus, rho = self.parts(state)
        H = X @ G @ Y.swapaxes(1, 2)
        H_T, above = H.swapaxes(1, 2), np.triu(np.ones(H.shape[1:], bool), 1)
        small = self.kappa - rho
        E, D = H + H_T, H - H_T
        towards = np.where(above, E * _ratios(rho, rho), 0.0)
        back = np.where(above.T, E * _ratios(small, small), 0.0)
        change = [
            np.where(above, H_T, -np.where(above.T, H, 0.0)) @ X,
            np.where(above, H, -np.where(above.T, H_T, 0.0)) @ Y,
            towards @ plus - (D * _ratios(small, rho)) @ minus,
            -back @ minus,
            np.diagonal(H, axis1=1, axis2=2),
        ]
        return np.concatenate([part.ravel() for part in change])

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


def _ratios(numerator, denominator):
    """exp(numerator_j - denominator_i), of shape (n, d, d)."""
    return np.exp(np.minimum(numerator[:, None, :] - denominator[:, :, None], OVERSHOT))


@njit(**COMPILE)
def _orthonormal_rows(A):
    """Gram-Schmidt, twice, of rows that are nearly orthonormal; in place."""
    for i in range(A.shape[0]):
        for _ in range(2):
            for j in range(i):
                overlap = 0.0
                for k in range(A.shape[1]):
                    overlap += A[i, k] * A[j, k]
                for k in range(A.shape[1]):
                    A[i, k] -= overlap * A[j, k]
        size = _norm(A[i])
        for k in range(A.shape[1]):
            A[i, k] /= size


@njit(**COMPILE)
def _norm(row):
    total = 0.0
    for x in row:
        total += x * x
    return sqrt(total)


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
def _add(row, log_size, other, log_other, factor, log_factor, out):
    """out exp(result) = row exp(log_size) + factor exp(log_factor) other exp(log_other)."""
    largest = max(log_size, log_other + log_factor)
    if largest == -inf:
        out[:] = 0.0
        return largest
    mine, its = exp(log_size - largest), factor * exp(log_other + log_factor - largest)
    for k in range(len(row)):
        out[k] = mine * row[k] + its * other[k]
    return largest


@njit(**COMPILE)
def _angle(plus, rho, i, j):
    """tan / exp(rho_j - rho_i) of the rotation that makes rows i and j of f+ orthogonal; zero if they are."""
    a, b, d = 0.0, 0.0, 0.0
    for k in range(plus.shape[1]):
        a += plus[i, k] * plus[i, k]
        b += plus[i, k] * plus[j, k]
        d += plus[j, k] * plus[j, k]
    if abs(b) <= ORTHOGONAL * sqrt(a * d):
        return 0.0
    square = exp(2 * (rho[j] - rho[i]))
    beta = a - square * d
    root = sqrt(beta * beta + 4 * square * b * b)
    return 2 * b / (beta + (root if beta >= 0 else -root))


@njit(**COMPILE)
def _rotate(rows, i, j, c, s):
    for k in range(rows.shape[1]):
        x, y = rows[i, k], rows[j, k]
        rows[i, k], rows[j, k] = c * x + s * y, c * y - s * x


@njit(**COMPILE)
def _orthogonal_rows(X, Y, plus, minus, rho, small):
    """One-sided Jacobi: rotations of the coordinates after which the rows of f+ are orthogonal; in place.

    The tangent of an angle is tau exp(rho_j - rho_i), with tau of order one kept apart: nothing underflows, and the
    small row gets its change of order one.
    """
    one, two = np.empty(minus.shape[1]), np.empty(minus.shape[1])
    for _ in range(60):
        rotated = False
        for i in range(plus.shape[0] - 1):
            for j in range(i + 1, plus.shape[0]):
                if rho[j] == -inf:
                    continue
                tau = _angle(plus, rho, i, j)
                if tau == 0.0:
                    continue
                rotated = True
                ratio = exp(rho[j] - rho[i])
                c = 1 / sqrt(1 + (tau * ratio) ** 2)
                s = c * tau * ratio
                log_c, log_s = log(c), log(c * abs(tau)) + rho[j] - rho[i]
                size = _norm(plus[j])
                for k in range(plus.shape[1]):
                    x, y = plus[i, k], plus[j, k]
                    plus[i, k], plus[j, k] = c * x + s * ratio * y, c * (y - tau * x)
                if _norm(plus[j]) < COLLAPSED * size:
                    plus[j], rho[j] = 0.0, -inf
                sign = 1.0 if tau > 0 else -1.0
                for k in range(len(one)):
                    one[k], two[k] = minus[i, k], minus[j, k]
                small_i = _add(one, small[i] + log_c, two, small[j], sign, log_s, minus[i])
                small[j] = _add(two, small[j] + log_c, one, small[i], -sign, log_s, minus[j])
                small[i] = small_i
                if abs(s) > 1e-18:
                    _rotate(X, i, j, c, s)
                    _rotate(Y, i, j, c, s)
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
