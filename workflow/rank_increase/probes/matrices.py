"""Single matrices of a network, such as W_K of every head: sizes, ranks, and how far their rows point one way."""

import numpy as np
import pandas as pd

from rank_increase.probes.measures import effective_rank, stable_rank


def row_cosines(matrices):
    """|cos| of each two rows; 0 for a row of zeros.

    Parameters
    ----------
    matrices : numpy.ndarray
        Shape (..., rows, columns).

    Returns
    -------
    numpy.ndarray
        Shape (..., rows, rows).
    """
    norms = np.linalg.norm(matrices, axis=-1, keepdims=True)
    unit = np.divide(matrices, norms, out=np.zeros_like(matrices), where=norms > 0)
    return np.abs(unit @ unit.swapaxes(-1, -2))


def mean_row_cosine(matrices):
    """Mean |cos| of two different rows, of those that are not zero; NaN if there are no two; shape (...)."""
    cosines = row_cosines(matrices)
    own = cosines.diagonal(axis1=-2, axis2=-1)
    count = (own > 0).sum(-1)  # |cos| of a row with itself is 1
    with np.errstate(invalid="ignore"):
        return (cosines.sum((-2, -1)) - own.sum(-1)) / np.where(count > 1, count * (count - 1), np.nan)


def matrices_frame(snapshots):
    """Rows of schema "matrices" of a run, without the columns `network`, `alpha`, `seed`.

    Parameters
    ----------
    snapshots : training.snapshots.Snapshots
    """
    frames = []
    for name, layer, weight in snapshots.matrices:
        initial = snapshots.weight(0, weight)
        size = np.linalg.norm(initial, axis=(-2, -1))
        for step in snapshots.steps:
            trained = snapshots.weight(step, weight)
            for matrix, values in {"trained": trained, "delta": trained - initial}.items():
                singular = np.linalg.svd(values, compute_uv=False)
                frames.append(
                    pd.DataFrame(
                        {
                            "step": step,
                            "epoch": snapshots.epochs[step],
                            "layer": layer,
                            "head": range(len(values)),
                            "weight": name,
                            "matrix": matrix,
                            "relative_norm": np.linalg.norm(values, axis=(-2, -1)) / size,
                            "stable_rank": stable_rank(singular),
                            "effective_rank": effective_rank(singular),
                            "row_cosine": mean_row_cosine(values),
                            "singular_values": list(singular),
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True) if frames else None
