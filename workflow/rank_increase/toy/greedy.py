"""Algorithm 1 for full weights: stages of the gradient flow as alpha goes to zero.

Not in the paper, which treats diagonal weights, and not proved: docs/full-weights.md derives it and says when it fails.
Near a rest point of rank k, each product grows by exp(J t), J = [[0, G], [G^T, 0]], so that its singular values beyond
the first k are alpha^(2 (1 - sigma_i)) with exponents sigma that grow at the rates g_i, the singular values of G in
descending order: largest with largest, since generic overlaps of singular vectors before and after a stage are not
zero. The product whose sigma_0 first reaches 1 gains the top singular pair of its G, and the flow from there comes to
rest at the next rest point.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from rank_increase.toy.rkc import Solver
from rank_increase.toy.runs import Stage

OVERLAP = 1e-9  # pivots of the overlap of singular vectors below this count as zero
GONE = 1e-6  # a singular value below this has left the support
AT_REST = 1e-8  # norm of the gradient in the factors


@dataclass(frozen=True)
class FullStage(Stage):
    """Stage k + 1: the product that gains a singular value at T_{k+1}, and the rest point theta_{k+1} that follows.

    `product` are the singular values at theta_{k+1}, d' of each product in descending order; the new one has the number
    `coordinate` among them, which is how many its product had. `products` are the products themselves, shape (2, d, d).
    """

    products: np.ndarray


class _Waiting:
    """Exponents of the singular values of one product that are not active, descending.

    With square weights the last exponent has a sign. Maximal isotropic subspaces of R^(d, d), such as that of
    (x_i, y_i), fall into two families told apart by det X det Y, and no flow leaves its family. Where the frame of a
    new G is of the other one, the last pair (x, y) stands for (x, -y), whose rate is -g.
    """

    def __init__(self, dim, dim_head):
        self.sigma, self.square, self.frame = np.zeros(dim_head), dim == dim_head, None

    def look(self, G, M, rank):
        """Take the gradient at a new rest point M of this rank; sets `rates`, and `u`, `v` of the pair that is next.

        Raises
        ------
        ArithmeticError
            If overlaps with the singular vectors of the plateau before are zero.
        """
        waiting = len(self.sigma)
        if not waiting:
            self.rates = np.empty(0)
            return
        support = np.linalg.svd(M)
        left, right = support[0][:, :rank], support[2][:rank].T
        complement = support[0][:, rank:], support[2][rank:].T
        u, g, v = np.linalg.svd(complement[0].T @ G @ complement[1])
        frame = np.hstack([left, complement[0] @ u]), np.hstack([right, complement[1] @ v.T])
        self.rates = g[:waiting].copy()
        if self.frame is not None:
            overlap = sum(new.T @ old for new, old in zip(frame, self.frame, strict=True)) / 2
            last = rank + waiting
            if self.square and _orientation(frame) != _orientation(self.frame):
                self.rates[-1] *= -1
                last -= 1  # the last minor is zero, by its sign
            # Pivots of an elimination: each exponent needs one that is not zero.
            minors = [np.linalg.slogdet(overlap[:size, :size])[1] for size in range(rank, last + 1)]
            if np.isneginf(minors[0]) or (np.diff(minors) < np.log(OVERLAP)).any():
                raise ArithmeticError(
                    "singular vectors of the gradient before and after a stage are orthogonal, so that their exponents"
                    " do not add in order: Algorithm 1 for full weights asks for overlaps that are not zero"
                )
        self.u, self.v = frame[0][:, rank], frame[1][:, rank]
        self.frame = frame

    def waits(self):
        """Rescaled times until each of them is active, if the gradient stays."""
        # A last exponent that falls turns at zero: from there on (x, -y) grows.
        growing = self.rates > 0
        with np.errstate(divide="ignore"):
            return np.where(growing, 1 - self.sigma, 1 + self.sigma) / abs(self.rates)

    def grow(self, time):
        """Let this rescaled time pass."""
        self.sigma = self.sigma + time * self.rates
        if len(self.sigma) and self.sigma[-1] < 0:
            self.sigma[-1] *= -1
            self.v, self.frame = self._turned()

    def _turned(self):
        left, right = self.frame
        right = right.copy()
        right[:, -1] *= -1
        return (right[:, -1] if len(self.sigma) == 1 else self.v), (left, right)

    def activate(self):
        """The first of them is active."""
        self.sigma = self.sigma[1:]


def _orientation(frame):
    return np.prod([np.linalg.slogdet(vectors)[0] for vectors in frame])


def stages(head, dim_head, *, max_time, epsilon=0.03):
    """Yield the stages up to rescaled time `max_time`.

    Parameters
    ----------
    head : object with `loss_and_gradients` and `X`, such as heads.FullHead
    dim_head : int
        d', the number of columns of the weights.
    max_time : float
    epsilon : float
        Size of the new columns of the weights at which the flow to the next rest point starts.

    Raises
    ------
    ArithmeticError
        If overlaps of singular vectors are zero, a singular value leaves, or the flow does not come to rest.
    """
    dim = head.X.shape[2]
    waiting, factors = [_Waiting(dim, dim_head) for _ in range(2)], [np.zeros((dim, 0)) for _ in range(4)]
    time = 0.0
    while True:
        products = _products(factors)
        gradients = head.loss_and_gradients(products)[1]
        for one, G, M, weights in zip(waiting, gradients, products, factors[::2], strict=True):
            one.look(G, M, weights.shape[1])
        waits = [np.append(one.waits(), np.inf) for one in waiting]
        product = int(waits[1][0] < waits[0][0])
        wait, *others = sorted(np.concatenate(waits))
        time += wait
        if not time <= max_time:
            return
        for one in waiting:
            one.grow(wait)
        chosen = waiting[product]
        for place, vector in ((2 * product, chosen.u), (2 * product + 1, chosen.v)):
            factors[place] = np.hstack([factors[place], epsilon * vector[:, None]])
        chosen.activate()
        index = factors[2 * product].shape[1] - 1
        factors = descend(head, factors)
        products = _products(factors)
        values = np.linalg.svd(products, compute_uv=False)[:, :dim_head]
        values[np.arange(dim_head) >= [[weights.shape[1]] for weights in factors[::2]]] = 0.0
        yield FullStage(
            time=time,
            coordinate=product * dim_head + index,
            sign=1,
            product=values.ravel(),
            loss=head.loss_and_gradients(products)[0],
            gap_to_next=others[0] - wait,
            deactivated=(),
            curvature=np.nan,
            products=products,
        )


def _products(factors):
    return np.stack([factors[0] @ factors[1].T, factors[2] @ factors[3].T])


def descend(head, factors, *, tolerance=1e-2, rest=0.1, near=0.1, patience=1e5):
    """The rest point to which the gradient flow leads.

    The flow is integrated until it is slow; then L-BFGS takes over, whose result is accepted only if it stays near.

    Parameters
    ----------
    head : object with `loss_and_gradients`
    factors : list of 4 arrays, shapes (d, k), (d, k), (d, l), (d, l)
        W_K, W_Q, W_V, W_O.
    tolerance : float
        Local error of a step, relative to the largest weight.
    rest : float
        Share of the greatest speed from which L-BFGS is tried.
    near : float
        How far L-BFGS may go, relative to the products.
    patience : float
        Longest time.

    Returns
    -------
    list of 4 arrays, such as `factors`

    Raises
    ------
    ArithmeticError
        If the flow does not come to rest, or a singular value leaves.
    """
    shapes = [weights.shape for weights in factors]
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]

    def split(vector):
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]

    def loss_and_velocity(vector):
        W_K, W_Q, W_V, W_O = parts = split(vector)
        loss, (g_KQ, g_VO) = head.loss_and_gradients(_products(parts))
        velocity = g_KQ @ W_Q, g_KQ.T @ W_K, g_VO @ W_O, g_VO.T @ W_V
        return loss, np.concatenate([part.ravel() for part in velocity])

    def size(error, before, after):
        return abs(error).max() / tolerance / max(abs(before).max(), abs(after).max())

    start = np.concatenate([weights.ravel() for weights in factors])
    solver = Solver(lambda vector: loss_and_velocity(vector)[1], start, size=size, step=1e-2)
    fastest, slow = np.linalg.norm(solver.slope), rest
    while solver.time < patience:
        solver.advance(patience)
        speed = np.linalg.norm(solver.slope)
        fastest = max(fastest, speed)
        if speed < slow * fastest:
            found = _minimum(loss_and_velocity, solver.y)
            before, after = _products(split(solver.y)), _products(split(found))
            if np.linalg.norm(after - before) <= near * np.linalg.norm(before):
                return _balanced(after, shapes)
            slow /= 10
    raise ArithmeticError(f"the flow to the next stage has not come to rest by time {patience:g}")


def _minimum(loss_and_velocity, vector):
    def loss_and_gradient(vector):
        loss, velocity = loss_and_velocity(vector)
        return loss, -velocity

    options = {"maxiter": 20_000, "maxfun": 40_000, "gtol": AT_REST, "ftol": 0.0, "maxcor": 40}
    return minimize(loss_and_gradient, vector, jac=True, method="L-BFGS-B", options=options).x


def _balanced(products, shapes):
    """Factors of equal size of products whose ranks are those of the shapes."""
    factors = []
    for M, (_, rank) in zip(products, shapes[::2], strict=True):
        u, values, v = np.linalg.svd(M)
        if rank and values[rank - 1] < GONE:
            raise ArithmeticError(
                "a singular value leaves the support after a stage: Algorithm 1 for full weights goes no further"
            )
        root = np.sqrt(values[:rank])
        factors += [u[:, :rank] * root, v[:rank].T * root]
    return factors
