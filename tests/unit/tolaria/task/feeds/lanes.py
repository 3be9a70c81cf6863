"""A lane to a device that is none: what is under way can't be used before it is received, and time is told by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from esper.kasmina.executor.passes.batches import mapped


@dataclass(frozen=True)
class Moment:
    """So many milliseconds after the beginning."""

    at_ms: float

    def synchronize(self) -> None:
        """It has come."""

    def elapsed_time(self, end: Moment, /) -> float:
        return end.at_ms - self.at_ms


@dataclass
class Parcel:
    """A batch that is sealed until it is received."""

    batch: Any
    copied: tuple[Moment, Moment]


class HostLane:
    """Copies at once and counts; `now_ms` is the device's clock."""

    def __init__(self, copy_ms: float = 2.0) -> None:
        self.now_ms = 0.0
        self.sent = self.received = 0
        self._copy_ms = copy_ms

    def send(self, batch: Any) -> Parcel:
        self.sent += 1
        copy = mapped(batch, lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)
        return Parcel(copy, (Moment(self.now_ms), Moment(self.now_ms + self._copy_ms)))

    def receive(self, under_way: Parcel) -> Any:
        self.received += 1
        return under_way.batch

    def mark(self) -> Moment:
        return Moment(self.now_ms)
