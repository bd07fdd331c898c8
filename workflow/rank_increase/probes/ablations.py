"""What a network of patterns still knows with parts of its weights taken away, and the ranks of its gradients.

After "Learning on Transformers is Provable Low-Rank and Sparse" (Li et al., arXiv 2406.17167).
"""

import numpy as np
import pandas as pd
import torch

SHARES = (0.2, 0.4, 0.6, 0.8)  # of the neurons that are pruned
DRAWS = 10  # of neurons that are pruned at random
GRADIENTS = 5  # steps at which gradients are taken, the first and others evenly spaced in log(step)


def ablations_frame(snapshots, network, seed, classes, patterns):
    """Rows of schema "ablations" of a run, without the columns of the run.

    Parameters
    ----------
    snapshots : training.snapshots.Snapshots
    network : probes.remade.RemadeNetwork
    seed : int
        Of the neurons that are pruned at random.
    classes : int
    patterns : int or None
        With a label.
    """
    before, after = network.weights(0), network.weights(snapshots.steps[-1])
    rows = [("whole", 0.0, network.accuracy(after))]
    U, S, V = {}, {}, {}
    for name in after:
        U[name], S[name], V[name] = torch.linalg.svd(after[name] - before[name], full_matrices=False)
    for rank in range(1, max(classes, patterns or 0) + 1):
        kept = {n: before[n] + U[n][..., :rank] * S[n][..., None, :rank] @ V[n][..., :rank, :] for n in after}
        rows.append(("truncated", rank, network.accuracy(kept)))
    last = max(int(name.split(".")[0].removeprefix("layer_")) for name in after)
    out, values = f"layer_{last}.W_O", f"layer_{last}.W_V"
    order = after[out][0].norm(dim=1).argsort()
    generator = torch.Generator().manual_seed(seed)
    for share in SHARES:
        count = round(share * len(order))
        draws = [torch.randperm(len(order), generator=generator)[:count] for _ in range(DRAWS)]
        for ablation, chosen in {"smallest": [order[:count]], "largest": [order[-count:]], "random": draws}.items():
            found = [network.accuracy(after | {out: _without(after[out], 1, neurons)}) for neurons in chosen]
            rows.append((ablation, share, np.mean(found)))
    heads = after[values].shape[0]
    for head in range(heads if heads > 1 else 0):
        rows.append(("head", head, network.accuracy(after | {values: _without(after[values], 0, [head])})))
    frame = pd.DataFrame(rows, columns=["ablation", "amount", "accuracy"])
    return frame.assign(classes=classes, patterns=pd.array([patterns] * len(frame), dtype="Int32"))


def _without(weight, dim, chosen):
    """A copy of a weight with these slices along a dimension set to zero."""
    return weight.index_fill(dim, torch.as_tensor(chosen), 0.0)


def gradients_frame(snapshots, network, batch_size):
    """Rows of schema "gradients" of a run, without the columns of the run: of a batch, and of all training samples."""
    rows, steps = [], [step for step in snapshots.steps if step]
    targets = np.geomspace(steps[0], steps[-1], GRADIENTS - 1)
    shown = {0, *(min(steps, key=lambda step: abs(np.log(step / target))) for target in targets)}
    for step in sorted(shown):
        weights = network.weights(step)
        for count in (batch_size, None):
            for name, gradient in network.gradient(weights, count).items():
                layer, weight = name.split(".")
                for head, values in enumerate(np.linalg.svd(gradient.numpy(), compute_uv=False)):
                    rows.append((step, count or 0, int(layer.removeprefix("layer_")), head, weight, values))
    columns = ["step", "samples", "layer", "head", "weight", "singular_values"]
    return pd.DataFrame(rows, columns=columns)
