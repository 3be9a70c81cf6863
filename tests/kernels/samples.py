"""One call of every operator, or a few: what tests of all operators run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import esper.kernels as kernels
from tests.kernels.reference import random_order

Sample = tuple[str, tuple[Any, ...]]


def samples(device: torch.device) -> list[Sample]:
    """Names and arguments, fresh ones at each call."""

    def randn(*shape: int, grad: bool = False) -> Tensor:
        return torch.randn(*shape, device=device, requires_grad=grad)

    alpha = torch.tensor(0.4, device=device)
    vector = torch.rand(3, device=device)
    order = random_order(3, device)
    weights = torch.ones(3, dtype=torch.float64, device=device)
    coefficients = torch.ones(3, dtype=torch.float64, device=device)
    status = torch.zeros(2, dtype=torch.int64, device=device)
    lists = [randn(4, 2), randn(5), randn(0), randn(4, 2), randn(5), randn(0), randn(4, 2), randn(0), randn(0)]
    last = randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    options = (0, 0.0, 1.0)
    return [
        ("flatten_", ([randn(3, 2), randn(4)], [], torch.empty(10, device=device), False)),
        ("flatten_", ([randn(3, 2).double(), randn(0)], [6, 4], torch.empty(10, device=device), True)),
        ("gram", (randn(3, 100), False)),
        ("gram", (randn(100, 3).T, True)),
        ("gram_list_", (lists, torch.empty(3, 3, dtype=torch.float64, device=device), False)),
        ("pcgrad_solve", (kernels.gram(randn(3, 9)), order, None, False, 0.0)),
        ("pcgrad_solve", (kernels.gram(randn(3, 9)), order, weights, True, 0.1)),
        ("combine_", (randn(3, 9), coefficients, status, torch.empty(9, device=device))),
        ("combine_list_", (lists, [8, 5, 2], coefficients, status, torch.empty(15, device=device))),
        ("pcgrad_", (randn(3, 9), order, None, False, 0.0, False, torch.empty(9, device=device))),
        ("pcgrad_list_", (lists, [8, 5, 0], order, weights, True, 0.0, False, torch.empty(13, device=device))),
        ("blend", (randn(2, 3, grad=True), randn(2, 3, grad=True), alpha, None, *options, False)),
        ("blend", (last, randn(2, 3, 4, 5, grad=True), alpha, vector, 1, 0.0, 1.0, True)),
        ("blend", (randn(6, 4)[::2], randn(3, 4), alpha.double(), vector.double(), 0, 0.1, 0.9, True)),
        ("blend", (randn(2, 3), randn(2, 3, grad=True), alpha.clone().requires_grad_(), None, *options, True)),
        ("blend_backward", (randn(2, 3, grad=True), alpha, None, *options, True, True, True)),
        ("blend_backward", (randn(2, 3, 4, grad=True), alpha, vector, 1, 0.0, 1.0, True, False, True)),
        ("blend_backward", (last, alpha, vector, 1, 0.0, 1.0, True, True, False)),
        ("blend_alpha_grad", (randn(2, 3), randn(2, 3), randn(2, 3), alpha, None, *options, True)),
        ("confidence_gate", (randn(5, 7), 4.0, 0.2, False)),
        ("blend_stats", (alpha, vector, 0.0, 1.0)),
        ("blend_stats", (alpha, None, 0.0, 1.0)),
        ("seed_metrics", (randn(3, 20), torch.tensor([0, 5, 20], device=device))),
    ]


SAMPLE_IDS = [f"{index}-{name}" for index, (name, _) in enumerate(samples(torch.device("cpu")))]


def call(name: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    """What the operator returns and what it writes, apart from anything it was given."""
    with torch.no_grad():
        returned = getattr(torch.ops.esper, name)(*arguments)
    values = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
    return [*values, *(value.clone() for value in written(name, arguments))]


def written(name: str, arguments: tuple[Any, ...]) -> Iterator[Tensor]:
    schema = getattr(torch.ops.esper, name).default._schema
    for declared, value in zip(schema.arguments, arguments, strict=False):
        if declared.alias_info is not None and declared.alias_info.is_write:
            yield value


def tensors(arguments: tuple[Any, ...]) -> Iterator[Tensor]:
    """Every tensor among the arguments that has elements, each once."""
    for value in arguments:
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and tensor.numel() > 0:
                yield tensor


def same_bits(left: list[Tensor], right: list[Tensor]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)
