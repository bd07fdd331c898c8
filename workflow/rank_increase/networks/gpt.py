"""A language model with the attention of our vision transformer."""

import torch
from torch import nn

from rank_increase.networks.attention import AttentionModel
from rank_increase.networks.vit import Block
from rank_increase.options import Count, NotNegative
from rank_increase.registry import register


@register.model("gpt")
class GPT(AttentionModel):
    """A decoder like GPT-2 [RWC+19]: pre-LayerNorm, GELU, learned positions, causal attention, no dropout.

    Three things differ from GPT-2: as in the vision transformer, W_K, W_Q, W_V, W_O have no biases; all linear layers
    start with torch's default, where GPT-2 makes those that write to the residual stream smaller by sqrt(2 depth); and
    the output has weights of its own, not those of the embedding, which no init scale changes.

    GPT-2 small: 768, 12, 12, 64, 3072, on tokens of 50,257 kinds in windows of 1024.

    Parameters
    ----------
    shape : tuple of int
        Shape of a sample: (length,), of tokens.
    classes : int
        Size of the vocabulary.
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
    embedding_std : float
        Standard deviation of the initial embeddings of tokens and positions.

    Raises
    ------
    ValueError
        If samples are not sequences.
    """

    def __init__(
        self,
        shape,
        classes,
        *,
        dim: Count,
        depth: Count,
        heads: Count,
        dim_head: Count,
        mlp_dim: Count,
        embedding_std: NotNegative = 0.02,
    ):
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"samples of shape {tuple(shape)} are no sequences of tokens, as this model needs them.")
        self.embedding = nn.Embedding.from_pretrained(embedding_std * torch.randn(classes, dim), freeze=False)
        self.position = nn.Parameter(embedding_std * torch.randn(shape[0], dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes, bias=False)

    def forward(self, tokens):
        """Logits of the next token at each position, (batch, length, classes), of tokens (batch, length), int64."""
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
