"""The toy problem of the paper (section 5 and Appendix A): an attention head taught by another one.

Weights are one array `theta` of W_K, W_Q, W_V, W_O in this order: shape (4, dim) when they are diagonal,
(4, dim, dim_head) when they are full.
"""

from dataclasses import dataclass

import numpy as np

from rank_increase.notation import WEIGHTS
from rank_increase.toy.heads import DiagonalHead, FullHead


@dataclass(frozen=True)
class Problem:
    """Data, teacher and direction of the initial weights: all that a run needs besides alpha.

    X is of shape (samples, tokens, dim) and so are the labels Y, the outputs of the teacher; theta_0 and teacher are of
    shape (4, dim), or (4, dim, dim_head) and (4, dim, dim).
    """

    X: np.ndarray
    Y: np.ndarray
    theta_0: np.ndarray
    teacher: np.ndarray

    def save(self, file):
        """Write the problem to the open binary `file` in NumPy's npz format, with a name for each weight."""
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


def make_problem(seed, *, samples, tokens, dim, weights, teacher, teacher_std_KQ, teacher_std_VO, dim_head=None):
    """A `Problem` drawn from `seed`; X, teacher and theta_0 have separate random streams.

    The paper states samples, tokens, dim and that everything is Gaussian, but neither the scale of the teacher nor that
    of theta_0 (README, "The paper's unstated choices, and ours").

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
    dim_head : int, optional
        Columns of the student's full weights; `dim` if not given.
    """
    data_rng, teacher_rng, student_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    X = data_rng.standard_normal((samples, tokens, dim))
    scale = np.array([teacher_std_KQ, teacher_std_KQ, teacher_std_VO, teacher_std_VO])
    if teacher == "diagonal":
        taught = scale[:, None] * teacher_rng.standard_normal((4, dim))
    else:
        taught = scale[:, None, None] / np.sqrt(dim) * teacher_rng.standard_normal((4, dim, dim))
    shape = (4, dim) if weights == "diagonal" else (4, dim, dim_head or dim)
    return Problem(X, attention(X, taught), student_rng.standard_normal(shape), taught)
