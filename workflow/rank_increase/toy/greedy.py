"""Algorithm 1 for full weights: stages of the gradient flow as alpha goes to zero.

Not in the paper, which treats diagonal weights, and not proved: docs/full-weights.md derives it and says when it fails.
Near a rest point of rank k, each product grows by exp(J t), J = [[0, G], [G^T, 0]], so that its singular values beyond
the first k are alpha^(2 (1 - sigma_i)) with exponents sigma that grow at the rates g_i, the singular values of G in
descending order: largest with largest, since generic overlaps of singular vectors before and after a stage are not
zero. The product whose sigma_0 first reaches 1 gains the top singular pair of its G, and the flow from there comes to
rest at the next rest point. All of this holds for any number of products: those of the blocks, if weights are
block-diagonal.
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

    `product` are the singular values at theta_{k+1}, d' of each of the n products in descending order; the new one has
    the number `coordinate` among them, which is how many its product had. `products` are the products themselves, shape
    (n, d, d).
    """

    products: np.ndarray


class _Waiting:
    """Exponents of the singular values of one product that are not active, descending.

    With square weights the last exponent has a sign. Maximal isotropic subspaces of R^(d, d), such as that of
    (x_i, y_i), fall into two families told apart by det X det Y, and no flow leaves its family. So the frame is kept in
    one family: where that of a new G is of the other one, its last pair is (x, -y) in place of (x, y), with the rate
    -g. If the last exponent falls below zero, what grows is the last pair with y turned.
    """

    def __init__(self, dim, dim_head):
        self.sigma, self.square, self.frame = np.zeros(dim_head), dim == dim_head, None

    def look(self, G, M, rank):
        """Take the gradient at a new rest point M of this rank; sets `rates`.

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
            if self.square and _orientation(frame) != _orientation(self.frame):
                self.rates[-1] *= -1
                frame[1][:, -1] *= -1
            overlap = sum(new.T @ old for new, old in zip(frame, self.frame, strict=True)) / 2
            # Pivots of an elimination: each exponent needs one that is not zero.
            minors = [np.linalg.slogdet(overlap[:size, :size])[1] for size in range(rank, rank + waiting + 1)]
            if np.isneginf(minors[0]) or (np.diff(minors) < np.log(OVERLAP)).any():
                raise ArithmeticError(
                    "singular vectors of the gradient before and after a stage are orthogonal, so that their exponents"
                    " do not add in order: Algorithm 1 for full weights asks for overlaps that are not zero"
                )
        self.frame, self.rank = frame, rank

    def waits(self):
        """Rescaled times until each of them is active, if the gradient stays."""
        with np.errstate(divide="ignore"):
            return np.where(self.rates > 0, 1 - self.sigma, 1 + self.sigma) / abs(self.rates)

    def grow(self, time):
        """Let this rescaled time pass."""
        self.sigma = self.sigma + time * self.rates

    def activate(self):
        """Singular vectors u and v of the first of them, which is active from now on."""
        x, y = (vectors[:, self.rank] for vectors in self.frame)
        sign, self.sigma = np.sign(self.sigma[0]), self.sigma[1:]
        return x, sign * y

    def leave(self, sign):
        """The last singular value of a product of full rank, with a determinant of this sign, is active no more."""
        self.sigma = np.array([sign * _orientation(self.frame)])


def _orientation(frame):
    return np.prod([np.linalg.slogdet(vectors)[0] for vectors in frame])


def stages(head, dim_head, *, max_time, epsilon=0.03):
    """Yield the stages up to rescaled time `max_time`.

    Parameters
    ----------
    head : object with `loss_and_gradients` and `shape`, (n, d, d), such as heads.FullHead or heads.BlockHead
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
    count, dim, _ = head.shape
    waiting = [_Waiting(dim, dim_head) for _ in range(count)]
    factors = [np.zeros((dim, 0)) for _ in range(2 * count)]
    time = 0.0
    while True:
        products = _products(factors)
        gradients = head.loss_and_gradients(products)[1]
        for one, G, M, weights in zip(waiting, gradients, products, factors[::2], strict=True):
            one.look(G, M, weights.shape[1])
        waits = [np.append(one.waits(), np.inf) for one in waiting]
        product = int(np.argmin([each[0] for each in waits]))
        wait, *others = sorted(np.concatenate(waits))
        time += wait
        if not time <= max_time:
            return
        for one in waiting:
            one.grow(wait)
        chosen = waiting[product]
        for place, vector in enumerate(chosen.activate(), 2 * product):
            factors[place] = np.hstack([factors[place], epsilon * vector[:, None]])
        start, factors = factors, descend(head, factors)
        products, ranks = _products(factors), np.array([weights.shape[1] for weights in factors[::2]])
        left = np.flatnonzero(ranks < [weights.shape[1] for weights in start[::2]])
        for each in left:
            waiting[each].leave(np.linalg.slogdet(_products(start)[each])[0])
        values = np.linalg.svd(products, compute_uv=False)[:, :dim_head]
        values[np.arange(dim_head) >= ranks[:, None]] = 0.0
        yield FullStage(
            time=time,
            coordinate=product * dim_head + start[2 * product].shape[1] - 1,
            sign=1,
            product=values.ravel(),
            loss=head.loss_and_gradients(products)[0],
            gap_to_next=others[0] - wait,
            deactivated=tuple((left * dim_head + dim_head - 1).tolist()),
            curvature=np.nan,
            products=products,
        )


def _products(factors):
    return np.stack([left @ right.T for left, right in zip(factors[::2], factors[1::2], strict=True)])


def descend(head, factors, *, tolerance=1e-2, rest=0.1, near=0.1, patience=1e7):
    """The rest point to which the gradient flow leads.

    The flow is integrated until it is slow; then L-BFGS takes over, whose result is accepted only if it stays near.

    Parameters
    ----------
    head : object with `loss_and_gradients`
    factors : list of 2 n arrays, shapes (d, k), (d, k), (d, l), (d, l), ...
        Both factors of each product in turn: W_K, W_Q, W_V, W_O.
    tolerance : float
        Local error of a step, relative to the largest weight.
    rest : float
        Share of the greatest speed from which L-BFGS is tried.
    near : float
        How far L-BFGS may go, relative to the products.
    patience : float
        Longest time. One of the problems of config/theory.yaml passes a saddle on its way, at which it spends 7e4.

    Returns
    -------
    list of arrays, such as `factors`; without their last column where a singular value of a product of full rank left

    Raises
    ------
    ArithmeticError
        If the flow does not come to rest, or a singular value leaves in another way.
    """
    shapes = [weights.shape for weights in factors]
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]

    def split(vector):
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]

    def loss_and_velocity(vector):
        parts = split(vector)
        loss, gradients = head.loss_and_gradients(_products(parts))
        velocity = []
        for G, left, right in zip(gradients, parts[::2], parts[1::2], strict=True):
            velocity += [(G @ right).ravel(), (G.T @ left).ravel()]
        return loss, np.concatenate(velocity)

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
    """Factors of equal size of products whose ranks are those of the shapes.

    The last singular value of a product of full rank may have left. Others can't: their pair would overlap with one
    that grows.
    """
    factors = []
    for M, (dim, rank) in zip(products, shapes[::2], strict=True):
        u, values, v = np.linalg.svd(M)
        if rank == dim and values[-1] < GONE:
            rank -= 1
        if rank and values[rank - 1] < GONE:
            raise ArithmeticError(
                "a singular value of a product whose rank isn't full leaves the support after a stage: Algorithm 1 for"
                " full weights goes no further"
            )
        root = np.sqrt(values[:rank])
        factors += [u[:, :rank] * root, v[:rank].T * root]
    return factors
