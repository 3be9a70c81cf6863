"""Plain multilayer perceptrons: norms between, weights in other forms, other types, shared and frozen parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from tests.zoo.network import CLASSES, TEXT, TOKENS, Network, of_family
from tests.zoo.parts import FEATURES, WIDTH, Residual, mlp


class ModuleListLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class ReusedReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(self.relu(self.fc2(self.relu(self.fc1(x)))))
        return out


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (
            nn.Linear(FEATURES, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(2):
            x = torch.relu(self.middle(x))
        out: Tensor = self.last(x)
        return out


class TiedByCall(nn.Module):
    """The last layer's product is made with the first one's weight, transposed, by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        out: Tensor = self.head(F.linear(x, self.fc1.weight.t()))
        return out


class TiedHead(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.body = Residual(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.tokens(tokens)))
        return out


def with_weights(form: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """An MLP whose linear layers hold their weights in another form."""
    host = mlp()
    for index, layer in enumerate(host):
        if isinstance(layer, nn.Linear):
            host[index] = form(layer)
    return host


def old_weight_norm(layer: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weight_norm(layer)


def frozen_trunk() -> nn.Module:
    host = mlp(widths=(WIDTH, WIDTH, WIDTH))
    host[0].requires_grad_(False)
    return host


def of_type(dtype: torch.dtype) -> nn.Module:
    return mlp().to(dtype)


FORMS = {
    "weight_norm, new": parametrizations.weight_norm,
    "weight_norm, old": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


def vectors(name: str, build: Callable[[], nn.Module], **fields: Any) -> Network:
    return Network(name=name, build=build, shape=(FEATURES,), **fields)


def noisy() -> nn.Module:
    return mlp(partial(nn.BatchNorm1d, WIDTH), partial(nn.Dropout, 0.1))


NETWORKS = of_family(
    "MLPs",
    [
        vectors("MLP", mlp),
        vectors("ModuleList loop", ModuleListLoop),
        vectors("reused ReLU", ReusedReLU),
        vectors("a module used twice", UsedTwice),
        vectors("BatchNorm and dropout", noisy),
        vectors("LayerNorm between", partial(mlp, partial(nn.LayerNorm, WIDTH))),
        vectors("RMSNorm between", partial(mlp, partial(nn.RMSNorm, WIDTH))),
        vectors("GroupNorm between", partial(mlp, partial(nn.GroupNorm, 4, WIDTH))),
        *(vectors(name, partial(with_weights, form)) for name, form in FORMS.items()),
        vectors("weights tied by F.linear", TiedByCall),
        vectors("frozen trunk", frozen_trunk),
        vectors("bfloat16", partial(of_type, torch.bfloat16), dtype=torch.bfloat16),
        vectors("float64", partial(of_type, torch.float64), dtype=torch.float64),
        Network(name="tied head", build=TiedHead, shape=(8,), task=TEXT, reads_tokens=True),
    ],
)
