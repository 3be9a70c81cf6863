"""Metrics and events: declared once by the package that emits them, measured by name from then on.

A packet's priority is computed here, once, when the packet is built.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from esper.core.clock import NS_PER_S, Clock, timestamp
from esper.core.priority import priority_of
from esper.leyline import (
    Attribute,
    Event,
    Metric,
    TelemetryLevel,
    TelemetryPacket,
    TraceContext,
)

AttributeValue = str | float | int | bool

# Random bytes per packet would be a system call each, in which a busy process loses the interpreter.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(1)
# A sender waits as long before it sends what waits: figures in between would be overtaken before anybody saw them.
FIGURES_EVERY_NS = NS_PER_S


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A declared metric: its name is a contract with dashboards."""

    name: str
    unit: str
    help: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventSpec:
    """A declared event: its name is a contract with alert rules."""

    name: str
    level: TelemetryLevel
    help: str
    attributes: tuple[str, ...] = ()


def metric(spec: MetricSpec, value: float, **attributes: AttributeValue) -> Metric:
    """One measurement. An attribute that isn't declared is a ValueError."""
    return Metric(name=spec.name, value=value, unit=spec.unit, attributes=_attributes(spec, attributes))


def event(spec: EventSpec, clock: Clock, message: str | None = None, **attributes: AttributeValue) -> Event:
    """One event, stamped now. An attribute that isn't declared is a ValueError."""
    return Event(
        name=spec.name,
        level=spec.level,
        attributes=_attributes(spec, attributes),
        time=timestamp(clock.now_ns()),
        message=message,
    )


def build_packet(
    source: str,
    clock: Clock,
    *,
    metrics: Iterable[Metric] = (),
    events: Iterable[Event] = (),
    run: str | None = None,
    step: int | None = None,
    trace: TraceContext | None = None,
) -> TelemetryPacket:
    """A packet ready to send, its priority that of its worst event."""
    events = tuple(events)
    return TelemetryPacket(
        packet_id=f"{source}-{_PROCESS}-{os.getpid()}-{next(_NUMBERS)}",
        source=source,
        training_run_id=run,
        time=timestamp(clock.now_ns()),
        priority=priority_of(events),
        metrics=metrics,
        events=events,
        trace=trace,
        step=step,
    )


class Pace:
    """When figures are sent: with whatever happened, else once a second, however short a run's steps are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_ns = clock.monotonic_ns()

    def admits(self, *, has_news: bool) -> bool:
        """Whether to send now; the next figures alone are then due a second later."""
        now_ns = self._clock.monotonic_ns()
        if not has_news and now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + FIGURES_EVERY_NS
        return True


def attribute_value(attribute: Attribute) -> AttributeValue:
    """The value of a received attribute."""
    kind = attribute.WhichOneof("value")
    if kind is None:
        raise ValueError(f"attribute {attribute.key!r} has no value")
    value: AttributeValue = getattr(attribute, kind)
    return value


def _attributes(spec: MetricSpec | EventSpec, values: dict[str, AttributeValue]) -> list[Attribute]:
    undeclared = sorted(values.keys() - set(spec.attributes))
    if undeclared:
        raise ValueError(f"{spec.name} declares no attribute {', '.join(undeclared)}; it has {spec.attributes}")
    return [_attribute(key, value) for key, value in values.items()]


def _attribute(key: str, value: AttributeValue) -> Attribute:
    # bool first: in Python it is an int as well.
    if isinstance(value, bool):
        return Attribute(key=key, flag=value)
    if isinstance(value, int):
        return Attribute(key=key, integer=value)
    if isinstance(value, float):
        return Attribute(key=key, real=value)
    return Attribute(key=key, text=value)
