"""What a drill measures: how long after its fault each alert fires, and how long after its end each clears."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tools.harness.drills.plane import DrilledPlane, drilled_plane, scraped
from tools.harness.drills.prometheus import Prometheus

LOOK_S = 0.1
READY_S = 120.0
Course = Callable[[DrilledPlane], Iterator[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """A fault, the alerts that it must raise, and the services that it needs."""

    name: str
    fault: str
    """In words."""
    alerts: tuple[str, ...]
    course: Course
    services: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """What became of one alert; None where it did not happen in time."""

    drill: str
    fault: str
    alert: str
    fired_s: float | None
    cleared_s: float | None

    @property
    def is_passed(self) -> bool:
        return self.fired_s is not None and self.cleared_s is not None


def drilled(drill: Drill, *, speed: float, timeout_s: float) -> list[Alarm]:
    """Run one drill. Prometheus's own time is real: seconds are those of this machine's clock."""
    targets = scraped(drill.services)
    with Prometheus(targets, speed) as prometheus, drilled_plane(targets) as plane:
        course = drill.course(plane)
        try:
            next(course)
            _until(prometheus.is_seeing, READY_S)
            _until(lambda: not prometheus.firing() & set(drill.alerts), timeout_s)
            fired = _watched(course, prometheus, drill.alerts, timeout_s, is_wanted=True)
            cleared = _watched(course, prometheus, drill.alerts, timeout_s, is_wanted=False)
        finally:
            course.close()  # type: ignore[attr-defined]
    return [
        Alarm(
            drill=drill.name,
            fault=drill.fault,
            alert=alert,
            fired_s=fired[alert],
            cleared_s=cleared[alert] if fired[alert] is not None else None,
        )
        for alert in drill.alerts
    ]


def _until(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the plane was not well within {timeout_s:g} s before its drill")
        time.sleep(LOOK_S)


def _watched(
    course: Iterator[None], prometheus: Prometheus, alerts: Sequence[str], timeout_s: float, *, is_wanted: bool
) -> dict[str, float | None]:
    """After how many seconds from the next part of the drill on each alert first fires, or first doesn't."""
    began_s = time.monotonic()
    next(course)
    found: dict[str, float | None] = dict.fromkeys(alerts)
    while None in found.values() and time.monotonic() - began_s < timeout_s:
        was_seeing, firing = prometheus.is_seeing(), prometheus.firing()
        # What can't be scraped has no alert either: that is not clear.
        is_told = is_wanted or (was_seeing and prometheus.is_seeing())
        for alert, seconds in found.items():
            if seconds is None and is_told and (alert in firing) == is_wanted:
                found[alert] = time.monotonic() - began_s
        time.sleep(LOOK_S)
    return found
