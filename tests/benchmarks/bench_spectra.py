"""Spectra of a snapshot, and their errors: ours, dense singular values in numpy and in torch.

One product of one layer is timed and scaled to all, as all are alike; the dense way, which forms every product, on few
heads of it. The basis of the initial factors is shared by all snapshots of a run, so ours is timed with and without it.
Errors are in units of the largest singular value, against the dense ones in float64.
"""

from functools import partial

import numpy as np
import torch

from measuring import interleaved, row
from rank_increase.probes.spectra import ProductSpectra

MODELS = {  # layers, heads, dim, dim_head
    "ViT-B/16": (12, 12, 768, 64),
    "ViT of the paper for CIFAR": (6, 8, 512, 128),
}
WHOLE, DELTA = "{}: trained and delta of a snapshot", "{}: delta of a snapshot"
GROWTH = "delta of a head of width 64"
DIMS, DIM_HEAD = [192, 384, 768, 1536], 64
DENSE_HEADS = 2


def layer_factors(rng, heads, dim, dim_head):
    """Factors before and after a change mostly of low rank, each of shape (2, heads, dim, dim_head)."""
    initial = rng.uniform(-1, 1, (2, heads, dim, dim_head)) / dim**0.5
    learned = rng.standard_normal((2, heads, dim, 4)) @ rng.standard_normal((2, heads, 4, dim_head))
    change = 0.2 / dim**0.5 * (learned + 0.1 * rng.standard_normal(initial.shape))
    return [weight.astype(np.float32).astype(float) for weight in (initial, initial + change)]


def dense(initial, trained, with_trained, svdvals):
    """Spectra of the trained product, if asked for, and of the delta, from the dim x dim matrices."""
    (A_0, B_0), (A, B) = initial, trained
    product = A @ B.swapaxes(-1, -2)
    delta = product - A_0 @ B_0.swapaxes(-1, -2)
    return [svdvals(matrices) for matrices in ([product, delta] if with_trained else [delta])]


def ours(initial, trained, with_trained, spectra=None):
    """The same from the factors, with the basis in `spectra` or with one of its own."""
    spectra, (A, B) = spectra or ProductSpectra(*initial), trained
    return spectra.after(A, B) if with_trained else [spectra._delta(spectra._coordinates(A - spectra.A), B)]


def methods(initial, trained, with_trained, heads):
    """Functions that compute spectra, by name; the dense ones of so many heads."""
    some = initial[:, :heads], trained[:, :heads]
    single, double = (
        [torch.from_numpy(weight).to(dtype) for weight in some] for dtype in (torch.float32, torch.float64)
    )
    numpy_values = partial(np.linalg.svd, compute_uv=False)
    return {
        "numpy, dense": partial(dense, *some, with_trained, numpy_values),
        "torch, dense": partial(dense, *double, with_trained, torch.linalg.svdvals),
        "torch, dense, float32": partial(dense, *single, with_trained, torch.linalg.svdvals),
        "ours": partial(ours, initial, trained, with_trained, ProductSpectra(*initial)),
        "ours, first of a run": partial(ours, initial, trained, with_trained),
    }


def largest_error(spectra, expected):
    """Over the heads that both have, and over all spectra."""
    errors = []
    for values, exact in zip(spectra, expected, strict=True):
        values = np.asarray(values)[: len(exact)]
        errors.append((abs(values - exact[:, : values.shape[1]]).max(-1) / exact[:, 0]).max())
    return max(errors)


def delta_flops(dim, dim_head):
    """FLOPs of our way for one head.

    Projection of A - A_0 (4 dim dim_head^2) and QR of the rest (2 less 2/3 dim_head^3), product with B and B - B_0 (6),
    half of its Gram matrix (4), and that made tridiagonal (32/3 dim_head^3).
    """
    return 16 * dim * dim_head**2 + 10 * dim_head**3


def time_case(case, x, sizes, with_trained, products, repeats, flops=np.nan):
    """Rows of one case, for `products` layers of `heads` heads."""
    heads, dim, dim_head = sizes
    some = min(heads, DENSE_HEADS)
    initial, trained = layer_factors(np.random.default_rng(0), heads, dim, dim_head)
    timings = interleaved(methods(initial, trained, with_trained, some), repeats)
    exact = timings["numpy, dense"].result
    return [
        row(
            case,
            x,
            name,
            timing,
            scale=products * (1 if name.startswith("ours") else heads / some),
            error=np.nan if timing.result is exact else largest_error(timing.result, exact),
            flops=products * heads * flops if name == "ours" else np.nan,
        )
        for name, timing in timings.items()
    ]


def measure(quick):
    """Rows; x is the width where growth is measured, else the number of heads."""
    repeats, rows = 1 if quick else 5, []
    for model, (layers, heads, dim, dim_head) in MODELS.items():
        sizes, products = (heads, dim, dim_head), 2 * layers
        rows += time_case(WHOLE.format(model), dim, sizes, True, products, repeats)
        rows += time_case(DELTA.format(model), dim, sizes, False, products, repeats, delta_flops(dim, dim_head))
    for dim in DIMS[: 2 if quick else None]:
        rows += time_case(GROWTH, dim, (1, dim, DIM_HEAD), False, 1, repeats, delta_flops(dim, DIM_HEAD))
    return [{**line, "dtype": "float64"} for line in rows]
