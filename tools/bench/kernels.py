#!/usr/bin/env python3
"""Times every operator beside plain torch, the best torch formulation and TorchJD, in one run on one device.

    python tools/bench/kernels.py --device cpu|cuda [--json FILE] [--plot FILE] [--only SUBSTRING] [--without-torchjd]

Candidates of a case take turns, so that a disturbance meets all of them; the figure is the median. The floor is the
bytes that must move at the bandwidth measured in the same run: reading speed on the CPU, copy speed on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esper.kernels as kernels

Work = Callable[[], object]
FLOAT_BYTES = 4
CASE_S = 1.0  # a case is repeated for this long at least: a median of few short calls is that of a disturbance


@dataclass(frozen=True, kw_only=True)
class Case:
    """`floor_bytes` 0: no floor is claimed. `target`: (candidate, "floor" or "ms", largest allowed ratio of `ours`)."""

    name: str
    candidates: dict[str, Work]
    floor_bytes: float = 0.0
    target: tuple[str, float] | None = None
    # Where the host's own time is what matters: the call returns before the device is done.
    host_time: bool = False
    # Called once more just before, so that the host's caches hold what the call needs.
    is_warm: bool = False
    ours: str = "esper"


@dataclass(kw_only=True)
class Clock:
    """Seconds of one call, on the host or on the device."""

    device: torch.device
    repeats: int = 9
    _flush: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # Ten times a GPU's second-level cache; a case must find its data where a training step would: in memory.
        self._flush = torch.zeros(2**27 if self.device.type == "cuda" else 1, device=self.device)

    def measure(self, work: Work, *, host_time: bool = False) -> float:
        if self.device.type == "cpu":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        # The device is given some 3 ms of reading first: the host gets ahead, so that the figure holds no launch gaps,
        # and unlike a write a read leaves nothing behind to be written back meanwhile.
        for _ in range(1 if host_time else 16):
            self._flush.sum()
        begin.record()
        start = time.perf_counter()
        work()
        host_s = time.perf_counter() - start
        end.record()
        torch.cuda.synchronize()
        return host_s if host_time else begin.elapsed_time(end) / 1e3

    def compare(
        self, candidates: dict[str, Work], *, host_time: bool = False, is_warm: bool = False
    ) -> dict[str, list[float]]:
        for work in candidates.values():
            work()
        samples: dict[str, list[float]] = {name: [] for name in candidates}
        names = list(candidates)
        shuffled = random.Random(0)
        started = time.perf_counter()
        done = 0
        while done < self.repeats or time.perf_counter() - started < CASE_S:
            # What one candidate frees is what the next one is given, page faults included: no fixed neighbours.
            shuffled.shuffle(names)
            for name in names:
                if is_warm:
                    candidates[name]()
                samples[name].append(self.measure(candidates[name], host_time=host_time))
            done += 1
        return samples


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second; a copy counts what is read and what is written."""

    read: float
    copy: float

    def floor_s(self, floor_bytes: float, device: torch.device) -> float:
        return floor_bytes / (self.copy if device.type == "cuda" else self.read)


def measure_bandwidth(clock: Clock) -> Bandwidth:
    source = torch.randn(2**28 if clock.device.type == "cuda" else 2**26, device=clock.device)
    target = torch.empty_like(source)
    samples = clock.compare({"read": lambda: source.sum(), "copy": lambda: target.copy_(source)})
    size = source.numel() * FLOAT_BYTES
    # The best of the repeats: a floor that a busy machine raises would flatter every candidate.
    return Bandwidth(read=size / min(samples["read"]), copy=2 * size / min(samples["copy"]))


def random_order(k: int, device: torch.device) -> Tensor:
    return torch.stack([torch.randperm(k) for _ in range(k)]).to(device)


def split_sizes(total: int, tensors: int) -> list[int]:
    """Like a network's: a few large matrices, many small vectors."""
    weights = [1.0 if index % 2 else 200.0 * (1 + index % 7) for index in range(tensors)]
    sizes = [max(1, int(total * w / sum(weights))) for w in weights]
    sizes[0] += total - sum(sizes)
    return sizes


def naive_pcgrad(rows: Tensor, order: list[list[int]]) -> Tensor:
    """The published form: every pair takes a pass over both vectors, and the host decides."""
    total = torch.zeros_like(rows[0])
    for i in range(len(rows)):
        projected = rows[i].clone()
        for j in order[i]:
            if j != i and (dot := projected @ rows[j]) < 0:
                projected -= dot / (rows[j] @ rows[j]) * rows[j]
        total += projected
    return total


def matmul_pcgrad(rows: Tensor, order: list[list[int]]) -> Tensor:
    """The best plain torch: one Gram product, the loop on the host, one combination."""
    products = (rows @ rows.T).cpu()
    weights = torch.zeros(len(rows))
    for i in range(len(rows)):
        row = torch.zeros(len(rows))
        row[i] = 1.0
        for j in order[i]:
            if j != i and (dot := products[j] @ row) < 0:
                row[j] -= dot / products[j, j]
        weights += row
    return weights.to(rows.device) @ rows


def pcgrad_cases(device: torch.device, has_torchjd: bool) -> Iterator[Case]:
    sizes = [(2, 25_600_000), (8, 25_600_000), (16, 25_600_000), (8, 1_000_000)]
    limits = [1.08, 1.08, 1.15, 45e-6 * 2.879e12 / (17e6 * FLOAT_BYTES)]
    if device.type == "cpu":
        sizes, limits = [(2, 10_000_000), (8, 10_000_000), (16, 10_000_000), (8, 100_000)], [1.4, 1.4, 0.0, 0.0]
    for (k, n), limit in zip(sizes, limits, strict=True):
        rows, order = torch.randn(k, n, device=device), random_order(k, device)
        host_order, out = order.tolist(), torch.empty(n, device=device)
        candidates: dict[str, Work] = {
            "esper": lambda rows=rows, order=order, out=out: kernels.pcgrad(rows, order, out=out),
            "esper fast": lambda rows=rows, order=order, out=out: kernels.pcgrad(rows, order, out=out, fast=True),
            "torch matmul": lambda rows=rows, order=host_order: matmul_pcgrad(rows, order),
        }
        if has_torchjd:
            from torchjd.aggregation import PCGrad

            peer = PCGrad()
            candidates["TorchJD"] = lambda rows=rows, peer=peer: peer(rows)
        if k * k * n < 7e8 or device.type == "cuda":
            candidates["torch naive"] = lambda rows=rows, order=host_order: naive_pcgrad(rows, order)
        yield Case(
            name=f"pcgrad pool K={k} N={n:.3g}",
            candidates=candidates,
            floor_bytes=(2 * k + 1) * n * FLOAT_BYTES,
            target=("floor", limit) if limit else None,
        )


def pcgrad_list_cases(device: torch.device, has_torchjd: bool) -> Iterator[Case]:
    if not has_torchjd:  # it is what the case compares with
        return
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import jac_to_grad

    for (k, n), limit in zip([(8, 10_000_000), (16, 10_000_000)], [1 / 1.5, 1 / 1.15], strict=True):
        parameters = [torch.nn.Parameter(torch.empty(size, device=device)) for size in split_sizes(n, 160)]
        for parameter in parameters:
            parameter.jac = torch.randn(k, parameter.numel(), device=device)  # type: ignore[attr-defined]
        grads = [p.jac[i] for i in range(k) for p in parameters]  # type: ignore[attr-defined]
        order, out, peer = random_order(k, device), torch.empty(n, device=device), PCGrad()

        def torchjd(parameters: list[torch.nn.Parameter] = parameters, peer: PCGrad = peer, skip: bool = True) -> None:
            for parameter in parameters:
                parameter.grad = None
            jac_to_grad(parameters, peer, retain_jac=True, optimize_gramian_computation=skip)

        yield Case(
            name=f"pcgrad list K={k} N={n:.3g} 160 tensors",
            candidates={
                "esper": lambda grads=grads, order=order, out=out: kernels.pcgrad_list(grads, order, out=out),
                "esper, new output": lambda grads=grads, order=order: kernels.pcgrad_list(grads, order),
                "TorchJD list": torchjd,
                "TorchJD default": lambda run=torchjd: run(skip=False),
            },
            floor_bytes=(2 * k + 1) * n * FLOAT_BYTES,
            target=("TorchJD list", limit),
        )


def flatten_cases(device: torch.device) -> Iterator[Case]:
    total = 10_000_000 if device.type == "cpu" else 25_600_000
    for tensors, sizes in ((160, split_sizes(total, 160)), (2000, [128] * 2000)):
        grads = [torch.randn(size, device=device) for size in sizes]
        out, source = torch.empty(sum(sizes), device=device), torch.randn(sum(sizes), device=device)
        views = kernels.unflatten(out, [g.shape for g in grads])

        def loop(views: list[Tensor] = views, grads: list[Tensor] = grads) -> None:
            for view, grad in zip(views, grads, strict=True):
                view.copy_(grad)

        plan = kernels.FlattenPlan()
        candidates: dict[str, Work] = {
            "esper": lambda grads=grads, out=out: kernels.flatten_(grads, out),
            "esper planned": lambda grads=grads, out=out, plan=plan: kernels.flatten_(grads, out, plan=plan),
            "_foreach_copy_": lambda views=views, grads=grads: torch._foreach_copy_(views, grads),
            "cat": lambda grads=grads: torch.cat(grads),
            "cat(out=)": lambda grads=grads, out=out: torch.cat(grads, out=out),
            "loop": loop,
            "one copy": lambda out=out, source=source: out.copy_(source),
        }
        is_large = tensors == 160
        peer = "one copy" if device.type == "cpu" else "floor"
        yield Case(
            name=f"flatten {tensors} tensors N={sum(sizes):.3g}",
            candidates=candidates,
            floor_bytes=2 * sum(sizes) * FLOAT_BYTES,
            target=(peer, 1.2 if device.type == "cpu" else 1.25) if is_large else None,
        )
        if device.type == "cuda" and not is_large:
            host: dict[str, Any] = {"candidates": candidates, "host_time": True, "ours": "esper planned"}
            yield Case(name="flatten 2000 tensors, host time", is_warm=True, target=("ms", 0.1), **host)
            yield Case(name="flatten 2000 tensors, host time after other work", **host)


def with_backward(forward: Callable[..., Tensor], inputs: tuple[Tensor, ...], arriving: Tensor) -> Work:
    return lambda: torch.autograd.grad(forward(), inputs, arriving)


def blend_cases(device: torch.device) -> Iterator[Case]:
    shape = (64, 100, 32, 32) if device.type == "cpu" else (512, 128, 56, 56)
    host, seed, arriving = (torch.randn(shape, device=device) for _ in range(3))
    alpha = torch.tensor(0.3, device=device)
    vector = torch.rand(shape[1] // 2 if shape[1] > 64 else shape[1], device=device)
    e = (alpha * vector).repeat_interleave(shape[1] // len(vector)).view(1, -1, 1, 1)
    size = host.numel() * FLOAT_BYTES
    yield Case(
        name=f"blend convex forward {host.numel():.3g}",
        candidates={
            "esper": lambda: kernels.blend_convex(host, seed, alpha),
            "lerp": lambda: torch.lerp(host, seed, alpha),
            "composed": lambda: (1 - alpha) * host + alpha * seed,
            "add": lambda: host + seed,
        },
        floor_bytes=3 * size,
        target=("lerp", 1.05),
    )
    h, s = host.clone().requires_grad_(), seed.clone().requires_grad_()

    def channel() -> Tensor:
        return kernels.blend_channel(h, s, vector, alpha, residual=True)

    def composed(h: Tensor, s: Tensor) -> Tensor:
        return h + e * s

    candidates = {
        "esper": with_backward(channel, (h, s), arriving),
        "composed": with_backward(lambda: composed(h, s), (h, s), arriving),
        "lerp": with_backward(lambda: torch.lerp(h, s, e), (h, s), arriving),
    }
    if device.type == "cuda":
        compiled = torch.compile(composed)
        candidates["torch.compile"] = with_backward(lambda: compiled(h, s), (h, s), arriving)
    yield Case(
        name=f"blend per channel forward+backward {host.numel():.3g}",
        candidates=candidates,
        floor_bytes=5 * size,
        target=("lerp", 1.05) if device.type == "cpu" else ("floor", 1.05),
    )


def small_blend_cases(device: torch.device) -> Iterator[Case]:
    """What a call costs: the tensors of a small model."""
    alpha = torch.tensor(0.3, device=device)
    h, s = (torch.randn(64, 10, device=device, requires_grad=True) for _ in range(2))
    arriving = torch.ones(64, 10, device=device)

    def times(work: Work, count: int = 200) -> Work:
        def repeated() -> None:
            for _ in range(count):
                work()

        return repeated

    composed = with_backward(lambda: h + alpha.clamp(0, 1) * s, (h, s), arriving)
    ours = with_backward(lambda: kernels.blend_residual(h, s, alpha), (h, s), arriving)
    yield Case(
        name="200 blends of 64 x 10, forward+backward",
        candidates={"esper": times(ours), "composed": times(composed)},
        host_time=True,
    )


def gate_cases(device: torch.device) -> Iterator[Case]:
    for rows, classes in ((256, 1000), (64, 50_000), (4096, 100)):
        logits = torch.randn(rows, classes, device=device)

        def margin(logits: Tensor = logits) -> Tensor:
            top = torch.softmax(logits, 1).topk(2, 1).values
            return torch.sigmoid(4.0 * (top[:, 0] - top[:, 1] - 0.2))

        def entropy(logits: Tensor = logits) -> Tensor:
            log_p = torch.log_softmax(logits, 1)
            return -(log_p.exp() * log_p).sum(1)

        yield Case(
            name=f"gate {rows} x {classes}",
            candidates={
                "esper": lambda logits=logits: kernels.confidence_gate(logits),
                "softmax+topk": margin,
                "entropy alone": entropy,
            },
            floor_bytes=logits.numel() * FLOAT_BYTES,
            target=("softmax+topk", 0.25),
        )


def families(*, has_torchjd: bool) -> tuple[Callable[[torch.device], Iterable[Case]], ...]:
    """All cases; without TorchJD nothing is compared with it."""
    return (
        partial(pcgrad_cases, has_torchjd=has_torchjd),
        partial(pcgrad_list_cases, has_torchjd=has_torchjd),
        flatten_cases,
        blend_cases,
        small_blend_cases,
        gate_cases,
    )


def run_case(case: Case, clock: Clock, bandwidth: Bandwidth) -> dict[str, object]:
    samples = clock.compare(case.candidates, host_time=case.host_time, is_warm=case.is_warm)
    median_ms = {name: statistics.median(values) * 1e3 for name, values in samples.items()}
    floor_ms = bandwidth.floor_s(case.floor_bytes, clock.device) * 1e3 if case.floor_bytes else None
    record: dict[str, object] = {
        "name": case.name,
        "median_ms": median_ms,
        "min_ms": {name: min(values) * 1e3 for name, values in samples.items()},
        "floor_ms": floor_ms,
        "ratio_to_floor": {name: value / floor_ms for name, value in median_ms.items()} if floor_ms else None,
    }
    if case.target is not None:
        against, limit = case.target
        reference_ms = {**median_ms, "floor": floor_ms, "ms": 1.0}[against]
        ratio = median_ms[case.ours] / reference_ms if reference_ms else float("nan")
        record["target"] = {"against": against, "limit": limit, "ratio": ratio, "is_met": ratio <= limit}
    return record


def print_case(record: dict[str, object]) -> None:
    floor_ms = record["floor_ms"]
    print(f"\n{record['name']}" + (f"   floor {floor_ms:.4g} ms" if floor_ms else ""))
    for name, value in record["median_ms"].items():  # type: ignore[attr-defined]
        ratio = f"  {value / floor_ms:7.2f} x floor" if floor_ms else ""  # type: ignore[operator]
        print(f"  {name:20s} {value:10.4g} ms{ratio}")
    if target := record.get("target"):
        verdict = "met" if target["is_met"] else "MISSED"  # type: ignore[index]
        print(f"  target: {target['ratio']:.3f} of {target['against']}, at most {target['limit']:.3f}: {verdict}")  # type: ignore[index]


def plot_sizes(clock: Clock, bandwidth: Bandwidth, path: Path) -> None:
    """Time over floor against N, for eight rows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from torchjd.aggregation import PCGrad

    k, peer = 8, PCGrad()
    lengths = [10**exponent for exponent in (3, 4, 5, 6, 7)]
    order = random_order(k, clock.device)
    curves: dict[str, list[float]] = {"Esper": [], "torch matmul": [], "TorchJD": []}
    for n in lengths:
        rows, out = torch.randn(k, n, device=clock.device), torch.empty(n, device=clock.device)
        samples = clock.compare(
            {
                "Esper": lambda rows=rows, out=out: kernels.pcgrad(rows, order, out=out),
                "torch matmul": lambda rows=rows: matmul_pcgrad(rows, order.tolist()),
                "TorchJD": lambda rows=rows: peer(rows),
            }
        )
        floor_s = bandwidth.floor_s((2 * k + 1) * n * FLOAT_BYTES, clock.device)
        for name, values in samples.items():
            curves[name].append(statistics.median(values) / floor_s)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, ratios in curves.items():
        axes.loglog(lengths, ratios, marker="o", label=name)
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="elements per row", ylabel="time over bandwidth floor", title=f"PCGrad, K = {k}, {clock.device.type}"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def machine(device: torch.device) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_isa": kernels.cpu_isa(),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=Path("-"), help="write the record here, - for the terminal"
    )
    parser.add_argument("--plot", type=Path, help="draw the ratio to the floor over sizes into this file")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=9, help="of each case, at least")
    parser.add_argument(
        "--without-torchjd", action="store_true", help="compare nothing with TorchJD, where it is absent"
    )
    arguments = parser.parse_args(argv)
    if arguments.plot and arguments.without_torchjd:
        parser.error("--plot draws TorchJD's curve too: leave --without-torchjd out")
    torch.manual_seed(0)
    clock = Clock(device=torch.device(arguments.device), repeats=arguments.repeats)
    bandwidth = measure_bandwidth(clock)
    is_quiet = arguments.json == Path("-")
    records = []
    for family in families(has_torchjd=not arguments.without_torchjd):
        for case in family(clock.device):
            if arguments.only not in case.name:
                continue
            records.append(run_case(case, clock, bandwidth))
            if not is_quiet:
                print_case(records[-1])
    if arguments.plot:
        plot_sizes(clock, bandwidth, arguments.plot)
    result = {
        "machine": machine(clock.device),
        "bandwidth_bytes_per_s": {"read": bandwidth.read, "copy": bandwidth.copy},
        "cases": records,
    }
    if arguments.json:
        text = json.dumps(result, indent=2)
        print(text) if is_quiet else arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
