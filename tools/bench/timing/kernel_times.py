"""Where a step's time goes on a device: its kernels by name, what lies between them, and what the host takes to ask.

Kernels of a CUDA graph are told one by one, as others are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SHOWN = 24  # kernels by name, those that take most
NAME_WIDTH = 90


def many(act: Callable[[], int], steps: int) -> int:
    """Call until so many steps were made, of which each call tells its number; returns how many it were."""
    made = 0
    while made < steps:
        made += act()
    return made


def kernel_times(act: Callable[[], int], least: int) -> dict[str, Any]:
    """A trace of so many steps or a few more; a call tells how many it made. Times are microseconds of one step.

    `host_us` is what the calls took without the profiler, before anything waited for the device; `wall_us` until that
    was done. Between two kernels of one step there is `gap_us` in all.
    """
    torch.cuda.synchronize()
    started = time.perf_counter()
    steps = many(act, least)
    asked = time.perf_counter()
    torch.cuda.synchronize()
    done = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        traced = many(act, least)
        torch.cuda.synchronize()
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in trace.events()
        if event.device_type == DeviceType.CUDA
    ]
    return {
        "host_us": (asked - started) / steps * 1e6,
        "wall_us": (done - started) / steps * 1e6,
        **of_spans(spans, traced),
    }


def of_spans(spans: Sequence[tuple[float, float, str]], steps: int) -> dict[str, Any]:
    """Of kernels as start, end and name, in microseconds."""
    ordered = sorted(spans)
    gaps = sorted(max(0.0, later[0] - earlier[1]) for earlier, later in pairwise(ordered))
    inside = gaps[: max(0, len(gaps) - (steps - 1))]  # the longest lie between steps
    count: Counter[str] = Counter()
    took: Counter[str] = Counter()
    for start, end, name in ordered:
        count[name[:NAME_WIDTH]] += 1
        took[name[:NAME_WIDTH]] += end - start
    return {
        "kernels": len(ordered) / steps,
        "kernel_us": sum(took.values()) / steps,
        "gap_us": sum(inside) / steps,
        "by_name": [
            {"name": name, "times": count[name] / steps, "us": us / steps} for name, us in took.most_common(SHOWN)
        ],
    }


def table(found: dict[str, Any]) -> str:
    """For a person."""
    head = (
        f"{found['kernels']:.1f} kernels a step take {found['kernel_us']:.1f} us and have {found['gap_us']:.1f} us "
        f"between them; the host asks for a step in {found['host_us']:.1f} us, the wall takes {found['wall_us']:.1f}"
    )
    lines = [f"  {each['times']:5.2f} x {each['us']:7.2f} us  {each['name']}" for each in found["by_name"]]
    return "\n".join([head, *lines])
