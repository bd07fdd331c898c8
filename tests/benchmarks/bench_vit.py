"""A training step of vision transformers of the paper's shape: ours, vit-pytorch's and timm's, float32, same images."""

from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch.utils.flop_counter import FlopCounterMode
from vit_pytorch import ViT as PytorchViT

from measuring import interleaved, row
from rank_increase.networks.vit import VisionTransformer

CASE = "an image, forward, backward and Adam"
PAPER_DIM = 512
DIMS = {64: (128, 7), 128: (128, 5), 256: (128, 3), PAPER_DIM: (64, 3)}  # width -> images in a step, repeats
SIDE, PATCH, CLASSES, DEPTH, HEADS = 32, 4, 10, 6, 8


def timm_attention(dim_head):
    """timm's attention with heads of a width of its own, which its transformer cannot be told."""

    class WideAttention(Attention):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, attn_head_dim=dim_head, **options)

    return WideAttention


def models(dim):
    """Models with the paper's proportions: heads of dim / 4, an MLP of dim."""
    ours = {"patch_size": PATCH, "dim": dim, "depth": DEPTH, "heads": HEADS, "dim_head": dim // 4, "mlp_dim": dim}
    theirs = {"img_size": SIDE, "num_classes": CLASSES, "patch_size": PATCH, "embed_dim": dim, "depth": DEPTH}
    theirs |= {"num_heads": HEADS, "mlp_ratio": 1, "qkv_bias": False, "attn_layer": timm_attention(dim // 4)}
    return {
        "ours": VisionTransformer((SIDE, SIDE, 3), CLASSES, **ours),
        "vit-pytorch": PytorchViT(image_size=SIDE, num_classes=CLASSES, **ours),
        "timm": TimmViT(**theirs),
    }


def flops_of_image(model):
    """FLOPs of an image in forward and backward passes, by torch's count of matrix products."""
    copied = deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        copied(torch.zeros(1, 3, SIDE, SIDE, device="meta")).sum().backward()
    return counter.get_total_flops()


def training_step(model, images, labels):
    """A function that takes one step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def measure(quick):
    """Rows, x being the width."""
    rows = []
    for dim, (batch, repeats) in list(DIMS.items())[: 2 if quick else None]:
        torch.manual_seed(0)
        images, labels = torch.randn(batch, 3, SIDE, SIDE), torch.randint(CLASSES, (batch,))
        candidates = models(dim)
        flops = flops_of_image(candidates["ours"])
        steps = {name: training_step(model, images, labels) for name, model in candidates.items()}
        timings = interleaved(steps, 1 if quick else repeats)
        of_step = partial(row, CASE, dim, scale=1 / batch, flops=flops)
        rows += [of_step(name, timing) for name, timing in timings.items()]
    return [{**line, "dtype": "float32"} for line in rows]
