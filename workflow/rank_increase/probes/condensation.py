"""Condensation and rank collapse (Chen and Luo, arXiv 2510.06954): rows that align, and keys and queries that follow.

Once the outer weights W_V, W_1 and W_2 have grown, W_Q and W_K follow, under gradient flow,

    dW_Q/dt = F W_K,  dW_K/dt = F^T W_Q,  with F = -dL/d(W_Q W_K^T),

a linear system while F stays as it is, in which they become of rank one along the leading singular vectors of F. It is
compared with trained weights in a window: from the first snapshot at which all outer weights have `GROWN` times their
initial norm to the first at which W_Q and W_K have `FOLLOWED` times theirs. A step of SGD with learning rate r takes a
time of r.
"""

import numpy as np
import pandas as pd
import torch
from scipy.linalg import expm

from rank_increase.probes.matrices import row_cosines
from rank_increase.probes.measures import stable_rank

OUTER = ("W_V", "W_1", "W_2")
INNER = ("W_K", "W_Q")
GROWN = 2.0
FOLLOWED = 4.0
SHOWN = 4  # steps at which cosines are kept, evenly spaced


def cosines_frame(snapshots):
    """Rows of schema "cosines" of a run, without the columns of the run."""
    rows, last = [], snapshots.steps[-1]
    targets = [min(snapshots.steps, key=lambda step: abs(step - last * part / (SHOWN - 1))) for part in range(SHOWN)]
    for name, layer, weight in snapshots.matrices:
        for step in sorted(set(targets)):
            for head, cosines in enumerate(row_cosines(snapshots.weight(step, weight))):
                order = np.argsort(np.linalg.eigh(cosines)[1][:, -1])
                shown = cosines[order][:, order].round(3)
                rows.append((step, layer, head, name, shown.ravel()))
    return pd.DataFrame(rows, columns=["step", "layer", "head", "weight", "cosines"])


def window(snapshots, layer=0):
    """Steps of the snapshots in the window of a layer; a list, empty if it does not open or close."""

    def grown(step, names, times):
        found = [(snapshots.weight(step, f"layer_{layer}.{name}"), f"layer_{layer}.{name}") for name in names]
        sizes = [np.linalg.norm(weight) / np.linalg.norm(snapshots.weight(0, name)) for weight, name in found]
        return min(sizes) >= times

    begin = next((step for step in snapshots.steps if grown(step, OUTER, GROWN)), None)
    end = next((step for step in snapshots.steps if grown(step, INNER, FOLLOWED)), None)
    return [step for step in snapshots.steps if begin <= step <= end] if None not in (begin, end) else []


def driving_matrix(network, step, layer=0):
    """F = -dL/d(W_Q W_K^T) at a step, from all training samples; an array of shape (dim, dim).

    With W_Q W_K^T in the place of W_Q and the identity in that of W_K, the network computes the same, and its gradient
    by W_Q is that by the product.
    """
    weights = network.weights(step)
    keys, queries = f"layer_{layer}.W_K", f"layer_{layer}.W_Q"
    product = weights[queries] @ weights[keys].transpose(-1, -2)
    moved = weights | {queries: product, keys: torch.eye(product.shape[-1], dtype=product.dtype)[None]}
    return -network.gradient(moved)[queries][0].numpy()


def key_query_frame(snapshots, network, learning_rate):
    """Rows of schema "key_query" of a run, without the columns of the run, or None if there is no window.

    Parameters
    ----------
    snapshots : training.snapshots.Snapshots
        Of a network with one layer and one head, trained by SGD.
    network : probes.remade.RemadeNetwork
    learning_rate : float
        Of every step in the window.
    """
    steps = window(snapshots)
    if len(steps) < 2:
        return None
    names = {name: f"layer_0.{name}" for name in INNER}
    start = {name: snapshots.weight(steps[0], weight)[0] for name, weight in names.items()}
    initial = {name: np.linalg.norm(snapshots.weight(0, weight)) for name, weight in names.items()}
    driving = {step: driving_matrix(network, step) for step in steps}
    predicted, rows = {"measured": start, "frozen": start}, []
    for before, step in zip(steps, steps[1:], strict=False):
        measured = (driving[before] + driving[step]) / 2
        time = learning_rate * (step - before)
        predicted = {
            "measured": _moved(predicted["measured"], measured, time),
            "frozen": _moved(predicted["frozen"], driving[steps[0]], time),
        }
        values = np.linalg.svd(driving[step], compute_uv=False)
        for name, weight in names.items():
            trained = snapshots.weight(step, weight)[0]
            for system, weights in predicted.items():
                one = weights[name]
                sizes = np.linalg.norm(trained), np.linalg.norm(one)
                cosine = (trained * one).sum() / (sizes[0] * sizes[1])
                ranks = [stable_rank(np.linalg.svd(matrix, compute_uv=False)) for matrix in (trained, one)]
                relative = [size / initial[name] for size in sizes]
                rows.append((step, 0, name, system, cosine, *relative, *ranks, values[0] / values[1]))
    columns = ["step", "layer", "weight", "system", "cosine", "relative_norm", "predicted_norm"]
    return pd.DataFrame(rows, columns=[*columns, "stable_rank", "predicted_rank", "gap"])


def _moved(weights, F, time):
    """W_K and W_Q after a time in the linear system with this F."""
    dim = len(F)
    both = expm(time * np.block([[np.zeros((dim, dim)), F.T], [F, np.zeros((dim, dim))]]))
    keys, queries = np.split(both @ np.concatenate([weights["W_K"], weights["W_Q"]]), 2)
    return {"W_K": keys, "W_Q": queries}
