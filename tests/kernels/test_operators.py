"""The operators as torch sees them: schemas, fake kernels, autograd registration, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import esper.kernels as kernels
from tests.kernels.reference import random_order
from tests.kernels.samples import SAMPLE_IDS, samples


@pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)
def test_every_operator_passes_opcheck(device: torch.device, index: int) -> None:
    name, arguments = samples(device)[index]
    torch.library.opcheck(getattr(torch.ops.esper, name).default, arguments)


def test_every_registered_operator_is_sampled() -> None:
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("esper::")}
    # A plan holds tensors that no fake one can stand for; tests/kernels/test_flatten_plan.py has it.
    assert registered == {name for name, _ in samples(torch.device("cpu"))} | {"flatten_plan", "flatten_planned_"}


def test_a_compiled_training_step_has_no_graph_break_and_equals_eager(device: torch.device) -> None:
    host, seed = torch.nn.Linear(6, 6).to(device), torch.nn.Linear(6, 6).to(device)
    alpha = torch.tensor(0.3, device=device)
    vector = torch.rand(3, device=device)

    def step(x: Tensor) -> Tensor:
        h = host(x)
        h = kernels.blend_residual(h, seed(x), alpha)
        h = kernels.blend_channel(h, seed(h), vector, alpha, isolate=True)
        gate = kernels.confidence_gate(h).gate
        return kernels.blend_confidence(h, seed(h), gate, alpha).square().sum()

    def gradients(function: Any, x: Tensor) -> list[Tensor]:
        parameters = [*host.parameters(), *seed.parameters()]
        return list(torch.autograd.grad(function(x), parameters))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 6, device=device)
    for a, b in zip(gradients(step, x), gradients(compiled, x), strict=True):
        assert torch.equal(a, b)
    alpha.fill_(0.8)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(compiled(x), step(x))


def test_compiled_surgery_has_no_graph_break_and_equals_eager(device: torch.device) -> None:
    order = random_order(3, device)
    offsets = torch.tensor([0, 50, 101], device=device)

    def surgery(rows: Tensor) -> tuple[Tensor, ...]:
        result = kernels.pcgrad(rows, order, reduction="mean")
        listed = kernels.pcgrad_list([rows[0].clone(), rows[1].clone(), rows[2].clone()], order)
        flat = torch.empty(303, device=rows.device)
        kernels.flatten_([rows[0].clone(), rows[1].clone(), rows[2].clone()], flat)
        return result.flat, result.conflicts_applied, listed.flat, flat, *kernels.seed_metrics(rows, offsets)

    rows = torch.randn(3, 101, device=device)
    compiled = torch.compile(surgery, fullgraph=True, backend="aot_eager")
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for a, b in zip(compiled(rows), surgery(rows), strict=True):
                assert torch.equal(a, b)


@pytest.mark.slow
def test_the_default_compiler_gives_the_same_blend(device: torch.device) -> None:
    seed = torch.nn.Linear(6, 6).to(device)
    alpha = torch.tensor(0.3, device=device)

    def step(x: Tensor) -> Tensor:
        return kernels.blend_residual(x, seed(x), alpha).square().sum()

    x = torch.randn(4, 6, device=device)
    assert torch.allclose(torch.compile(step, fullgraph=True)(x), step(x))


def test_a_raw_operator_records_the_same_gradient_as_the_function(device: torch.device) -> None:
    host, seed = (torch.randn(3, 4, device=device, requires_grad=True) for _ in range(2))
    alpha = torch.tensor(0.3, device=device, requires_grad=True)
    raw = torch.ops.esper.blend(host, seed, alpha, None, 0, 0.0, 1.0, True)
    function = kernels.blend_convex(host, seed, alpha)
    inputs = (host, seed, alpha)
    for a, b in zip(torch.autograd.grad(raw.sum(), inputs), torch.autograd.grad(function.sum(), inputs), strict=True):
        assert torch.equal(a, b)


def test_vmap_maps_a_blend_over_a_batch(device: torch.device) -> None:
    host, seed = torch.randn(3, 4, 5, device=device), torch.randn(3, 4, 5, device=device)
    alpha = torch.tensor(0.5, device=device)
    with torch.no_grad():
        mapped = torch.vmap(lambda h, s: torch.ops.esper.blend(h, s, alpha, None, 0, 0.0, 1.0, False))(host, seed)
    assert torch.equal(mapped, kernels.blend_residual(host, seed, alpha))


@pytest.mark.gpu
def test_a_captured_graph_replays_to_the_eager_bits(cuda_only: None, device: torch.device) -> None:
    rows = torch.randn(4, 100_000, device=device)
    order = random_order(4, device)
    host, seed = torch.randn(64, 32, device=device), torch.randn(64, 32, device=device)
    alpha = torch.tensor(0.3, device=device)

    def work() -> list[Tensor]:
        blended = kernels.blend_residual(host, seed, alpha)
        return [kernels.pcgrad(rows, order).flat, blended, kernels.confidence_gate(blended).gate]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = work()
    rows.copy_(torch.randn_like(rows))
    host.copy_(torch.randn_like(host))
    alpha.fill_(0.7)
    graph.replay()
    for a, b in zip(captured, work(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(cuda_only: None, device: torch.device) -> None:
    rows = torch.randn(4, 10_000, device=device)
    order = random_order(4, device)
    alpha = torch.tensor(0.3, device=device)
    offsets = torch.tensor([0, 10_000], device=device)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.pcgrad(rows, order)
        kernels.gram(rows)
        blended = kernels.blend_residual(rows, rows, alpha)
        kernels.confidence_gate(blended)
        kernels.blend_stats(alpha)
        kernels.seed_metrics(rows, offsets)
    finally:
        torch.cuda.set_sync_debug_mode(before)
