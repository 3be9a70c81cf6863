"""A causal pre-norm decoder whose layers are plain modules, so that MLP widths and the run of blocks can grow.

Blocks are equal modules in a ModuleList that read the residual stream alone: repeated, they make a deeper decoder.
Shapes: B sequences, T tokens, H heads, S values in a head, D values of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROTARY_BASE = 10_000.0
EMBEDDING_DEVIATION = 0.02
"""Of tokens and positions (Radford et al. 2019); torch's 1.0 would drown what the first blocks add."""
BRANCH_ENDS = ("attention.out.weight", "mlp.fc2.weight", "mlp.down.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderStyle:
    """What the blocks and their surroundings are made of."""

    size: int = 64
    """Values of the residual stream, divided among the heads."""
    heads: int = 4
    positions: Literal["learnt", "rotary"] = "learnt"
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["plain", "gated"] = "plain"
    """`fc2(gelu(fc1(x)))` with biases, or `down(silu(gate(x)) * up(x))` without."""
    is_tied: bool = False
    """Whether token embedding and output share one weight."""

    def make_norm(self) -> nn.Module:
        """A norm of the residual stream."""
        return nn.LayerNorm(self.size) if self.norm == "layer" else nn.RMSNorm(self.size)


class Rotary(nn.Module):
    """Turns the two halves of queries and keys against each other by an angle that grows with the position.

    The angles are no state: they follow from the sizes.
    """

    cosines: Tensor  # [T, S / 2], like the sines
    sines: Tensor

    def __init__(self, context: int, head_size: int) -> None:
        super().__init__()
        speeds = ROTARY_BASE ** -(torch.arange(0, head_size, 2) / head_size)
        angles = torch.outer(torch.arange(context), speeds)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, x_BHTS: Tensor) -> Tensor:
        tokens = x_BHTS.shape[-2]
        cosines, sines = self.cosines[:tokens], self.sines[:tokens]
        first, second = x_BHTS.float().chunk(2, dim=-1)
        turned = torch.cat((first * cosines - second * sines, first * sines + second * cosines), dim=-1)
        return turned.type_as(x_BHTS)


class CausalAttention(nn.Module):
    """Self-attention over earlier tokens; four separate projections."""

    def __init__(self, style: DecoderStyle, context: int, dropout: float) -> None:
        super().__init__()
        size = style.size
        self.head_size = size // style.heads
        self.dropout = dropout
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.rotary = Rotary(context, self.head_size) if style.positions == "rotary" else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        query_BHTS, key_BHTS, value_BHTS = (
            layer(x_BTD).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.rotary is not None:
            query_BHTS, key_BHTS = self.rotary(query_BHTS), self.rotary(key_BHTS)
        dropout = self.dropout if self.training else 0.0
        mixed_BHTS = F.scaled_dot_product_attention(query_BHTS, key_BHTS, value_BHTS, dropout_p=dropout, is_causal=True)
        result: Tensor = self.out(mixed_BHTS.transpose(1, 2).flatten(2))
        return result


class PlainMlp(nn.Sequential):
    """Two linear layers with GELU between."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.add_module("fc1", nn.Linear(size, width))
        self.add_module("act", nn.GELU())
        self.add_module("fc2", nn.Linear(width, size))


class GatedMlp(nn.Module):
    """Two linear layers side by side, one of them the other's gate, and one back."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(size, width, bias=False)
        self.up = nn.Linear(size, width, bias=False)
        self.down = nn.Linear(width, size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        result: Tensor = self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        return result


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside a residual stream."""

    def __init__(self, style: DecoderStyle, context: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = style.make_norm()
        self.attention = CausalAttention(style, context, dropout)
        self.norm2 = style.make_norm()
        self.mlp = PlainMlp(style.size, width) if style.mlp == "plain" else GatedMlp(style.size, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attention(self.norm1(x_BTD)))
        result: Tensor = x_BTD + self.drop(self.mlp(self.norm2(x_BTD)))
        return result


class CausalTransformer(nn.Module):
    """Bytes or tokens in, logits of the next one out; one block for each MLP width, at most `context` tokens."""

    positions: nn.Parameter | None

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        widths: tuple[int, ...],
        dropout: float,
        style: DecoderStyle = DecoderStyle(),
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, style.size)
        self.positions = nn.Parameter(torch.zeros(context, style.size)) if style.positions == "learnt" else None
        self.blocks = nn.ModuleList(Block(style, context, width, dropout) for width in widths)
        self.norm = style.make_norm()
        self.head = nn.Linear(style.size, vocabulary, bias=False)
        if style.is_tied:
            self.head.weight = self.tokens.weight
        self._begin(len(widths))

    @torch.no_grad()
    def _begin(self, depth: int) -> None:
        """Draws the initial weights: matrices keep the size of what they read, no bias, small embeddings.

        The ends of the 2 x depth branches are smaller, so that the residual stream begins at one size at any depth.
        """
        for name, parameter in self.named_parameters():
            if name in ("tokens.weight", "positions"):
                parameter.normal_(std=EMBEDDING_DEVIATION)
            elif parameter.ndim == 2:
                share = (2 * depth) ** -0.5 if name.endswith(BRANCH_ENDS) else 1.0
                parameter.normal_(std=share * parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits: Tensor = self.head(self.norm(x_BTD))
        return logits
