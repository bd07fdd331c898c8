"""The vision transformer of the paper (section 5), with the four attention matrices of every layer kept apart.

nn.Linear computes x @ weight.T, the paper x @ W: a stored weight is the transpose of the paper's matrix. Only
`VisionTransformer.attention_weights` knows this; what it returns is in the paper's orientation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rank_increase.notation import WEIGHTS


class Attention(nn.Module):
    """Multi-head softmax attention, its matrices without biases, as in eq. (1) of the paper."""

    def __init__(self, dim, heads, dim_head):
        super().__init__()
        self.heads = heads
        self.W_K = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_Q = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_V = nn.Linear(dim, heads * dim_head, bias=False)
        self.W_O = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x, first_only=False):
        """Output of shape (batch, tokens, dim), or (batch, 1, dim) for the first token's query alone."""
        if first_only:
            q = self.W_Q(x[:, :1])
            k, v = F.linear(x, torch.cat([self.W_K.weight, self.W_V.weight])).chunk(2, dim=-1)
        else:  # one product of three times the width is faster than three
            weight = torch.cat([self.W_Q.weight, self.W_K.weight, self.W_V.weight])
            q, k, v = F.linear(x, weight).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)
        )  # (B, heads, T, dim_head)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.W_O(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to what came in."""

    def __init__(self, dim, heads, dim_head, mlp_dim):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dim_head)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, x, first_only=False):
        """Tokens after this layer, (batch, tokens, dim); with `first_only` the first token, (batch, 1, dim)."""
        attended = self.attention(self.attention_norm(x), first_only)
        x = (x[:, :1] if first_only else x) + attended
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """A ViT [DBK+20] that classifies by a class token: pre-LayerNorm, GELU, learned positions, no dropout.

    Parameters
    ----------
    image_size : int
        Side of the square images, a multiple of `patch_size`.
    channels, patch_size, dim, depth, heads, dim_head, mlp_dim, classes : int
        heads * dim_head need not be dim: the paper's CIFAR model has 8 * 128 and 512.

    Raises
    ------
    ValueError
        If the patches do not fill the image.
    """

    def __init__(self, *, image_size, channels, patch_size, dim, depth, heads, dim_head, mlp_dim, classes):
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not fill images of {image_size}: choose a divisor.")
        self.patch_size = patch_size
        self.patch_embedding = nn.Linear(channels * patch_size**2, dim)
        # The paper does not say; 0.02 is what [DBK+20] start positions from.
        self.class_token = nn.Parameter(0.02 * torch.randn(dim))
        self.position = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        """Class logits, shape (batch, classes), of images of shape (batch, channels, height, width)."""
        size = self.patch_size
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, C, rows, size, columns, size)
        tokens = self.patch_embedding(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))  # (B, T - 1, dim)
        x = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1) + self.position  # (B, T, dim)
        for block in self.blocks[:-1]:
            x = block(x)
        # The classifier reads the class token alone, so the last layer computes no other: same logits, same gradients.
        x = self.blocks[-1](x, first_only=True)
        return self.head(self.norm(x[:, 0]))

    def attention_weights(self):
        """W_K, W_Q, W_V, W_O of every layer as the paper writes them: a list of dicts of float32 CPU tensors.

        Each tensor has shape (heads, dim, dim_head) and belongs to the forward pass by x W_Q W_K^T x^T / sqrt(dim_head)
        for the attention logits of a head, and by x W_V W_O^T for what it adds to the tokens that attend to x.
        """
        layers = []
        for block in self.blocks:
            attention, layer = block.attention, {}
            for name in WEIGHTS:
                weight = getattr(attention, name).weight.detach().float().cpu()
                # K, Q, V: (heads * dim_head, dim), heads in rows. O: (dim, heads * dim_head), heads in columns.
                weight = weight if name == "W_O" else weight.T
                by_head = weight.unflatten(1, (attention.heads, -1)).transpose(0, 1)
                layer[name] = by_head.clone(memory_format=torch.contiguous_format)
            layers.append(layer)
        return layers


@torch.no_grad()
def scale_initial_weights(model, scale):
    """Multiply the initial values of all layers except the token embedding by `scale`, in place.

    The paper varies "the initialization scale of all layers by multiplying their initial values by a scale factor (we
    fix the scale of the initial token mapper)". Layers are the linear ones, with their biases: attention, MLP and
    classifier. The token mapper is what makes tokens of an image: patch embedding, class token and positions. LayerNorm
    keeps its gain of 1 and bias of 0, which are no random initial values: scaled as well, a gain would act as a second
    factor `scale` on the layer behind it.

    Parameters
    ----------
    model : VisionTransformer
    scale : float
        The alpha of a run; 1 leaves torch's default initial values as they are.
    """
    for layer in [*model.blocks.modules(), model.head]:
        if isinstance(layer, nn.Linear):
            for parameter in layer.parameters():
                parameter *= scale
