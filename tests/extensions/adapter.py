"""An adapter: OPT, whose query, key and value have weights of their own."""

from rank_increase.networks.adapters import attention, layered
from rank_increase.options import Count
from rank_increase.registry import register


@register.adapter("opt")
def opt(tensors, *, heads: Count):
    """OPT as in transformers.

    Parameters
    ----------
    tensors : Mapping of str to numpy.ndarray
        Those of a checkpoint by name; one is read when it is asked for.
    heads : int
        Attention heads of a layer.
    """
    names = (f"decoder.layers.*.self_attn.{part}_proj.weight" for part in ("q", "k", "v", "out"))
    # nn.Linear computes x @ weight.T; `attention` wants (dim, features) of each.
    return [attention(q.T, k.T, v.T, out, heads) for q, k, v, out in layered(tensors, *names)]
