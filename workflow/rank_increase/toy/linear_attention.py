"""Linear attention on in-context linear regression, whose loss levels are known in closed form.

Source: Zhang, Singh, Latham and Saxe, "Training Dynamics of In-Context Learning in Linear Attention", ICML 2025 (arXiv
2501.16265). A sequence has N pairs (x_n, y_n) and a query x_q, with x ~ N(0, Lambda), y = w^T x and w ~ N(0, I). Heads
of linear attention from small weights predict y_q by beta^T M x_q, with beta = sum_n y_n x_n / N; the other blocks of
their weights stay zero. Only the matrix M depends on the parametrisation:

    M = v U                             merged key and query, one head
    M = sum_h v_h K_h^T Q_h             separate ones, K_h and Q_h of shape (rank, dim)

The flow is dW/dt = -1/2 dL/dW of the population loss L = E (y_q - beta^T M x_q)^2, in the eigenbasis of Lambda.
"""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from rank_increase.toy.runs import recorded_events
from rank_increase.toy.theorem import middles

ACTIVE_WEIGHT = 0.1  # as in the toy model: singular values of `Task.learned` count above the square of this


@dataclass(frozen=True)
class Task:
    """In-context linear regression: the eigenvalues of Lambda, descending, shape (dim,), and the context length N."""

    eigenvalues: np.ndarray
    context: int

    @property
    def moments(self):
        """Eigenvalues of E beta beta^T = (1 + 1/N) Lambda^2 + tr(Lambda) Lambda / N."""
        lam = self.eigenvalues
        return (1 + 1 / self.context) * lam**2 + lam.sum() * lam / self.context

    @property
    def solution(self):
        """Diagonal of the M that minimises the loss."""
        return self.eigenvalues / self.moments

    @property
    def levels(self):
        """tr(Lambda) - sum_{d <= k} lambda_d / (1 + (1 + tr(Lambda) / lambda_d) / N), for k = 0 to dim."""
        lam = self.eigenvalues
        return lam.sum() - np.append(0, np.cumsum(lam / (1 + (1 + lam.sum() / lam) / self.context)))

    def loss(self, M):
        """Population loss of M, shape (..., dim, dim)."""
        lam = self.eigenvalues
        gain = np.einsum("...ii,i->...", M, lam**2)
        return lam.sum() - 2 * gain + np.einsum("...de,d,e->...", M**2, self.moments, lam)

    def descent(self, M):
        """-1/2 dL/dM = Lambda^2 - E[beta beta^T] M Lambda, shape (dim, dim)."""
        lam = self.eigenvalues
        return np.diag(lam**2) - self.moments[:, None] * M * lam

    def learned(self, M):
        """Singular values of Lambda^(1/2) M Lambda^(1/2), descending: from 0 to below 1, each a learned direction."""
        root = np.sqrt(self.eigenvalues)
        return np.linalg.svd(root[:, None] * M * root, compute_uv=False)


def drawn_eigenvalues(rng, dim):
    """Eigenvalues of the covariance of 2 `dim` standard normal samples, with sum 1; descending, shape (dim,)."""
    samples = rng.standard_normal((2 * dim, dim))
    eigenvalues = np.linalg.eigvalsh(samples.T @ samples)[::-1]
    return eigenvalues / eigenvalues.sum()


class Merged:
    """One head with the key-query matrix U: weights v, shape (1,), and U, shape (1, dim, dim)."""

    key_query = "merged"

    def __init__(self, dim):
        self.rank, self.shapes = dim, [(1,), (1, dim, dim)]

    @staticmethod
    def product(v, U):
        """M, shape (dim, dim)."""
        return np.tensordot(v, U, 1)

    @staticmethod
    def velocity(A, v, U):
        """Time derivatives of the weights, A the descent direction of M."""
        return np.tensordot(U, A, 2), v[:, None, None] * A

    @staticmethod
    def jumps(task, v, U):
        """As `Separate.jumps`: all directions grow together, at the rate ||Lambda^2||_F from v and U of size alpha."""
        lam = task.eigenvalues
        return np.zeros(len(lam)), np.full(len(lam), 1 / np.linalg.norm(lam**2))


class Separate:
    """As many heads of key-query rank `rank` as dim directions need: weights v, K and Q, the first axis over heads."""

    key_query = "separate"

    def __init__(self, dim, rank):
        heads = -(-dim // rank)
        self.rank, self.shapes = rank, [(heads,), (heads, rank, dim), (heads, rank, dim)]

    @staticmethod
    def product(v, K, Q):
        """M, shape (dim, dim)."""
        return np.einsum("h,hrd,hre->de", v, K, Q)

    @staticmethod
    def velocity(A, v, K, Q):
        """Time derivatives of the weights, A the descent direction of M."""
        QA, KA = Q @ A.T, K @ A
        return np.einsum("hrd,hrd->h", K, QA), v[:, None, None] * QA, v[:, None, None] * KA

    @staticmethod
    def jumps(task, v, K, Q):
        """Times at which directions are learned as alpha -> 0: direction d at s_d / alpha + c_d ln(1/alpha) + O(1).

        Weights of size alpha do not change A = Lambda^2 on the directions that are not learned yet, where heads grow
        independently of each other until one diverges in finite time, s / alpha. That head learns the largest of these
        directions. Within it, v is constant on a plateau and direction d grows at the rate v lambda_d^2, which gives
        gaps (1 / lambda_{d+1}^2 - 1 / lambda_d^2) ln(1/alpha) / v with v^3 the sum of the learned entries of M. (The
        paper has s_d for heads of rank one; the gaps within a head are ours.)

        Parameters
        ----------
        task : Task
        v, K, Q : array
            Weights at alpha = 1.

        Returns
        -------
        s, c : array, shape (dim,)
        """
        lam, rank = task.eigenvalues, K.shape[1]
        s, c, time = np.zeros(len(lam)), np.zeros(len(lam)), 0.0
        for first in range(0, len(lam), rank):
            own = slice(first, min(first + rank, len(lam)))
            waited, head, (v, K, Q) = _first_to_diverge(np.where(np.arange(len(lam)) < first, 0, lam**2), v, K, Q)
            time += waited
            s[own] = time
            value = np.cbrt(np.cumsum(task.solution[own]))
            c[own] = np.append(0, np.cumsum(np.diff(lam[own] ** -2) / value[:-1]))
            v, K, Q = (np.delete(weights, head, axis=0) for weights in (v, K, Q))
        return s, c


def _first_to_diverge(rates, v, K, Q, large=1e5):
    """When and which head diverges under A = diag(rates), and all weights just before, when its v is `large`."""
    A, parts = np.diag(rates), (v, K, Q)

    def velocity(_, weights):
        return _flat(Separate.velocity(A, *_split(weights, parts)))

    def reached(_, weights):
        return abs(weights[: len(v)]).max() - large

    reached.terminal = True
    # The event ends it: at least one head diverges in finite time.
    solution = solve_ivp(velocity, (0, np.inf), _flat(parts), "DOP853", events=reached, rtol=1e-9, atol=1e-12)
    parts = _split(solution.y[:, -1], parts)
    head = int(np.argmax(abs(parts[0])))
    return solution.t[-1] + 1 / (rates.max() * large), head, parts  # dv/dt = rate v^2 at last


@dataclass(frozen=True)
class Flow:
    """Gradient flow of one parametrisation from weights of size alpha.

    time and loss are of shape (records,), learned of shape (records, dim) as `Task.learned`, values, of shape (records,
    heads), the |v| of each head. predicted are the times that `jumps` gives, without the O(1), shape (dim,).
    """

    time: np.ndarray
    loss: np.ndarray
    learned: np.ndarray
    values: np.ndarray
    predicted: np.ndarray

    def found(self):
        """Times at which singular values become active, (dim,), and the loss halfway through each plateau, (dim + 1,).

        The first plateau begins at time 0, the last ends with the run. NaN where a singular value stays below.
        """
        times = np.full(self.learned.shape[1], np.nan)
        for event in reversed(recorded_events(self.time, self.learned, ACTIVE_WEIGHT)):
            if event.direction > 0:
                times[event.coordinate] = event.time
        return times, np.interp(middles(np.append(0, times), self.time[-1]), self.time, self.loss)

    def active(self):
        """Numbers of active singular values and of active heads halfway through the predicted plateaus, (2, dim + 1).

        A head is active while |v| is above ACTIVE_WEIGHT.
        """
        record = np.searchsorted(self.time, middles(np.append(0, self.predicted), self.time[-1]))
        return np.stack(
            [
                np.sum(self.learned[record] > ACTIVE_WEIGHT**2, axis=1),
                np.sum(self.values[record] > ACTIVE_WEIGHT, axis=1),
            ]
        )


def flow(task, heads, theta_0, alpha):
    """The gradient flow from alpha * theta_0, recorded at the solver's steps, which are dense where the loss falls.

    It ends at twice the last predicted time and 20 times the slowest time of relaxation.

    Parameters
    ----------
    task : Task
    heads : Merged or Separate
    theta_0 : list of array
        Of the shapes `heads.shapes`.
    alpha : float
        At least 1e-10: a jump takes a time of order 1, at times of order 1 / alpha.

    Returns
    -------
    Flow

    Raises
    ------
    ArithmeticError
        If the solver cannot continue.
    """
    s, c = heads.jumps(task, *theta_0)
    predicted = s / alpha - c * np.log(alpha)
    end = 2 * predicted.max() + 20 / (task.moments[-1] * task.eigenvalues[-1])

    def velocity(_, weights):
        parts = _split(weights, theta_0)
        return _flat(heads.velocity(task.descent(heads.product(*parts)), *parts))

    # Weights that are still of size alpha decide what grows next.
    solution = solve_ivp(velocity, (0, end), alpha * _flat(theta_0), "LSODA", rtol=1e-8, atol=1e-6 * alpha)
    if not solution.success:
        raise ArithmeticError(f"linear attention cannot be integrated beyond {solution.t[-1]:.6g}: {solution.message}")
    weights = [_split(theta, theta_0) for theta in solution.y.T]
    M = np.array([heads.product(*parts) for parts in weights])
    values = np.abs([parts[0] for parts in weights])
    return Flow(solution.t, task.loss(M), task.learned(M), values, predicted)


def _flat(parts):
    return np.concatenate([np.ravel(part) for part in parts])


def _split(weights, like):
    """The parts of a flat array, with the shapes of the arrays `like`."""
    ends = np.cumsum([part.size for part in like])[:-1]
    return [part.reshape(one.shape) for part, one in zip(np.split(weights, ends), like, strict=True)]
