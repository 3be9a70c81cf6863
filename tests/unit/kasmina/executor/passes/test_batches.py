"""Batches and outputs of any form are called, cut, counted and compared as single tensors are."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import as_one, called, cut, first, leaves, logits_in, mapped, samples_in

X, MASK = torch.arange(12.0).view(6, 2), torch.ones(3, 3)


@dataclass(frozen=True, slots=True)
class Pair:
    x: Tensor
    mask: Tensor
    name: str = "pair"


class Named(NamedTuple):
    x: Tensor
    mask: Tensor


class Takes(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * 2


class TakesOne(nn.Module):
    def forward(self, batch: object) -> object:
        return batch


FORMS = [
    {"x": X, "mask": MASK},
    OrderedDict(x=X, mask=MASK),
    UserDict(x=X, mask=MASK),
    (X, MASK),
    [X, MASK],
    Named(X, MASK),
    Pair(X, MASK),
    {"deep": [{"x": X}, (MASK,)]},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_samples_are_counted_and_taken_in_any_form(form):
    assert samples_in(form) == 6
    some, targets = first((form, {"y": torch.arange(6)}), 4)
    assert type(some) is type(form)
    found, mask = leaves(some)
    assert torch.equal(found, X[:4])
    assert torch.equal(mask, MASK)
    assert torch.equal(targets["y"], torch.arange(4))


def test_parts_of_a_batch_are_those_of_tensor_split():
    parts = cut(({"x": X}, torch.arange(6)), 4)
    assert [len(part["x"]) for part, _ in parts] == [2, 2, 1, 1]
    for (part, targets), x, y in zip(parts, X.tensor_split(4), torch.arange(6).tensor_split(4), strict=True):
        assert torch.equal(part["x"], x)
        assert torch.equal(targets, y)
    assert len(cut((X, torch.arange(6)), 9)) == 6


def test_a_batch_without_targets_is_taken_as_it_is():
    assert first((X, None), 2)[1] is None


@pytest.mark.parametrize("form", FORMS[:2] + FORMS[3:6], ids=lambda form: type(form).__name__)
def test_mappings_are_keywords_and_sequences_arguments_where_the_model_takes_them(form):
    assert torch.equal(called(Takes(), form), X * 2)
    assert called(TakesOne(), form) is form


def test_a_sequential_gets_a_tuple_whole():
    assert called(nn.Sequential(TakesOne()), (X, MASK)) == (X, MASK)


def test_a_change_reaches_every_leaf_and_leaves_the_original():
    form = {"a": (X, [MASK, "text"]), "b": Pair(X, MASK)}
    doubled = mapped(form, lambda leaf: leaf * 2)
    assert [tensor.sum() for tensor in leaves(doubled)] == [2 * tensor.sum() for tensor in leaves(form)]
    assert doubled["a"][1][1] == "texttext"
    assert doubled["b"].name == "pairpair"
    assert form["b"].x is X


def test_outputs_are_compared_by_all_their_floating_point_tensors():
    assert as_one(X, "model") is X
    assert as_one((X, torch.arange(3)), "model") is X
    assert as_one(Pair(X, MASK), "model").shape == (21,)


def test_logits_are_found_by_their_name():
    assert logits_in({"loss": MASK, "logits": X}) is X
    assert logits_in((X, MASK)) == (X, MASK)


def test_what_holds_no_samples_is_refused():
    with pytest.raises(ConfigError, match=r"data.*dict.*holds no tensor with a sample in each row"):
        samples_in({"x": torch.tensor(1.0), "name": "a"})
    with pytest.raises(ConfigError, match=r"returns str, expected a tensor"):
        as_one("text", "model")
