"""Time that a part of the step takes on its device, added up without making the device wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper.core.clock import Clock

_READ_EVERY = 256


class DeviceTimer:
    """On the CPU the clock's time; on CUDA the time between two events, read when they have long passed."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self._is_cuda = device.type == "cuda"
        self._clock = clock
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._total_ms = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the time inside."""
        if not self._is_cuda:
            started_ns = self._clock.monotonic_ns()
            yield
            self._total_ms += (self._clock.monotonic_ns() - started_ns) / 1e6
            return
        if torch.cuda.is_current_stream_capturing():  # nothing runs now, and a graph's events tell no time
            yield
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        yield
        end.record()
        self._pending.append((start, end))
        if len(self._pending) > _READ_EVERY:
            self._read()

    def total_ms(self) -> float:
        """Everything so far; waits for what is still running."""
        self._read()
        return self._total_ms

    def _read(self) -> None:
        pending, self._pending = self._pending, []
        for start, end in pending:
            end.synchronize()
            self._total_ms += start.elapsed_time(end)
