"""Figures of a sample, and what they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import esper
from esper.tolaria.record.ending.summary import quantile, said_of_processor

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds of the wall, and of this thread on its processor."""

    wall_ms: float
    cpu_ms: float


class Watch:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def spent(self) -> Spent:
        """So far."""
        return Spent((time.perf_counter() - self._wall) * 1e3, (time.thread_time() - self._cpu) * 1e3)


def statistics(values: Sequence[float], name: str) -> Figures:
    """Mean, median, 95th percentile (linear between neighbours) and maximum of times in milliseconds."""
    return {
        f"{name}_mean_ms": sum(values) / max(1, len(values)),
        f"{name}_p50_ms": quantile(values, 0.5),
        f"{name}_p95_ms": quantile(values, 0.95),
        f"{name}_max_ms": max(values, default=0.0),
    }


def environment(device: str) -> dict[str, Any]:
    """The machine and what runs on it."""
    is_cuda = device.startswith("cuda")
    return {
        "torch_version": torch.__version__,
        "cuda_available": torch.cuda.is_available(),
        "device": device,
        "accelerator": torch.cuda.get_device_name(device) if is_cuda else None,
        "processor": said_of_processor("model name") or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python_version": platform.python_version(),
        "esper_version": esper.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }
