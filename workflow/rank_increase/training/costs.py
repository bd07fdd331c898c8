"""What a model costs: operations, parameters and memory, counted without computing (torch's meta device)."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from rank_increase.data.batches import meta_batch
from rank_increase.registry import find


def model_cost(model, samples, extensions=()):
    """The cost of a model.

    A FLOP is a floating point operation; the product of (m, k) and (k, n) matrices takes 2 m k n.

    Parameters
    ----------
    model : dict
        Its `family` and options.
    samples : dict
        With their `kind` and `shape` and the number of `classes`.
    extensions : tuple of str
        Python files that register further models.

    Returns
    -------
    dict
        parameters
            Number of parameters.
        forward, training
            FLOPs of one sample in the forward pass, and in forward and backward passes.
        products
            A list of (heads, rank of the product, largest rank of its change).
        weights
            Number of values in a snapshot.
        activations
            Bytes that a sample keeps for the backward pass in bfloat16, if nothing is fused or computed twice; compiled
            code keeps less.
    """
    options = {name: value for name, value in model.items() if name != "family"}
    with torch.device("meta"):
        built = find("model", model["family"], extensions).load()(samples["shape"], samples["classes"], **options)
        batch = meta_batch(samples["kind"], samples["shape"])
    with FlopCounterMode(display=False) as forward:
        output = built(batch)
    with FlopCounterMode(display=False) as backward:
        output.float().sum().backward()
    weights = {name: weight.shape for name, weight in built.weights().items()}
    return {
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "forward": forward.get_total_flops(),
        "training": forward.get_total_flops() + backward.get_total_flops(),
        "products": [(weights[a][0], *_ranks(*weights[a][1:])) for _, _, a, _ in built.products()],
        "weights": sum(shape.numel() for shape in weights.values()),
        "activations": _kept_bytes(built, batch),
    }


def _ranks(dim, dim_head):
    return min(dim, dim_head), min(dim, 2 * dim_head)


def _kept_bytes(model, batch):
    """Bytes that autograd keeps of a forward pass in bfloat16, without parameters; views of a tensor count once."""
    model, batch = model.to(torch.bfloat16), batch.to(torch.bfloat16) if batch.is_floating_point() else batch
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
    del output
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
