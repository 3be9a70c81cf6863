"""Hugging Face's networks, small and random: as they are, or behind one tensor in and one out.

`transformers` is asked for when a network is built, not when the zoo is listed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from tests.zoo.network import TOKENS, Network

WIDTH = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
WORDS = {"vocab_size": TOKENS, "max_position_embeddings": 32}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MLP = {"intermediate_size": 32}


class OneOutput(nn.Module):
    """A network that returns one tensor of its outputs."""

    def __init__(self, network: nn.Module, output: str = "logits") -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = getattr(self.network(inputs), self.output)
        return out


class Pooled(nn.Module):
    """A classifier over the mean of an encoder's last states."""

    def __init__(self, network: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.network(inputs).last_hidden_state.mean(1))
        return out


@dataclass(frozen=True, slots=True)
class Face:
    """A class of `transformers` and the settings of a small network of it."""

    model: str
    config: str
    settings: dict[str, Any]

    def __call__(self) -> nn.Module:
        """The network alone."""
        library = importlib.import_module("transformers")
        network: nn.Module = getattr(library, self.model)(getattr(library, self.config)(**self.settings))
        return network

    def one_output(self) -> nn.Module:
        return OneOutput(self())


def face(model: str, config: str, *settings: dict[str, Any], **more: Any) -> Face:
    """A class, its configuration, and settings of which later ones count."""
    merged: dict[str, Any] = {}
    for part in (*settings, more):
        merged |= part
    return Face(model, config, merged)


def fed(network: Network, made: Face, name: str) -> Network:
    """The network as it is, fed with mappings that call its inputs so."""
    return replace(network, build=made, fed=name)
