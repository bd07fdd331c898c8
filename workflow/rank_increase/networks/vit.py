"""The vision transformer of the paper (section 5)."""

from typing import Literal

import torch
from torch import nn

from rank_increase.networks.attention import Attention, AttentionModel, without_autocast
from rank_increase.options import Count, NotNegative
from rank_increase.registry import register


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with a residual connection."""

    def __init__(self, dim, heads, dim_head, mlp_dim, causal=False):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dim_head, causal)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, x, first_only=False):
        """Tokens after this layer, (batch, tokens, dim); with `first_only` the first token, (batch, 1, dim)."""
        attended = self.attention(self.attention_norm(x), first_only)
        x = (x[:, :1] if first_only else x) + attended
        return x + self.mlp(self.mlp_norm(x))


@register.model("vit")
class VisionTransformer(AttentionModel):
    """A ViT [DBK+20] that classifies by a class token: pre-LayerNorm, GELU, learned positions, no dropout.

    Under autocast, the residual stream is bfloat16; the norms, and the classifier with its logits, are float32.

    Paper: CIFAR 4, 512, 6, 8, 128, 512 (heads * dim_head need not be dim); ImageNet 16, 768, 12, 12, 64, 3072.

    Parameters
    ----------
    shape : tuple of int
        Shape of an image: height, width (equal, a multiple of `patch_size`) and channels.
    classes : int
        Number of classes.
    patch_size : int
        Side of a patch, in pixels.
    dim : int
        Features of a token.
    depth : int
        Layers.
    heads : int
        Attention heads of a layer.
    dim_head : int
        Features of a head.
    mlp_dim : int
        Features between the two layers of an MLP.
    position_std : float
        Standard deviation of the initial positions and class token. The paper does not say; [DBK+20] take 0.02, some
        other implementations 1.
    pooling : str
        What is classified: "class_token" (paper), or the "mean" of all tokens after the last layer, without a class
        token. That departs from the paper; 64 tokens instead of 65 fit the tiles of a GPU.

    Raises
    ------
    ValueError
        If samples are not square images, or patches do not fill them.
    """

    def __init__(
        self,
        shape,
        classes,
        *,
        patch_size: Count,
        dim: Count,
        depth: Count,
        heads: Count,
        dim_head: Count,
        mlp_dim: Count,
        position_std: NotNegative = 0.02,
        pooling: Literal["class_token", "mean"] = "class_token",
    ):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"samples of shape {tuple(shape)} are no images, as this model needs them.")
        side, width, channels = shape
        if side != width:
            raise ValueError(f"images of {side} x {width} pixels are not square, as this model needs them.")
        if side % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not fill images of {side}: choose a divisor.")
        self.patch_size = patch_size
        self.patch_embedding = nn.Linear(channels * patch_size**2, dim)
        self.class_token = nn.Parameter(position_std * torch.randn(dim)) if pooling == "class_token" else None
        tokens = (side // patch_size) ** 2 + (pooling == "class_token")
        self.position = nn.Parameter(position_std * torch.randn(tokens, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        """Class logits, shape (batch, classes), of images of shape (batch, channels, height, width)."""
        size = self.patch_size
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, C, rows, size, columns, size)
        tokens = self.patch_embedding(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))  # (B, T - 1, dim)
        if self.class_token is None:
            x = tokens + self.position
        else:
            x = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1) + self.position  # (B, T, dim)
        # Under autocast, tokens are bfloat16 and positions float32: without this, so would be all sums of the residual
        # stream, which are half of what a GPU reads and writes.
        x = x.to(tokens.dtype)
        for block in self.blocks[:-1]:
            x = block(x)
        if self.class_token is None:
            x = self.blocks[-1](x).mean(dim=1, dtype=self.head.weight.dtype)
        else:  # the classifier reads only the class token: the last layer computes no other, for the same gradients
            x = self.blocks[-1](x, first_only=True)[:, 0]
        with without_autocast(x.device):
            return self.head(self.norm(x.to(self.head.weight.dtype)))
