"""Cost and accuracy of the spectra of one snapshot against dense singular values, and of other ways from the factors.

A snapshot is both products of every head, as trained and as changed by training. One product of one layer is timed and
scaled to all, in one process and on one core, in CPU seconds; the dense way, which forms every product, on a few heads
of it. Errors are in units of the largest singular value, against the dense ones in float64. Run by
`make bench`; writes results/benchmarks/spectra.md.
"""

import platform
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np

from rank_increase.spectra import ProductSpectra
from rank_increase.tables import atomic

ROOT = Path(__file__).parents[2]
MODELS = {  # layers, heads, dim, dim_head
    "ViT-B/16": (12, 12, 768, 64),
    "ViT of the paper for CIFAR": (6, 8, 512, 128),
}
DENSE_HEADS, REPEATS = 3, 3


def timed(function, repeats=REPEATS):
    """CPU seconds that a call takes, median over `repeats`, and what it returns."""
    seconds = []
    for _ in range(repeats):
        start = process_time()
        result = function()
        seconds.append(process_time() - start)
    return median(seconds), result


def transpose(matrices):
    """The transposes of stacked matrices."""
    return matrices.swapaxes(-1, -2)


def layer_factors(rng, heads, dim, dim_head):
    """Factors before and after a change mostly of low rank, each of shape (2, heads, dim, dim_head)."""
    initial = rng.uniform(-1, 1, (2, heads, dim, dim_head)) / dim**0.5
    learned = rng.standard_normal((2, heads, dim, 4)) @ rng.standard_normal((2, heads, 4, dim_head))
    change = 0.2 / dim**0.5 * (learned + 0.1 * rng.standard_normal(initial.shape))
    return (weight.astype(np.float32).astype(float) for weight in (initial, initial + change))


def by_qr(A, B):
    """QR of both factors, then an SVD."""
    return np.linalg.svd(np.linalg.qr(A, mode="r") @ transpose(np.linalg.qr(B, mode="r")), compute_uv=False)


def by_gram(A, B):
    """Square roots of the eigenvalues of (A^T A) (B^T B), made symmetric by a Cholesky factor."""
    L = np.linalg.cholesky(transpose(A) @ A)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(transpose(L) @ (transpose(B) @ B) @ L), 0))[..., ::-1]


def trained_and_delta(method, initial, trained):
    """Both spectra of a product by a method that takes factors; the delta's are [A - A_0, A_0] and [B, B - B_0]."""
    (A_0, B_0), (A, B) = initial, trained
    delta = np.concatenate([A - A_0, A_0], axis=-1), np.concatenate([B, B - B_0], axis=-1)
    return method(A, B), method(*delta)


def dense(initial, trained):
    """Both spectra of a product from the dim x dim matrices."""
    (A_0, B_0), (A, B) = initial, trained
    product = A @ transpose(B)
    return tuple(np.linalg.svd(matrix, compute_uv=False) for matrix in (product, product - A_0 @ transpose(B_0)))


def largest_error(spectra, expected):
    """Over the heads and both spectra."""
    return max(
        (abs(values[: len(exact)] - exact[..., : values.shape[-1]]).max(-1) / exact[..., 0]).max()
        for values, exact in zip(spectra, expected, strict=True)
    )


def main():
    """Measure, print and write."""
    lines = [f"One snapshot on one core of {platform.machine()}, numpy {np.__version__}.", ""]
    lines += ["| model | method | CPU s | dense / method | largest error |", "|---|---|---|---|---|"]
    for model, (layers, heads, dim, dim_head) in MODELS.items():
        initial, trained = layer_factors(np.random.default_rng(0), heads, dim, dim_head)
        products = 2 * layers  # timed on one, as all are alike
        dense_seconds, exact = timed(partial(dense, initial[:, :DENSE_HEADS], trained[:, :DENSE_HEADS]))
        dense_seconds *= products * heads / DENSE_HEADS
        lines.append(f"| {model} | dense, {DENSE_HEADS} heads scaled to all | {dense_seconds:.1f} | 1 | - |")
        methods = {
            "ours": partial(ProductSpectra(*initial).after, *trained),
            "QR of the factors": partial(trained_and_delta, by_qr, initial, trained),
            "Gram matrices": partial(trained_and_delta, by_gram, initial, trained),
        }
        for name, method in methods.items():
            seconds, spectra = timed(method)
            error = largest_error([values[:DENSE_HEADS] for values in spectra], exact)
            seconds *= products
            lines.append(f"| {model} | {name} | {seconds:.2f} | {dense_seconds / seconds:.1f} | {error:.0e} |")
    with atomic(ROOT / "results/benchmarks/spectra.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
