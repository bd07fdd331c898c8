"""Singular values of the heads' products W_K W_Q^T and W_V W_O^T and of what training adds to them, and rank measures.

A product A B^T of dim x dim_head factors is never formed. With A = Q R, Q^T Q = 1, it has the singular values of R B^T,
which has dim_head rows. What training adds to it,

    A B^T - A_0 B_0^T = A_0 (B - B_0)^T + (A - A_0) B^T,

has rank 2 dim_head at most; the right-hand side does not cancel where the change is small. Written in an orthonormal
basis of A_0 and A - A_0 it has 2 dim_head rows. A basis of A_0 is the same at every epoch; only its complement for
A - A_0 has to be found anew.

Singular values of such a wide matrix are the square roots of the eigenvalues of its Gram matrix, at half the cost of an
SVD, as long as none is below `GRAM_FLOOR` of the largest; else an SVD follows. The error is below 1e-10 of the largest
singular value, and below 1e-5 of each one that is above 1e-10 of the largest. Gram matrices of the factors would be
faster still, but lose what is below 1e-8 of |A| |B|, which can be more than the largest.
Everything is numpy's LAPACK on stacks of heads: the same in torch took as long or longer, on one core.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from rank_increase.notation import PRODUCTS
from rank_increase.snapshots import SnapshotError, check_snapshot, open_snapshot

NUMERICAL_RANK_RTOL = 0.01  # a choice: the tables hold all singular values, so any other can be had from them
# Of the largest singular value. An eigenvalue of the Gram matrix has an error of 1e-15 of the largest, so its root has
# one of 5e-11 where it is the floor. Deltas of first steps and of small init scales go below it, most others do not.
GRAM_FLOOR = 1e-5
BASELINES = ("random_product", "noisy_factors")


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
    """Singular values of a product of all heads of a layer: initial, trained, and of the difference.

    Parameters
    ----------
    A, B : numpy.ndarray
        Initial factors, each of shape (heads, dim, dim_head).
    """

    def __init__(self, A, B):
        self.A, self.B = np.asarray(A, dtype=float), np.asarray(B, dtype=float)
        dim, dim_head = self.A.shape[-2:]
        self.rank = min(dim, 2 * dim_head)  # the most that the difference can have
        # Where a basis of A and its change would be no shorter than the standard one, that is taken.
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
        # One pass of Gram-Schmidt is enough: what it leaves in the span is eps |change|, and counts as that much.
        return np.concatenate([within, np.linalg.qr(change - self._basis @ within, mode="r")], axis=-2)

    def _plus_initial(self, coordinates, right=None):
        """A sum of `coordinates` and of A_0, or A_0 `right`, in the same basis, where A_0 has only the first rows."""
        total = coordinates.copy()
        total[..., : self._A.shape[-2], :] += self._A if right is None else self._A @ right
        return total

    def baselines(self, A_norms, B_norms, delta_norms, rng):
        """Singular values of random changes as large as those of training, one of each kind for every head.

        "random_product" is a random change of the product: two Gaussian matrices of shape dim x min(dim, 2 dim_head),
        multiplied and scaled to the Frobenius norm of the delta. It has the delta's shape, norm and greatest rank, and
        nothing else of it. "noisy_factors" is the change of the product when Gaussian noise is added to each initial
        factor, with the Frobenius norm of that factor's change. Its own norm is not that of the delta: it is smaller
        where training moves both factors together. Directions are drawn once for a head, so only norms differ between
        epochs.

        Parameters
        ----------
        A_norms, B_norms, delta_norms : numpy.ndarray
            Frobenius norms of A - A_0, B - B_0 and of the delta, each of shape (epochs, heads).
        rng : numpy.random.Generator

        Returns
        -------
        dict of str to numpy.ndarray
            For each kind, shape (epochs, heads, min(dim, 2 dim_head)), descending.
        """
        heads, dim, _ = self.A.shape
        unit = singular_values(*rng.standard_normal((2, heads, dim, self.rank)))
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        noise = rng.standard_normal((2, *self.A.shape))
        noise /= np.linalg.norm(noise, axis=(-2, -1), keepdims=True)
        change, noise_B = self._coordinates(noise[0]), _transposed(noise[1])
        # The noise of B alone, of A alone, and of both: what norms p and q make of them is p q, p and q of each.
        alone_B = self._plus_initial(np.zeros((heads, self.rank, dim)), noise_B)
        alone_A, both = change @ _transposed(self.B), change @ noise_B
        A_norms, B_norms = A_norms[..., None, None], B_norms[..., None, None]
        return {
            "random_product": delta_norms[..., None] * unit,
            "noisy_factors": np.stack(
                [
                    _wide_singular_values(p * alone_A + q * (alone_B + p * both))
                    for p, q in zip(A_norms, B_norms, strict=True)
                ],
            ),
        }


def rank_measures(singular_values, rtol=NUMERICAL_RANK_RTOL):
    """Measures of size and rank of matrices with these singular values.

    Parameters
    ----------
    singular_values : numpy.ndarray
        Shape (..., r), not negative, descending.
    rtol : float
        Relative tolerance of the numerical rank.

    Returns
    -------
    dict of str to numpy.ndarray
        Each of shape (...):

        - `stable_rank`: sum s^2 / max s^2 = ||.||_F^2 / ||.||_2^2, in [1, r] (paper, Appendix B).
        - `effective_rank`: exp of the entropy of s / sum s, in [1, r] (Roy and Vetterli 2007). Of s, not of s^2 as the
          "entropy" of WeightWatcher, and not divided by r.
        - `participation_ratio`: (sum s^2)^2 / sum s^4, in [1, r]: of the eigenvalues s^2 of the Gram matrix, not of the
          entries of eigenvectors as WeightWatcher's.
        - `numerical_rank`: how many s are above rtol * max s, an integer. numpy's and torch's default,
          max(m, n) * eps, would count every direction that training has touched at all.
        - `frobenius_norm`, `spectral_norm`, `nuclear_norm`: sqrt(sum s^2), max s, sum s.

        Of the zero matrix, which a delta is at epoch 0, norms and numerical rank are 0. The first three are 0/0: nan,
        which is null in Parquet.

    Raises
    ------
    ValueError
        If a value is negative or not finite, or the order is not descending.
    """
    s = np.asarray(singular_values, dtype=float)
    if not (np.isfinite(s).all() and (s >= 0).all() and (np.diff(s) <= 0).all()):
        raise ValueError("singular values must be finite, not negative, and descending")
    largest = s[..., 0]
    with np.errstate(invalid="ignore"):
        scaled = s / largest[..., None]  # their fourth powers are numbers even where those of s underflow
        share = scaled / scaled.sum(-1, keepdims=True)
    squares = scaled**2
    entropy = -np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)), axis=-1)
    return {
        "stable_rank": squares.sum(-1),
        "effective_rank": np.exp(entropy),
        "participation_ratio": squares.sum(-1) ** 2 / (squares**2).sum(-1),
        "numerical_rank": (s > rtol * largest[..., None]).sum(-1),
        "frobenius_norm": np.linalg.norm(s, axis=-1),
        "spectral_norm": largest,
        "nuclear_norm": s.sum(-1),
    }


class Snapshots:
    """The attention weights of a run at several epochs, of which one layer at one epoch is read at a time.

    Parameters
    ----------
    folder : str
        With files epoch_0.safetensors, epoch_1.safetensors, ..., which hold layer_0.W_K, ... of shape (heads, dim,
        dim_head), in the paper's orientation.

    Attributes
    ----------
    epochs : list of int
        Ascending, from 0.
    layers : int

    Raises
    ------
    ValueError
        If the weights at initialization are not there, or have no layer.
    """

    def __init__(self, folder):
        files = {int(path.stem.removeprefix("epoch_")): path for path in Path(folder).glob("epoch_*.safetensors")}
        self.epochs, self._files, self._checked = sorted(files), files, set()
        if 0 not in files:
            raise ValueError(f"{folder} has no epoch_0.safetensors, the weights at initialization")
        self.layers = sum(name.endswith(".W_K") for name in self._open(0).keys())  # noqa: SIM118 - not a dict
        if not self.layers:
            raise ValueError(f"{files[0]} has no weights layer_0.W_K")

    def _open(self, epoch):
        path = self._files[epoch]
        try:
            if epoch not in self._checked:
                check_snapshot(path)
                self._checked.add(epoch)
            return open_snapshot(path)
        except SnapshotError as error:
            raise ValueError(
                f"{error}: delete {path.parent} and run the same command again, which takes the snapshots from the"
                " scratch folder of the run if they are whole there, and trains again if not."
            ) from error

    def factors(self, epoch, layer):
        """Factors of both products of all heads of a layer; a dict product -> (A, B), each (heads, dim, dim_head).

        Raises
        ------
        ValueError
            If the file is damaged or lacks the layer, or a weight is not finite.
        """
        file = self._open(epoch)
        return {product: tuple(self._weight(file, epoch, layer, letter) for letter in product) for product in PRODUCTS}

    def _weight(self, file, epoch, layer, letter):
        name = f"layer_{layer}.W_{letter}"
        try:
            weight = file.get_tensor(name).astype(float)
        except SafetensorError as error:
            raise ValueError(f"{self._files[epoch]}: {name}: {error}") from error
        if not np.isfinite(weight).all():
            raise ValueError(f"{self._files[epoch]}: {name} is not finite; the run has diverged")
        return weight


def spectra_frame(snapshots, steps, advance=lambda done: None):
    """Rows of schema "spectra" of a run.

    Parameters
    ----------
    snapshots : Snapshots
    steps : dict of int to int
        Epoch -> optimizer steps taken by its end.
    advance : callable
        Called with the number of layers done.
    """
    frames = []
    for layer in range(snapshots.layers):
        spectra = {product: ProductSpectra(*factors) for product, factors in snapshots.factors(0, layer).items()}
        for epoch in snapshots.epochs:
            for product, factors in snapshots.factors(epoch, layer).items():
                trained, delta = spectra[product].after(*factors)
                matrices = {"trained": trained, "delta": delta}
                if epoch == 0:
                    matrices = {"initial": spectra[product].initial(), **matrices}
                for matrix, values in matrices.items():
                    row = {"epoch": epoch, "step": steps[epoch], "layer": layer, "product": product, "matrix": matrix}
                    frames.append(_head_rows(row, values))
        advance(layer + 1)
    return pd.concat(frames, ignore_index=True)


def baselines_frame(snapshots, deltas, seed, advance=lambda done: None):
    """Rows of schema "baselines" of a run.

    Parameters
    ----------
    snapshots : Snapshots
    deltas : pandas.DataFrame
        Columns `epoch`, `step`, `layer`, `head`, `product`, `frobenius_norm` of the deltas.
    seed : int
    advance : callable
        Called with the number of layers done.
    """
    frames, steps = [], dict(zip(deltas["epoch"], deltas["step"], strict=True))
    for layer in range(snapshots.layers):
        initial = snapshots.factors(0, layer)
        norms = {product: [] for product in PRODUCTS}  # of the changes of A and of B, (heads,) each, for every epoch
        for epoch in snapshots.epochs:
            for product, factors in snapshots.factors(epoch, layer).items():
                changes = np.stack(factors) - np.stack(initial[product])
                norms[product].append(np.linalg.norm(changes, axis=(-2, -1)))
        for number, product in enumerate(PRODUCTS):
            A_norms, B_norms = np.stack(norms[product], axis=1)
            of_product = deltas[(deltas["layer"] == layer) & (deltas["product"] == product)]
            delta_norms = of_product.pivot(index="epoch", columns="head", values="frobenius_norm")
            spectra = ProductSpectra(*initial[product]).baselines(
                A_norms,
                B_norms,
                delta_norms.loc[snapshots.epochs].to_numpy(),
                np.random.default_rng([seed, layer, number]),
            )
            for baseline in BASELINES:
                for epoch, values in zip(snapshots.epochs, spectra[baseline], strict=True):
                    row = {"epoch": epoch, "step": steps[epoch], "layer": layer, "product": product}
                    frames.append(_head_rows({**row, "baseline": baseline}, values))
        advance(layer + 1)
    return pd.concat(frames, ignore_index=True)


def _head_rows(row, values):
    """A row for each head, from singular values of shape (heads, r) and the columns that all of them share."""
    return pd.DataFrame(
        {**row, "head": range(len(values)), "singular_values": list(values), **rank_measures(values)},
    )
