"""How batches come from the host onto the device: when they are asked for, or while the step before them computes.

What is fetched ahead is the same batch as in its turn, by the same call. A loader whose batches can't be had again may
draw them from the generators of the run: it is asked once the step before was made, so that these stand as they did.
No position counts a batch until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import leaves, mapped
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.device import sent
from esper.tolaria.task.feeds.copy_stream import CopyStream

Make = Callable[[int], Any]
"""The batch of a step on the host, by the step's number."""
SLOTS = 2
"""Batches that are fetched ahead at most: the main arm's next one, and that of a twin which makes up for its steps."""


class Mark(Protocol):
    """A moment on the device."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds to another."""


class Sent(Protocol):
    """A batch under way."""

    @property
    def copied(self) -> tuple[Any, Any]:
        """The moments at which its copy begins and ends."""


class Lane(Protocol):
    """Takes batches to the device beside what it computes."""

    def send(self, batch: Any) -> Any:
        """Begin to copy; returns what is under way, a `Sent`."""

    def receive(self, under_way: Any) -> Any:
        """The batch on the device; what computes there waits for the copy, nobody else."""

    def mark(self) -> Any:
        """The moment at which what computes comes here, a `Mark`."""


@dataclass(slots=True)
class DeviceTimes:
    """What a batch cost by the device's own clock, to be read when the device has passed it."""

    idle: list[tuple[Mark, Mark]] = field(default_factory=list)
    copied: tuple[Mark, Mark] | None = None

    def wait_ms(self) -> float:
        """How long the device had nothing to compute because this batch was made or copied."""
        return sum(_between(*span) for span in self.idle)

    def copy_ms(self) -> float:
        """How long the copy took."""
        return 0.0 if self.copied is None else _between(*self.copied)


class Carrier:
    """Brings batches when they are asked for."""

    times: DeviceTimes | None = None
    """Of the batch that was brought last; None where the asker's clock tells all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def bring(self, step: int, make: Make) -> Any:
        """The batch of the step on the device."""
        return on(make(step), self.device)

    def ahead(self, step: int) -> None:
        """Nothing is fetched before it is asked for."""

    def forget(self) -> None:
        """Nothing is on its way."""


class FetchingAhead(Carrier):
    """Brings a batch while the step before it computes."""

    def __init__(self, device: torch.device, lane: Lane) -> None:
        super().__init__(device)
        self._lane = lane
        self._make: Make | None = None
        self._under_way: dict[int, tuple[Sent, DeviceTimes]] = {}

    def bring(self, step: int, make: Make) -> Any:
        """The batch of the step on the device: what is under way, else made now."""
        self._make = make
        if step not in self._under_way:
            self._send(step, make)
        under_way, times = self._under_way.pop(step)
        asked = self._lane.mark()
        batch = self._lane.receive(under_way)
        times.idle.append((asked, self._lane.mark()))
        self.times = times
        return batch

    def ahead(self, step: int) -> None:
        """Begin to bring the batch of a step that comes next; errors of its loader come out here."""
        if self._make is not None and step not in self._under_way:
            self._send(step, self._make)
            while len(self._under_way) > SLOTS:
                del self._under_way[next(iter(self._under_way))]

    def forget(self) -> None:
        """Let go of what is under way: its loader goes on elsewhere."""
        self._under_way.clear()

    def _send(self, step: int, make: Make) -> None:
        began = self._lane.mark()
        under_way: Sent = self._lane.send(make(step))
        # Marks close to each other where the device still computes; where it has nothing else to do, what it waited.
        times = DeviceTimes([(began, self._lane.mark())], under_way.copied)
        self._under_way[step] = under_way, times


def carrier_for(config: TrainConfig, device: torch.device) -> Carrier:
    """What brings a run's batches. Raises ConfigError where the device can't copy beside what it computes."""
    if not config.gpu_prefetch:
        return Carrier(device)
    if device.type != "cuda":
        raise ConfigError("gpu_prefetch", True, f"needs a CUDA device, got device {device}; leave it out")
    return FetchingAhead(device, CopyStream(device))


def on(batch: Any, device: torch.device) -> Any:
    """The batch, or a part of one, on a device; what is no tensor stays as it is."""
    if all(tensor.device == device for tensor in leaves(batch)):
        return batch
    return mapped(batch, lambda leaf: sent(leaf, device) if isinstance(leaf, Tensor) else leaf)


def _between(start: Mark, end: Mark) -> float:
    end.synchronize()
    return start.elapsed_time(end)
