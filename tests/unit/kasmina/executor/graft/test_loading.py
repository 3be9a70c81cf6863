"""A network gets the values of a saved one as torch's own loading would give them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from esper.kasmina.executor.contents.filling import fill
from esper.kasmina.executor.graft.loading import pairs_to_load


class Own(nn.Linear):
    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)


class Extra(nn.Linear):
    def get_extra_state(self) -> torch.Tensor:
        return torch.ones(1)

    def set_extra_state(self, state: Any) -> None:
        """It has nowhere to put it."""


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


def hooked() -> nn.Module:
    linear = nn.Linear(2, 2)
    linear.register_load_state_dict_post_hook(lambda module, keys: None)
    return linear


def normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


def copies(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def nets() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2)),
        Tied(),
        nn.Sequential(nn.Embedding(5, 2), nn.LayerNorm(2)),
    ]


@pytest.mark.parametrize("number", range(len(nets())))
def test_the_values_are_those_that_torch_would_load(number: int) -> None:
    ours, theirs, saved = nets()[number], nets()[number], copies(nets()[number])
    theirs.load_state_dict(saved)
    pairs = pairs_to_load(ours, saved)
    assert pairs is not None
    fill(pairs)
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("make", [lambda: Own(2, 2), lambda: Extra(2, 2), hooked, normed])
def test_a_module_with_a_way_of_its_own_is_left_to_it(make: Any) -> None:
    assert pairs_to_load(make(), copies(make())) is None


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(2, 2, bias=False), nn.Conv1d(2, 2, 1)])
def test_another_network_is_not_taken_for_this_one(other: nn.Module) -> None:
    assert pairs_to_load(nn.Linear(2, 2), copies(other)) is None


def test_another_layout_in_memory_is_not_taken_for_this_one() -> None:
    saved = copies(nn.Linear(2, 2))
    saved["weight"] = torch.randn(2, 2).t()
    assert pairs_to_load(nn.Linear(2, 2), saved) is None
