"""Blends inside activation checkpoints: a forward pass that is run again gives the gradients of one that was kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import esper.kernels as kernels


def blends(device: torch.device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    alpha = torch.tensor(0.3, device=device)
    learnt = torch.tensor(0.3, device=device, requires_grad=True)
    shares = torch.rand(3, device=device)

    def confidence(host: Tensor, seed: Tensor) -> Tensor:
        return kernels.blend_confidence(host, seed, kernels.confidence_gate(host).gate, alpha)

    return {
        "residual": lambda host, seed: kernels.blend_residual(host, seed, alpha),
        "residual with a learnt alpha": lambda host, seed: kernels.blend_residual(host, seed, learnt),
        "convex": lambda host, seed: kernels.blend_convex(host, seed, alpha),
        "channel": lambda host, seed: kernels.blend_channel(host, seed, shares, alpha),
        "isolated": lambda host, seed: kernels.blend_channel(host, seed, shares, alpha, isolate=True),
        "confidence": confidence,
    }


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", list(blends(torch.device("cpu"))))
def test_a_checkpointed_blend_has_the_gradients_of_a_plain_one(
    device: torch.device, name: str, use_reentrant: bool
) -> None:
    torch.default_generator.manual_seed(3)
    first, host, seed = (nn.Linear(6, 6).to(device) for _ in range(3))
    blend = blends(device)[name]
    x = torch.randn(4, 6, device=device)

    def block(value: Tensor) -> Tensor:
        # The blend comes last, so that it is the first to ask for what the forward pass did not keep.
        return blend(host(torch.tanh(value)), seed(value))

    def gradients(run: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        parameters = [parameter for part in (first, host, seed) for parameter in part.parameters()]
        for parameter in parameters:
            parameter.grad = None
        run(first(x)).square().sum().backward()
        return [parameter.grad for parameter in parameters]

    plain = gradients(block)
    rerun = gradients(lambda value: checkpoint(block, value, use_reentrant=use_reentrant))
    for a, b in zip(plain, rerun, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
