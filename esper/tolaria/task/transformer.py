"""A small causal transformer whose layers are plain Linear modules, so that heads and MLP widths can grow.

Shapes: B sequences, T tokens, H heads, S values in a head, D values of the residual stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 16
HEADS = 4


class CausalAttention(nn.Module):
    """Self-attention over earlier tokens; four separate projections."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.head_size = size // heads
        self.dropout = dropout
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        query_BHTS, key_BHTS, value_BHTS = (
            layer(x_BTD).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed_BHTS = F.scaled_dot_product_attention(query_BHTS, key_BHTS, value_BHTS, dropout_p=dropout, is_causal=True)
        result: Tensor = self.out(mixed_BHTS.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and beside a residual stream."""

    def __init__(self, size: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.attention = CausalAttention(size, heads, dropout)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(size, width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(width, size))
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attention(self.norm1(x_BTD)))
        result: Tensor = x_BTD + self.drop(self.mlp(self.norm2(x_BTD)))
        return result


class CausalTransformer(nn.Module):
    """Bytes or tokens in, logits of the next one out; positions are learned."""

    def __init__(self, *, vocabulary: int, context: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        size = HEADS * HEAD_SIZE
        self.tokens = nn.Embedding(vocabulary, size)
        self.positions = nn.Parameter(torch.zeros(context, size))
        self.blocks = nn.Sequential(*(Block(size, HEADS, width, dropout) for width in widths))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, vocabulary, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions[: tokens_BT.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x_BTD)))
        return logits
