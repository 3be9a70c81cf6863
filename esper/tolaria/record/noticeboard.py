"""Where other threads leave what they have to say: the training thread tells it at the next boundary."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esper.tolaria.record.observer import Boundary, Notice, Observer, RunStarted


class Noticeboard(Observer):
    """Observer that knows the newest step, and passes on what was pinned since the last boundary."""

    def __init__(self, tell: Callable[[Sequence[Notice]], None]) -> None:
        self._tells = [tell]
        self._pinned: deque[tuple[str, str]] = deque()
        self.step: int | None = None
        """Newest step; None before the run begins."""

    def pin(self, name: str, message: str) -> None:
        """Leave a warning; any thread may."""
        self._pinned.append((name, message))

    def tell_too(self, tell: Callable[[Sequence[Notice]], None]) -> None:
        """Have somebody else hear of it from now on."""
        self._tells.append(tell)

    def pass_on(self) -> None:
        """Tell what is pinned, the oldest first."""
        while self._pinned:
            name, message = self._pinned.popleft()
            notice = Notice(step=self.step or 0, name=name, level="WARNING", message=message)
            for tell in self._tells:
                tell([notice])

    def on_start(self, started: RunStarted) -> None:
        self.step = started.step
        self.pass_on()

    def on_boundary(self, boundary: Boundary) -> None:
        self.step = boundary.step
        self.pass_on()

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self.pass_on()
