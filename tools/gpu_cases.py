"""Every CUDA operator once, small and awkward: what the sanitizers watch and what a CUDA graph must repeat.

    python tools/gpu_cases.py run       # each case once; for compute-sanitizer
    python tools/gpu_cases.py replay    # each case eagerly and from a graph, with new inputs; equal bit for bit

Sizes straddle vectors, lines and blocks; some rows start off a 16-byte boundary, some gradients are absent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from esper.kernels import (
    FlattenPlan,
    blend_channel,
    blend_confidence,
    blend_convex,
    blend_residual,
    blend_stats,
    confidence_gate,
    flatten_,
    gram,
    gram_list,
    pcgrad,
    pcgrad_list,
    seed_metrics,
)

DEVICE = torch.device("cuda")
Inputs = list[Tensor]
Case = tuple[Callable[[], Inputs], Callable[[Inputs], list[Tensor]]]


def _order(k: int) -> Tensor:
    generator = torch.Generator().manual_seed(k)
    return torch.stack([torch.randperm(k, generator=generator) for _ in range(k)]).to(DEVICE)


def _rows(k: int, n: int, dtype: torch.dtype) -> Case:
    order = _order(k)

    def act(inputs: Inputs) -> list[Tensor]:
        result = pcgrad(inputs[0], order)
        return [gram(inputs[0]), result.flat, result.coefficients, result.conflicts_applied, result.status]

    return lambda: [torch.randn(k, n, device=DEVICE).to(dtype)], act


def _lists(k: int) -> Case:
    order = _order(k)
    sizes = [1, 3, 64, 130, 4097, 12]

    def draw() -> Inputs:
        # One buffer cut at odd places: most tensors start off a 16-byte boundary.
        rows = torch.randn(k, 1 + sum(sizes), device=DEVICE)
        return [piece for row in rows for piece in row[1:].split(sizes)]

    def act(inputs: Inputs) -> list[Tensor]:
        grads = [None if index % 7 == 3 else grad for index, grad in enumerate(inputs)]
        result = pcgrad_list(grads, order, sizes=sizes, reduction="mean")
        return [result.flat, result.coefficients, gram_list(grads, k)]

    return draw, act


def _flatten(dtype: torch.dtype) -> Case:
    def draw() -> Inputs:
        sizes = [5, 128, 1, 1000, 33]
        return [torch.randn(n, device=DEVICE).to(dtype) for n in sizes] + [torch.randn(64, 9, device=DEVICE).t()]

    def act(inputs: Inputs) -> list[Tensor]:
        outs = inputs[-1].new_full((3, sum(grad.numel() for grad in inputs)), float("nan"))
        flatten_(inputs, outs[0], convert=True)
        plan = FlattenPlan()
        for out in outs[1:]:
            flatten_(inputs, out, convert=True, plan=plan)
        return [outs]

    return draw, act


def _blends(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Case:
    def draw() -> Inputs:
        data = [torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout) for _ in range(3)]
        return [*data, torch.rand((), device=DEVICE), torch.rand(4, device=DEVICE), torch.rand(shape[0], device=DEVICE)]

    def act(inputs: Inputs) -> list[Tensor]:
        host, seed, grad, alpha, channels, gate = (tensor.detach() for tensor in inputs)
        leaves = [host.requires_grad_(), seed.requires_grad_(), alpha.requires_grad_()]
        results: list[Tensor] = []
        for value in (
            blend_residual(*leaves),
            blend_convex(*leaves, isolate=True),
            blend_channel(host, seed, channels, alpha),
            blend_confidence(host, seed, gate, alpha, lo=0.1, hi=0.9),
        ):
            derivatives = torch.autograd.grad(value, leaves, grad, allow_unused=True)
            # A derivative may be the incoming gradient itself: an output of its own keeps inputs and outputs apart.
            results += [value.detach(), *(d.clone() for d in derivatives if d is not None)]
        return results

    return draw, act


def _observations(samples: int, classes: int) -> Case:
    offsets = torch.tensor([0, 1, 1, 70, 4000, 20_001], device=DEVICE)

    def draw() -> Inputs:
        logits = torch.randn(samples, classes, device=DEVICE)
        return [logits, torch.randn(3, 20_001, device=DEVICE), torch.rand((), device=DEVICE)]

    def act(inputs: Inputs) -> list[Tensor]:
        logits, rows, alpha = inputs
        confidence = confidence_gate(logits)
        return [*confidence, *seed_metrics(rows, offsets), *blend_stats(alpha, confidence.gate)]

    return draw, act


def cases() -> dict[str, Case]:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return {
        **{
            f"rows {k}x{n} {dtype}": _rows(k, n, dtype)
            for dtype in dtypes
            for k, n in ((1, 1), (2, 4096), (3, 1003), (8, 20_001), (11, 515), (20, 300), (64, 700))
        },
        **{f"lists {k}": _lists(k) for k in (2, 8, 17)},
        **{f"flatten {dtype}": _flatten(dtype) for dtype in dtypes},
        **{
            f"blends {width} {dtype} {layout}": _blends((3, 8, 5, width), dtype, layout)
            for dtype in dtypes
            for width in (7, 201)
            for layout in (torch.contiguous_format, torch.channels_last)
        },
        "blends large": _blends((4, 64, 33, 31), torch.float32, torch.contiguous_format),
        "short rows": _observations(37, 10),
        "long rows": _observations(3, 5001),
    }


def run() -> None:
    for name, (draw, act) in cases().items():
        act(draw())
        torch.cuda.synchronize()
        print("ran", name, flush=True)


def replay() -> None:
    for name, (draw, act) in cases().items():
        static = draw()
        act(static)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = act(static)
        for tensor, fresh in zip(static, draw(), strict=True):
            tensor.copy_(fresh)
        expected = [tensor.clone() for tensor in act(static)]
        for tensor in captured:
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        for index, (value, wanted) in enumerate(zip(captured, expected, strict=True)):
            if not torch.equal(value, wanted):
                raise SystemExit(f"{name}: output {index} of the replay differs from the eager call")
        print("equal", name, flush=True)


if __name__ == "__main__":
    verbs = {"run": run, "replay": replay}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=verbs)
    verb = parser.parse_args().verb
    torch.manual_seed(0)
    verbs[verb]()
