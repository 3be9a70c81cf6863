"""The machine that trains, as its packets tell of it: memory, and how long the training thread waits for a processor.

That a processor is busy says nothing of a run that trains on it; that somebody else has it does. What is measured here
notes and alerts, and decides only under latency rules.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from esper.core.clock import NS_PER_S, Clock
from esper.kasmina.executor.memory.forecast import FreeMemory
from esper.kasmina.executor.memory.free import free_memory
from esper.leyline import HardwareContext

SCHEDULER = Path("/proc/thread-self/schedstat")
# A look takes up to a millisecond of the training thread, where control groups are nested.
EVERY_NS = NS_PER_S


class HardwareMeter:
    """Looks at the machine once a second at most, on the training thread."""

    def __init__(
        self,
        device: torch.device,
        threads: int,
        clock: Clock,
        *,
        free: FreeMemory = free_memory,
        scheduler: Path = SCHEDULER,
    ) -> None:
        self._device = device
        self._clock = clock
        self._free = free
        self._scheduler = scheduler
        self._seen = HardwareContext(device_type=device.type, cpu_cores=min(threads, os.cpu_count() or threads))
        self._times = self._read_times()
        self._due_ns = clock.monotonic_ns()

    def read(self) -> HardwareContext:
        """The machine now, or as it was at the last look."""
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + EVERY_NS
            self._look()
        return self._seen

    def _look(self) -> None:
        seen = self._seen = HardwareContext(device_type=self._seen.device_type, cpu_cores=self._seen.cpu_cores)
        free = self._free(self._device)
        if free.size_bytes is not None and free.total_bytes is not None:
            seen.memory_total_bytes = free.total_bytes
            seen.memory_used_bytes = max(0, free.total_bytes - free.size_bytes)
        before, self._times = self._times, self._read_times()
        if before is not None and self._times is not None:
            ran, waited = (now - then for now, then in zip(self._times, before, strict=True))
            seen.processor_wait = waited / max(1, ran + waited)

    def _read_times(self) -> tuple[int, int] | None:
        """Nanoseconds that this thread ran, and that it waited while it was ready (Linux, sched-stats)."""
        try:
            ran, waited, _ = self._scheduler.read_text().split()
        except (OSError, ValueError):
            return None
        return int(ran), int(waited)
