"""The toy problem of the paper (section 5 and Appendix A): an attention head taught by another one.

Weights travel as one array `theta` holding W_K, W_Q, W_V, W_O in this order: shape (4, dim) when they are diagonal,
(4, dim, dim) when they are full.
"""

from dataclasses import dataclass

import numpy as np

from rank_increase.kernels import compile_head, flush
from rank_increase.notation import WEIGHTS


@dataclass(frozen=True)
class Problem:
    """Data, teacher and direction of the initial weights: all that a run needs beside alpha.

    X is of shape (samples, tokens, dim) and so are the labels Y, the outputs of the teacher; theta_0 and teacher are of
    shape (4, dim) or (4, dim, dim).
    """

    X: np.ndarray
    Y: np.ndarray
    theta_0: np.ndarray
    teacher: np.ndarray

    def save(self, file):
        """Write the problem to the open binary `file` in NumPy's npz format, a name per weight."""
        students = dict(zip(WEIGHTS, self.theta_0, strict=True))
        teachers = {f"teacher_{name}": weight for name, weight in zip(WEIGHTS, self.teacher, strict=True)}
        np.savez(file, X=self.X, Y=self.Y, **students, **teachers)

    @classmethod
    def load(cls, path):
        """The problem that `save` wrote to `path`; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                X=arrays["X"],
                Y=arrays["Y"],
                theta_0=np.stack([arrays[name] for name in WEIGHTS]),
                teacher=np.stack([arrays[f"teacher_{name}"] for name in WEIGHTS]),
            )

    def head(self):
        """The loss of the student on these data, a `DiagonalHead` or a `FullHead`."""
        return (DiagonalHead if self.theta_0.ndim == 2 else FullHead)(self.X, self.Y)


def attention(X, theta):
    """Output of an attention head, paper eq. (1), in the plainest NumPy; shape (samples, tokens, dim).

    Parameters
    ----------
    X : array, shape (samples, tokens, dim)
    theta : array, shape (4, dim) or (4, dim, dim)
    """
    W_K, W_Q, W_V, W_O = theta if theta.ndim == 3 else [np.diag(weight) for weight in theta]
    S = X @ (W_K @ W_Q.T) @ X.transpose(0, 2, 1)  # (samples, tokens, tokens)
    P = np.exp(S - S.max(axis=-1, keepdims=True))
    P /= P.sum(axis=-1, keepdims=True)
    return P @ X @ (W_V @ W_O.T)


def make_problem(seed, *, samples, tokens, dim, weights, teacher, teacher_std_KQ, teacher_std_VO):
    """A `Problem` drawn from `seed`; X, teacher and theta_0 have random streams of their own.

    The paper states samples, tokens, dim and that all is Gaussian; it states neither the scale of the teacher nor that
    of theta_0 (README, "The paper's unstated choices and ours").

    Parameters
    ----------
    weights : {"diagonal", "full"}
        Form of the student's weights.
    teacher : {"diagonal", "dense"}
        Form of the teacher's weights. Products of two independent normal entries spread the singular values of a
        diagonal teacher widely; those of a dense one lie close together.
    teacher_std_KQ, teacher_std_VO : float
        Standard deviation of the entries of the teacher's W_K and W_Q, and of W_V and W_O; divided by sqrt(dim) for
        a dense teacher, so that its attention logits and outputs are of the same size.
    """
    data_rng, teacher_rng, student_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    X = data_rng.standard_normal((samples, tokens, dim))
    scale = np.array([teacher_std_KQ, teacher_std_KQ, teacher_std_VO, teacher_std_VO])
    if teacher == "diagonal":
        taught = scale[:, None] * teacher_rng.standard_normal((4, dim))
    else:
        taught = scale[:, None, None] / np.sqrt(dim) * teacher_rng.standard_normal((4, dim, dim))
    shape = (4, dim) if weights == "diagonal" else (4, dim, dim)
    return Problem(X, attention(X, taught), student_rng.standard_normal(shape), taught)


class DiagonalHead:
    """Half the mean squared error of a head with diagonal weights, as a function of its products or weights."""

    def __init__(self, X, Y):
        self.X, self.Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
        self.dim = X.shape[2]
        self._kernel = compile_head(*X.shape[1:])[0]

    def subset(self, samples):
        """The same head on some of the samples: a slice or an array of indices."""
        return DiagonalHead(self.X[samples], self.Y[samples])

    def loss_and_g(self, p):
        """Loss and g = -dL/dp of paper eq. (4), at the products p.

        Parameters
        ----------
        p : array, shape (2 * dim,)
            The diagonals of W_K W_Q^T and of W_V W_O^T, one after the other.

        Returns
        -------
        loss : float
            Half the mean over all outputs of the squared error.
        g : array, shape (2 * dim,)
        """
        p, g, dim = flush(p), np.empty_like(p), self.dim
        total = self._kernel(self.X, self.Y, p[:dim], p[dim:], g[:dim], g[dim:])
        g /= -self.X.size
        return total / (2 * self.X.size), g

    def velocity(self, theta):
        """Loss and -dL/dtheta, shape (4, dim), of paper eqs. (3) and (4)."""
        W_K, W_Q, W_V, W_O = theta
        loss, g = self.loss_and_g(np.concatenate([W_K * W_Q, W_V * W_O]))
        g_KQ, g_VO = g[: self.dim], g[self.dim :]
        return loss, np.stack([W_Q * g_KQ, W_K * g_KQ, W_O * g_VO, W_V * g_VO])

    @staticmethod
    def values(theta):
        """Diagonal entries of the two products, shape (2, dim)."""
        return np.stack([theta[0] * theta[1], theta[2] * theta[3]])


class FullHead:
    """Half the mean squared error of a head with full weight matrices, as a function of them."""

    def __init__(self, X, Y):
        self.X, self.Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
        self._rows = self.X.reshape(-1, X.shape[2])  # (samples * tokens, dim)
        self._A, self._B = np.empty_like(self.X), np.empty_like(self.X)
        self._kernel = compile_head(*X.shape[1:])[1]

    def subset(self, samples):
        """The same head on some of the samples: a slice or an array of indices."""
        return FullHead(self.X[samples], self.Y[samples])

    def velocity(self, theta):
        """Loss and -dL/dtheta, shape (4, dim, dim), of paper eq. (3)."""
        W_K, W_Q, W_V, W_O = theta
        A, B = self._A.reshape(self._rows.shape), self._B.reshape(self._rows.shape)
        np.matmul(self._rows, flush(W_K @ W_Q.T), out=A)
        np.matmul(self._rows, flush(W_V @ W_O.T), out=B)
        total = self._kernel(self.X, self.Y, self._A, self._B)
        g_KQ = self._rows.T @ A / -self.X.size  # -dL/d(W_K W_Q^T)
        g_VO = self._rows.T @ B / -self.X.size
        return total / (2 * self.X.size), np.stack([g_KQ @ W_Q, g_KQ.T @ W_K, g_VO @ W_O, g_VO.T @ W_V])

    @staticmethod
    def values(theta):
        """Singular values of the two products, descending, shape (2, dim)."""
        W_K, W_Q, W_V, W_O = theta
        return np.linalg.svd(np.stack([W_K @ W_Q.T, W_V @ W_O.T]), compute_uv=False)


@dataclass(frozen=True)
class Run:
    """What is kept of a training run.

    time and loss are of shape (records,), values of shape (records, 2, dim): the diagonal entries, or singular values,
    of W_K W_Q^T and W_V W_O^T. events are (time, coordinate, direction): direction 1 where a coordinate, numbered
    through both products, becomes active and -1 where it leaves. conservation, of shape (records, 2, 3), has for both
    products what `balance` says; None for a flow in coordinates that conserve u^2 - v^2 by construction.
    """

    time: np.ndarray
    loss: np.ndarray
    values: np.ndarray
    events: list
    conservation: np.ndarray | None = None


def balance(theta, theta_start):
    """How far weights have left what gradient flow conserves, W_K^T W_K - W_Q^T W_Q and the same of W_V and W_O.

    Of diagonal weights this is u^2 - v^2 (paper, Lemma 4.1).

    Parameters
    ----------
    theta, theta_start : array, shape (4, dim) or (4, dim, dim)
        Weights, and those at the start.

    Returns
    -------
    array, shape (2, 3)
        For both products, Frobenius norms: of its change since the start, of itself at the start, and the sum of the
        squared norms of the two weights.
    """
    now, start = (_squares(weights) for weights in (theta, theta_start))
    return np.array(
        [
            [np.linalg.norm(a - b - (a_0 - b_0)), np.linalg.norm(a_0 - b_0), np.sum(np.square(weights))]
            for a, b, a_0, b_0, weights in zip(
                now[::2], now[1::2], start[::2], start[1::2], (theta[:2], theta[2:]), strict=True
            )
        ]
    )


def _squares(theta):
    return theta**2 if theta.ndim == 2 else theta.swapaxes(1, 2) @ theta


def descent_run(problem, log_alpha, times, *, step, batch_size=None, weight, seed=0, on_step=None):
    """A `Run` of plain gradient descent or minibatch SGD, as the paper trains its toy models.

    Parameters
    ----------
    problem : Problem
    log_alpha : float
        Logarithm of the init scale; float64 weights, since alpha^2 = 1e-64 is zero in float32.
    times : array, ascending
        Where to record; each time is rounded to a whole number of steps.
    step : float
        Learning rate. Time is step x number of steps.
    batch_size : int, optional
        Samples a step, drawn without replacement epoch by epoch; all of them if not given.
    weight : float
        A coordinate is active while its product is above the square of this.
    seed : int
        Of the order of the samples, the same at every init scale: runs of one problem differ by their scale alone.
    on_step : callable, optional
        Called with the time of each record.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite: the step is too long.
    """
    head, start = problem.head(), np.exp(log_alpha) * problem.theta_0
    theta = start
    records = np.unique(np.rint(np.asarray(times) / step).astype(int))
    batches = _minibatches(head, batch_size, np.random.default_rng(seed)) if batch_size else None
    losses, values, conservation, done = [], [], [], 0
    for record in records:
        for _ in range(record - done):
            theta = theta + step * (next(batches) if batches else head).velocity(theta)[1]
        done = record
        losses.append(head.velocity(theta)[0])
        values.append(head.values(theta))
        conservation.append(balance(theta, start))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is not finite after {done} steps of {step}: take a shorter step")
        if on_step:
            on_step(done * step)
    time, values = records * step, np.array(values)
    return Run(time, np.array(losses), values, recorded_events(time, values, weight), np.array(conservation))


def recorded_events(time, values, weight):
    """Events of a run from its records: where products pass the square of `weight`, logarithms joined by lines."""
    size = np.log(np.maximum(abs(values.reshape(len(time), -1)), 1e-300)) - 2 * np.log(weight)
    record, coordinate = np.nonzero(np.diff(size > 0, axis=0))
    before, after = size[record, coordinate], size[record + 1, coordinate]
    crossed = time[record] + np.diff(time)[record] * before / (before - after)
    order = np.argsort(crossed, kind="stable")
    direction = np.where(after > 0, 1, -1)
    return list(zip(crossed[order].tolist(), coordinate[order].tolist(), direction[order].tolist(), strict=True))


def _minibatches(head, batch_size, rng):
    while True:
        order = rng.permutation(len(head.X))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield head.subset(order[start : start + batch_size])
