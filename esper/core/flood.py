"""A flood of like events: the first of a window are told one by one, the rest as one count when it ends.

Whoever provokes events from outside thus can't make the telemetry that tells of them grow without bound, and no event
goes uncounted. Used on the event loop alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from esper.core.clock import NS_PER_S, Clock

K = TypeVar("K", bound=Hashable)
WINDOW_S = 1.0
TOLD_SINGLY = 5


@dataclass(slots=True)
class _Window:
    end_ns: int
    admitted: int = 0
    held: int = 0


class Flood(Generic[K]):
    """`tell_held` gets a kind of event and how many of them were not told singly; kinds must be few."""

    def __init__(
        self,
        clock: Clock,
        tell_held: Callable[[K, int], None],
        *,
        window_s: float = WINDOW_S,
        told_singly: int = TOLD_SINGLY,
    ) -> None:
        self._clock = clock
        self._tell_held = tell_held
        self._window_s = window_s
        self._told_singly = told_singly
        self._windows: dict[K, _Window] = {}

    def admits(self, kind: K) -> bool:
        """Whether the event is to be told by itself; if not, the count at the end of the window holds it."""
        now_ns = self._clock.monotonic_ns()
        window = self._windows.get(kind)
        if window is None or now_ns >= window.end_ns:
            self._close(kind)
            window = self._windows[kind] = _Window(end_ns=now_ns + round(self._window_s * NS_PER_S))
        if window.admitted < self._told_singly:
            window.admitted += 1
            return True
        if not window.held:
            self._close_later(kind, window)
        window.held += 1
        return False

    def flush(self) -> None:
        """Tell now what is held."""
        for kind in list(self._windows):
            self._close(kind)

    def _close(self, kind: K) -> None:
        window = self._windows.pop(kind, None)
        if window is not None and window.held:
            self._tell_held(kind, window.held)

    def _close_later(self, kind: K, window: _Window) -> None:
        left_s = (window.end_ns - self._clock.monotonic_ns()) / NS_PER_S
        asyncio.get_running_loop().call_later(left_s, self._close_window, kind, window)

    def _close_window(self, kind: K, window: _Window) -> None:
        """The loop's clock says that the window is over; whether it is, ours decides."""
        if self._windows.get(kind) is not window:
            return
        if self._clock.monotonic_ns() < window.end_ns:
            self._close_later(kind, window)
        else:
            self._close(kind)
