"""Networks over sequences in plain torch: recurrent ones, attention, mixers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.network import CLASSES, TEXT, TOKENS, Network, of_family
from tests.zoo.parts import WIDTH, Pooled

LENGTH, CHANNELS = 6, 4


class Recurrent(nn.Module):
    """A recurrent layer's last state, then a head."""

    def __init__(self, layer: type[nn.GRU] | type[nn.LSTM], head: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = layer(CHANNELS, WIDTH, batch_first=True), head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def gru() -> nn.Module:
    return Recurrent(nn.GRU, nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)))


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM, nn.Linear(WIDTH, CLASSES))


class Block(nn.Module):
    """Attention, then an MLP, each behind its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def attention() -> nn.Module:
    return Pooled(nn.Sequential(nn.Linear(CHANNELS, WIDTH), nn.Sequential(Block(), Block())))


class MixerBlock(nn.Module):
    """Mixes positions, then features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.positions = nn.Sequential(nn.Linear(LENGTH, 8), nn.GELU(), nn.Linear(8, LENGTH))
        self.features = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.features(self.norm2(x))
        return out


def mixer() -> nn.Module:
    return Pooled(nn.Sequential(nn.Linear(CHANNELS, WIDTH), nn.Sequential(MixerBlock(), MixerBlock())))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
    return Pooled(
        nn.Sequential(nn.Linear(CHANNELS, WIDTH), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    )


class Decoder(nn.Module):
    """A small language model as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([CausalBlock(), CausalBlock()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class CausalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.gelu, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(self.gelu(self.c_fc(self.ln_2(x))))
        return out


NETWORKS = of_family(
    "sequences",
    [
        Network(name="GRU and MLP", build=gru, shape=(LENGTH, CHANNELS)),
        Network(name="LSTM and head", build=lstm, shape=(LENGTH, CHANNELS)),
        Network(name="MultiheadAttention blocks", build=attention, shape=(LENGTH, CHANNELS)),
        Network(name="MLP-Mixer", build=mixer, shape=(LENGTH, CHANNELS)),
        Network(name="nn.TransformerEncoder", build=encoder, shape=(LENGTH, CHANNELS)),
        Network(name="decoder of one's own", build=Decoder, shape=(LENGTH,), task=TEXT, reads_tokens=True),
    ],
)
