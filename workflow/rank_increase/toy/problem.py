"""The toy problem of the paper (section 5 and Appendix A): an attention head taught by another one.

Weights are one array `theta` of W_K, W_Q, W_V, W_O in this order: shape (4, dim) when they are diagonal,
(4, dim, dim_head) when they are full, (4, layers, heads, dim) for a diagonal transformer; when they are block-diagonal
(4, dim, block), the blocks one below the other.
"""

from dataclasses import dataclass, field

import numpy as np

from rank_increase.notation import WEIGHTS
from rank_increase.toy.heads import BlockHead, DiagonalHead, FullHead
from rank_increase.toy.losses import teach
from rank_increase.toy.transformer import DiagonalTransformer, products

FIXED = ("bias", "W_A", "W_B")  # weights of a transformer that are not trained


@dataclass(frozen=True)
class Problem:
    """Data, teacher and direction of the initial weights: all that a run needs besides alpha.

    X is of shape (samples, tokens, dim) and so are the labels Y, from the outputs of the teacher; theta_0 and teacher
    are of shape (4, dim), (4, dim, dim_head) or (4, layers, heads, dim). `loss` is a key of losses.LOSSES. `fixed` has
    the fixed weights of a transformer (FIXED), as transformer.DiagonalTransformer takes them; empty for a single head.
    `block` is the size of the blocks of theta_0, of shape (4, dim, block), if it is block-diagonal, and 0 if not.
    """

    X: np.ndarray
    Y: np.ndarray
    theta_0: np.ndarray
    teacher: np.ndarray
    loss: str = "squared"
    fixed: dict = field(default_factory=dict)
    block: int = 0

    def save(self, file):
        """Write the problem to the open binary `file` in NumPy's npz format, with a name for each weight."""
        students = dict(zip(WEIGHTS, self.theta_0, strict=True))
        teachers = {f"teacher_{name}": weight for name, weight in zip(WEIGHTS, self.teacher, strict=True)}
        block = {"block": self.block} if self.block else {}
        np.savez(file, X=self.X, Y=self.Y, loss=self.loss, **students, **teachers, **self.fixed, **block)

    @classmethod
    def load(cls, path):
        """The problem that `save` wrote to `path`; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                X=arrays["X"],
                Y=arrays["Y"],
                theta_0=np.stack([arrays[name] for name in WEIGHTS]),
                teacher=np.stack([arrays[f"teacher_{name}"] for name in WEIGHTS]),
                loss=str(arrays["loss"]),
                fixed={name: arrays[name] for name in FIXED if name in arrays},
                block=int(arrays["block"]) if "block" in arrays else 0,
            )

    @property
    def shape(self):
        """Shape of the products that a run follows: as in frames.coordinate_labels."""
        heads = self.theta_0.shape[1:3] if self.theta_0.ndim == 4 else ()
        return *heads, 2, self.theta_0.shape[1 if self.block else -1]

    @property
    def factors(self):
        """Full weights as FullCoordinates.of takes them: theta_0, or both factors of each block in turn.

        Blocks come in the order of heads.BlockHead, shape (4 dim / block, block, block).
        """
        if not self.block:
            return self.theta_0
        blocks = self.theta_0.reshape(2, 2, -1, self.block, self.block)  # product, factor, number
        return blocks.swapaxes(1, 2).reshape(-1, self.block, self.block)

    @property
    def is_diagonal(self):
        """Whether the student's weights are diagonal."""
        return self.theta_0.ndim != 3

    def head(self):
        """The loss of the student on these data: a `DiagonalHead`, `FullHead`, `BlockHead` or `DiagonalTransformer`."""
        if self.fixed:
            return DiagonalTransformer(self.X, self.Y, loss=self.loss, **self.fixed)
        if self.loss != "squared":
            tokens = self.X.shape[1]
            return DiagonalTransformer(self.X, self.Y, loss=self.loss, bias=np.zeros((1, 1, tokens, tokens)))
        if self.block:
            return BlockHead(self.X, self.Y, self.block)
        return (DiagonalHead if self.is_diagonal else FullHead)(self.X, self.Y)


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


def make_problem(
    seed,
    *,
    samples,
    tokens,
    dim,
    weights,
    teacher,
    teacher_std_KQ,
    teacher_std_VO,
    dim_head=None,
    block=None,
    layers=0,
    heads=1,
    bias_std=0.0,
    loss="squared",
    labels="soft",
):
    """A `Problem` drawn from `seed`; X, teacher, theta_0 and fixed weights have separate random streams.

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
    block : int, optional
        Size of the blocks of the student's full weights, which divides `dim`; not block-diagonal if not given.
    layers, heads : int
        Layers of a diagonal transformer, and heads of a layer; without layers, the single head of eq. (1). Student and
        teacher share the fixed feed-forward weights, whose entries have the standard deviation 1 / sqrt(dim).
    bias_std : float
        Standard deviation of the entries of the fixed attention biases, which student and teacher share.
    loss : {"squared", "cross_entropy"}
    labels : {"soft", "hard"}
        For cross-entropy, as in losses.teach.
    """
    data_rng, teacher_rng, student_rng, fixed_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)
    )
    X = data_rng.standard_normal((samples, tokens, dim))
    scale = np.array([teacher_std_KQ, teacher_std_KQ, teacher_std_VO, teacher_std_VO])
    diagonal = (4, layers, heads, dim) if layers else (4, dim)
    if teacher == "diagonal":
        taught = (scale * teacher_rng.standard_normal(diagonal).T).T
    else:
        taught = scale[:, None, None] / np.sqrt(dim) * teacher_rng.standard_normal((4, dim, dim))
    theta_0 = student_rng.standard_normal(diagonal if weights == "diagonal" else (4, dim, block or dim_head or dim))
    if layers:
        fixed = {
            "bias": bias_std * fixed_rng.standard_normal((layers, heads, tokens, tokens)),
            "W_A": fixed_rng.standard_normal((layers, dim, dim)) / np.sqrt(dim),
            "W_B": fixed_rng.standard_normal((layers, dim, dim)) / np.sqrt(dim),
        }
        outputs = DiagonalTransformer(X, X, loss=loss, **fixed).outputs(products(taught))
    else:
        fixed, outputs = {}, attention(X, taught)
    return Problem(X, teach(outputs, loss, labels), theta_0, taught, loss, fixed, block or 0)
