"""Several host threads and several CUDA streams at once: every operator gives the bits that it gives alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

import esper.kernels as kernels
from esper.kernels import FlattenPlan
from tests.kernels.reference import random_order
from tests.kernels.samples import SAMPLE_IDS, Sample, call, same_bits, samples, tensors, written

EVERY_SAMPLE = pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)
THREADS = 4
# Some 50 ms on any GPU: long enough for the host to enqueue everything behind it.
BUSY_CYCLES = 100_000_000


def _copy(sample: Sample) -> Sample:
    """The same values in memory of their own, strides kept."""

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(entry) for entry in value]
        return value.detach().clone() if isinstance(value, Tensor) else value

    name, arguments = sample
    return name, tuple(own(value) for value in arguments)


def test_host_threads_that_call_different_operators_get_the_bits_of_one(device: torch.device) -> None:
    every = samples(device)
    alone = [call(*_copy(sample)) for sample in every]
    start = Barrier(THREADS)

    def work(thread: int) -> list[int]:
        own = [_copy(sample) for sample in every]
        start.wait()
        wrong = []
        for turn in range(5):
            for step in range(len(every)):
                index = (step * (2 * thread + 1) + turn) % len(every)
                if not same_bits(call(*own[index]), alone[index]):
                    wrong.append(index)
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == [[]] * THREADS


def test_host_threads_may_share_inputs_and_a_plan(device: torch.device) -> None:
    grads = [torch.randn(index % 300, device=device) for index in range(600)]
    rows = torch.randn(6, 40_001, device=device)
    order = random_order(6, device)
    flat = torch.cat(grads)
    alone = kernels.pcgrad(rows, order).flat
    made = torch.ops.esper.flatten_plan(grads, [], flat)
    start = Barrier(THREADS)

    def work(_: int) -> bool:
        out, result = torch.empty_like(flat), torch.empty_like(alone)
        start.wait()
        for _ in range(10):
            out.fill_(float("nan"))
            torch.ops.esper.flatten_planned_(made, out)
            kernels.pcgrad(rows, order, out=result)
            if not (torch.equal(out, flat) and torch.equal(result, alone)):
                return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


def test_backward_passes_in_several_host_threads_do_not_disturb_each_other(device: torch.device) -> None:
    alpha = torch.tensor(0.3, device=device)
    pairs = [(torch.randn(33, 10, device=device), torch.randn(33, 10, device=device)) for _ in range(8)]

    def gradients(pair: tuple[Tensor, Tensor]) -> list[Tensor]:
        host, seed = (value.clone().requires_grad_() for value in pair)
        value = kernels.blend_convex(host, seed, alpha).square().sum()
        return list(torch.autograd.grad(value, (host, seed)))

    alone = [gradients(pair) for pair in pairs]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(gradients, pairs * 10))
    assert all(same_bits(value, alone[index % 8]) for index, value in enumerate(together))


def _behind_a_busy_stream(make: Callable[[], Sample]) -> list[Tensor]:
    """On a stream of its own the inputs arrive late: an operator that did not wait would read NaN or zeros."""
    name, ready = make()
    _, late = _copy((name, ready))
    sources = [tensor.detach().clone() for tensor in tensors(ready)]
    outputs = {id(tensor) for tensor in written(name, late)}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for tensor in tensors(late):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
        torch.cuda._sleep(BUSY_CYCLES)
        for tensor, source in zip(tensors(late), sources, strict=True):
            if id(tensor) not in outputs:
                tensor.copy_(source, non_blocking=True)
        results = call(name, late)
    for tensor in (*tensors(late), *results, *sources):
        tensor.record_stream(stream)
    torch.cuda.current_stream().wait_stream(stream)
    return results


@pytest.mark.gpu
@EVERY_SAMPLE
def test_work_on_a_side_stream_waits_for_its_inputs_and_is_waited_for(
    cuda_only: None, device: torch.device, index: int
) -> None:
    kept = samples(device)[index]
    alone = call(*_copy(kept))
    assert same_bits(_behind_a_busy_stream(lambda: kept), alone)


@pytest.mark.gpu
@EVERY_SAMPLE
def test_no_operator_touches_the_default_stream(cuda_only: None, device: torch.device, index: int) -> None:
    kept = samples(device)[index]
    alone = call(*_copy(kept))
    _, arguments = _copy(kept)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(*_copy(kept))  # what torch sets up once for a stream may take the default one
    torch.cuda.synchronize()
    busy = torch.cuda.Event()
    torch.cuda._sleep(10 * BUSY_CYCLES)
    busy.record()
    with torch.cuda.stream(stream):
        results = call(kept[0], arguments)
    stream.synchronize()
    assert not busy.query(), "the operator's work came after that of the default stream"
    torch.cuda.synchronize()
    assert same_bits(results, alone)


@pytest.mark.gpu
def test_host_threads_with_streams_of_their_own_do_not_disturb_each_other(
    cuda_only: None, device: torch.device
) -> None:
    rows = [torch.randn(9, 300_001, device=device) for _ in range(THREADS)]
    order = random_order(9, device)
    logits = torch.randn(512, 1000, device=device)
    alone = [kernels.pcgrad(r, order).flat for r in rows]
    gate = kernels.confidence_gate(logits).gate
    torch.cuda.synchronize()
    start = Barrier(THREADS)

    def work(thread: int) -> bool:
        stream = torch.cuda.Stream()
        start.wait()
        good = True
        with torch.cuda.stream(stream):
            for _ in range(20):
                flat = kernels.pcgrad(rows[thread], order).flat
                found = kernels.confidence_gate(logits).gate
                good = good and torch.equal(flat, alone[thread]) and torch.equal(found, gate)
        return good

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


@pytest.mark.gpu
def test_a_plan_made_on_one_stream_serves_another(cuda_only: None, device: torch.device) -> None:
    grads = [torch.randn(128, device=device) for _ in range(300)]
    out, plan = torch.empty(300 * 128, device=device), FlattenPlan()
    kernels.flatten_(grads, out, plan=plan)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(BUSY_CYCLES)
        for grad in grads:
            grad.mul_(2)
        kernels.flatten_(grads, out, plan=plan)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(out, torch.cat(grads))
