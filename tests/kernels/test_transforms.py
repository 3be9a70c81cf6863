"""Transforms that the operators do not support say so; none loses a derivative in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import esper.kernels as kernels
from tests.kernels.reference import random_order


def _blend(device: torch.device) -> Callable[[Tensor], Tensor]:
    host, alpha = torch.randn(3, 4, device=device), torch.tensor(0.3, device=device)
    return lambda seed: kernels.blend_residual(host, seed, alpha)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_maps_what_writes_nothing(device: torch.device) -> None:
    rows = torch.randn(2, 3, 5, device=device)
    offsets = torch.tensor([0, 2, 5], device=device)
    alpha = torch.tensor(0.3, device=device)
    mapped: dict[str, Callable[[Tensor], Tensor]] = {
        "blend": lambda r: kernels.blend_convex(r, r.flip(0), alpha),
        "gram": kernels.gram,
        "gate": lambda r: kernels.confidence_gate(r).gate,
        "metrics": lambda r: kernels.seed_metrics(r, offsets).dots,
    }
    for name, function in mapped.items():
        expected = torch.stack([function(row) for row in rows])
        assert torch.equal(torch.vmap(function)(rows), expected), name


def test_vmap_of_what_writes_is_refused(device: torch.device) -> None:
    order = random_order(3, device)
    with pytest.raises(RuntimeError, match=r"Batching rule not implemented for esper::pcgrad_"):
        torch.vmap(lambda rows: kernels.pcgrad(rows, order).flat)(torch.randn(2, 3, 5, device=device))


REVERSE: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "grad": lambda blend, seed: torch.func.grad(lambda s: blend(s).sum())(seed),
    "vjp": torch.func.vjp,
    "jacrev": lambda blend, seed: torch.func.jacrev(blend)(seed),
}


@pytest.mark.parametrize("name", REVERSE)
def test_reverse_mode_of_torch_func_is_refused_with_the_way_out(device: torch.device, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"no derivative under torch\.func: use torch\.autograd\.grad or backward"):
        REVERSE[name](_blend(device), torch.randn(3, 4, device=device))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_forward_mode_is_refused_by_every_operator_that_could_drop_a_tangent(device: torch.device) -> None:
    blend, order = _blend(device), random_order(3, device)
    seed = torch.randn(3, 4, device=device)
    offsets = torch.tensor([0, 4], device=device)
    calls: list[Callable[[Tensor], object]] = [
        blend,
        kernels.gram,
        lambda rows: kernels.pcgrad(rows, order),
        lambda rows: kernels.pcgrad_list(list(rows), order),
        lambda rows: kernels.flatten_([rows], torch.empty(12, device=device)),
        lambda rows: kernels.flatten_([rows], torch.empty(12, device=device), plan=kernels.FlattenPlan()),
        lambda rows: kernels.seed_metrics(rows, offsets),
    ]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(seed, torch.ones_like(seed))
        for call in calls:
            with pytest.raises(RuntimeError, match="no forward-mode derivative"):
                call(dual)
        assert torch.equal(blend(seed), blend(seed.clone()))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(blend, (seed,), (torch.ones_like(seed),))
