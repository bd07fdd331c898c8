"""Singular values of the products of a network, such as W_K W_Q^T of every head, and of their change by training.

A product A B^T of dim x dim_head factors is never formed. With A = Q R, Q^T Q = 1, it has the singular values of R B^T,
which has dim_head rows. The change by training,

    A B^T - A_0 B_0^T = A_0 (B - B_0)^T + (A - A_0) B^T,

has rank 2 dim_head at most; the right-hand side does not suffer cancellation when the change is small. In an
orthonormal basis of A_0 and A - A_0 it has 2 dim_head rows. The basis of A_0 is the same at every epoch; only its
complement for A - A_0 has to be computed each time.

Singular values of such a wide matrix are the square roots of the eigenvalues of its Gram matrix, at half the cost of an
SVD, as long as none is below `GRAM_FLOOR` of the largest; else an SVD follows. The error is below 1e-10 of the largest
singular value, and below 1e-5 of each one that is above 1e-10 of the largest. Gram matrices of the factors would be
faster still, but lose what is below 1e-8 of |A| |B|, which can be more than the largest.
All computations use numpy's LAPACK on stacks of heads: on one core, torch took as long or longer.
"""

import numpy as np
import pandas as pd

from rank_increase.notation import RANDOM_CHANGES

# Relative to the largest singular value. An eigenvalue of the Gram matrix has an error of 1e-15 of the largest, so its
# root has an error of 5e-11 at the floor. Deltas of first steps and of small init scales go below it, most do not.
GRAM_FLOOR = 1e-5


def singular_values(A, B):
    """Singular values of A B^T, descending, from its factors.

    Parameters
    ----------
    A, B : numpy.ndarray
        Shape (..., dim, dim_head), with dim_head of any size.

    Returns
    -------
    numpy.ndarray
        Shape (..., min(dim, dim_head)), float64.
    """
    A, B = np.asarray(A, dtype=float), np.asarray(B, dtype=float)
    if A.shape[-2] > A.shape[-1]:
        A = np.linalg.qr(A, mode="r")
    return _wide_singular_values(A @ _transposed(B))


def _wide_singular_values(matrices):
    """Singular values of matrices with no more rows than columns, descending."""
    squares = np.linalg.eigvalsh(matrices @ _transposed(matrices))[..., ::-1]
    values = np.sqrt(np.maximum(squares, 0))
    inexact = squares[..., -1] < GRAM_FLOOR**2 * squares[..., 0]
    if inexact.any():
        values[inexact] = np.linalg.svd(matrices[inexact], compute_uv=False)
    return values


def _transposed(matrices):
    return matrices.swapaxes(-1, -2)


class ProductSpectra:
    """Singular values of one product, for all heads of a layer: initial, trained, and of the difference.

    Parameters
    ----------
    A, B : numpy.ndarray
        Initial factors, each of shape (heads, dim, dim_head).
    """

    def __init__(self, A, B):
        self.A, self.B = np.asarray(A, dtype=float), np.asarray(B, dtype=float)
        dim, dim_head = self.A.shape[-2:]
        self.rank = min(dim, 2 * dim_head)  # the largest rank that the difference can have
        # If a basis of A and its change would be as long as the standard basis, the standard basis is used.
        self._basis, self._A = np.linalg.qr(self.A) if 2 * dim_head < dim else (None, self.A)

    def initial(self):
        """Singular values of A_0 B_0^T; shape (heads, min(dim, dim_head)), descending."""
        return singular_values(self.A, self.B)

    def after(self, A, B):
        """Singular values of A B^T and of A B^T - A_0 B_0^T.

        Parameters
        ----------
        A, B : numpy.ndarray
            Trained factors, each of shape (heads, dim, dim_head).

        Returns
        -------
        trained : numpy.ndarray
            Shape (heads, min(dim, dim_head)), descending.
        delta : numpy.ndarray
            Shape (heads, min(dim, 2 dim_head)), descending.
        """
        change = self._coordinates(A - self.A)
        return singular_values(self._plus_initial(change), B), self._delta(change, B)

    def _delta(self, change, B):
        return _wide_singular_values(self._plus_initial(change @ _transposed(B), _transposed(B - self.B)))

    def _coordinates(self, change):
        """A change of A, (heads, dim, dim_head), in an orthonormal basis that begins with that of A_0; rank rows."""
        if self._basis is None:
            return change
        within = _transposed(self._basis) @ change
        # One pass of Gram-Schmidt is enough: the remainder in the span is eps |change|, an error of that size.
        return np.concatenate([within, np.linalg.qr(change - self._basis @ within, mode="r")], axis=-2)

    def _plus_initial(self, coordinates, right=None):
        """The sum of `coordinates` and A_0 (or A_0 `right`) in the same basis, where A_0 has only the first rows."""
        total = coordinates.copy()
        total[..., : self._A.shape[-2], :] += self._A if right is None else self._A @ right
        return total

    def random_changes(self, A_values, B_values, delta_norms, rng):
        """Singular values of random perturbations as large as those of training, one of each kind for every head.

        "random_product" is a product of two Gaussian matrices of shape dim x min(dim, 2 dim_head), scaled to the
        Frobenius norm of the delta. It shares only shape, norm and largest rank with the delta. "noisy_factors" is the
        change of the initial product when each factor gets Gaussian noise with the norm of that factor's change by
        training; its norm differs from the delta's. "turned_factors" is the same with the changes by training
        themselves, their singular vectors replaced by random ones: what is left is how the changes of both factors fit
        to the factors and to each other. Directions are drawn once per head, so only sizes differ between steps.

        Parameters
        ----------
        A_values, B_values : numpy.ndarray
            Singular values of A - A_0 and B - B_0, each of shape (steps, heads, min(dim, dim_head)).
        delta_norms : numpy.ndarray
            Frobenius norm of the delta, shape (steps, heads).
        rng : numpy.random.Generator

        Returns
        -------
        dict of str to numpy.ndarray
            For each of `RANDOM_CHANGES`, shape (steps, heads, min(dim, 2 dim_head)), descending.
        """
        heads, dim, _ = self.A.shape
        unit = singular_values(*rng.standard_normal((2, heads, dim, self.rank)))
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        noise = rng.standard_normal((2, *self.A.shape))
        noise /= np.linalg.norm(noise, axis=(-2, -1), keepdims=True)
        change, noise_B = self._coordinates(noise[0]), _transposed(noise[1])
        # Noise of B alone, of A alone, and of both: with norms p of A's and q of B's noise, times q, p and p q.
        alone_B = self._plus_initial(np.zeros((heads, self.rank, dim)), noise_B)
        alone_A, both = change @ _transposed(self.B), change @ noise_B
        A_norms, B_norms = (np.linalg.norm(values, axis=-1)[..., None, None] for values in (A_values, B_values))
        (left_A, right_A), (left_B, right_B) = (_random_vectors(self.A.shape, rng) for _ in range(2))
        left_A = self._coordinates(left_A)
        return {
            "random_product": delta_norms[..., None] * unit,
            "noisy_factors": np.stack(
                [
                    _wide_singular_values(p * alone_A + q * (alone_B + p * both))
                    for p, q in zip(A_norms, B_norms, strict=True)
                ],
            ),
            "turned_factors": np.stack(
                [
                    self._delta(left_A * s[..., None, :] @ right_A, self.B + left_B * t[..., None, :] @ right_B)
                    for s, t in zip(A_values, B_values, strict=True)
                ],
            ),
        }


def _random_vectors(shape, rng):
    """Singular vectors, uniformly distributed, of matrices (heads, dim, dim_head): u in columns, v in rows."""
    u, _, v = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return u, v


def spectra_frame(snapshots, seed, advance=lambda done: None):
    """Rows of schema "spectra" of a run.

    Parameters
    ----------
    snapshots : training.snapshots.Snapshots
    seed : int
        Seed of the random changes.
    advance : callable
        Called with the number of products done, over all layers.
    """
    frames, done = [], 0
    layers = list(dict.fromkeys(layer for _, layer, *_ in snapshots.products))
    for layer in layers:
        products = [product for product in snapshots.products if product[1] == layer]
        initial = {product: snapshots.factors(0, product) for product in products}
        spectra = {product: ProductSpectra(*factors) for product, factors in initial.items()}
        changes = {product: [] for product in products}  # singular values of those of A and of B and norm of the delta
        for step in snapshots.steps:
            for product in products:
                factors = snapshots.factors(step, product)
                trained, delta = spectra[product].after(*factors)
                matrices = {"trained": trained, "delta": delta}
                if step == 0:
                    matrices = {"initial": spectra[product].initial(), **matrices}
                frames += [_head_rows(snapshots, step, product, matrix, values) for matrix, values in matrices.items()]
                pairs = zip(factors, initial[product], strict=True)
                of_factors = [np.linalg.svd(after - before, compute_uv=False) for after, before in pairs]
                changes[product].append((*of_factors, np.linalg.norm(delta, axis=-1)))
        for number, product in enumerate(products):
            rng = np.random.default_rng([seed, layer, number])
            by_step = map(np.stack, zip(*changes[product], strict=True))
            random = spectra[product].random_changes(*by_step, rng)
            frames += [
                _head_rows(snapshots, step, product, matrix, values)
                for matrix in RANDOM_CHANGES
                for step, values in zip(snapshots.steps, random[matrix], strict=True)
            ]
            done += 1
            advance(done)
    return pd.concat(frames, ignore_index=True)


def _head_rows(snapshots, step, product, matrix, values):
    """A row for each head, from singular values of shape (heads, r)."""
    name, layer, *_ = product
    return pd.DataFrame(
        {
            "step": step,
            "epoch": snapshots.epochs[step],
            "layer": layer,
            "head": range(len(values)),
            "product": name,
            "matrix": matrix,
            "singular_values": list(values),
        }
    )
