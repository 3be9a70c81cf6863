"""Scenarios as people write them: TOML files, each a story of a rule that fires and clears.

A file says in `says` what it shows, sets the scene, and goes through its `[[then]]` stages in order. A stage first says
what happens, then what must be seen at its end. A key that no player knows is an error: a scenario can't be silently
weaker than it reads.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from esper.leyline import Event, HealthStatus, ModeUpdate, SystemMode, TelemetryLevel, TelemetryPacket

HERE = Path(__file__).parent
# Nothing here is about what survives a power cut.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
T = TypeVar("T")


def files(room: str) -> list[Path]:
    """The scenarios of one room."""
    return sorted((HERE / room).glob("*.toml"))


def read(path: Path, scene: type[T], stage: type) -> T:
    """A scenario, its stages in `then`."""
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    stages = [_made(stage, entry, path) for entry in written.pop("then")]
    made: T = _made(scene, written | {"name": path.stem, "then": stages}, path)
    return made


def _made(kind: type, written: dict[str, Any], path: Path) -> Any:
    known = {item.name for item in fields(kind)}
    unknown = sorted(written.keys() - known)
    if unknown:
        raise ValueError(f"{path.name}: {', '.join(unknown)} is no key of a {kind.__name__.lower()}; known: {known}")
    return kind(**written)


class Telling:
    """A reporter that keeps what it is told, and gives it out once for each stage."""

    dropped = 0
    plane = ModeUpdate(mode=SystemMode.SYSTEM_MODE_NORMAL)
    mode = SystemMode.SYSTEM_MODE_NORMAL

    def __init__(self) -> None:
        self._packets: list[TelemetryPacket] = []

    def send(self, packet: TelemetryPacket) -> None:
        self._packets.append(packet)

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return

    def taken(self) -> list[TelemetryPacket]:
        """Since it was last asked."""
        packets, self._packets = self._packets, []
        return packets


@dataclass
class Seen:
    """What the scenarios put through the services: values by field, the events, the metrics."""

    values: dict[tuple[str, str], set[object]] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)

    def note(self, *messages: Message) -> None:
        """Every field of the messages and of those in them. Absence is a value where it is legal to be absent."""
        for message in messages:
            self._note(message)

    def _note(self, message: Message) -> None:
        name = message.DESCRIPTOR.name
        there = dict.fromkeys(message.DESCRIPTOR.fields)
        for descriptor, value in message.ListFields():
            there[descriptor] = value
        for descriptor, value in there.items():
            kept = self.values.setdefault((name, descriptor.name), set())
            if descriptor.message_type is not None:
                children = _children(descriptor, value)
                kept.add(len(children))
                for child in children:
                    self._note(child)
            elif descriptor.is_repeated:
                kept.update([len(value or ()), *(value or ())])
            else:
                kept.add(value)

    def tell(self, packets: Iterable[TelemetryPacket]) -> Iterator[Event]:
        """Note telemetry, and give back its events in order."""
        for packet in packets:
            self._note(packet)
            self.metrics |= {metric.name for metric in packet.metrics}
            self.events |= {event.name for event in packet.events}
            yield from packet.events


def _children(descriptor: Any, value: Any) -> list[Message]:
    if value is None:
        return []
    return list(value) if descriptor.is_repeated else [value]


def unusual(events: Iterable[Event]) -> set[str]:
    """Names of what is worth a look: a stage has to list these, each of them."""
    return {event.name for event in events if event.level >= TelemetryLevel.TELEMETRY_LEVEL_WARNING}


@contextmanager
def told_where(where: str) -> Iterator[None]:
    """Whatever fails in here says in which scenario and stage."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise


def must_be(where: str, what: str, found: object, expected: object) -> None:
    """Raise AssertionError with both, and the place in the story."""
    assert found == expected, f"{where}: {what}: {found} was seen, the scenario says {expected}"


def must_have_told(where: str, events: list[Event], expected: Iterable[str]) -> None:
    """Everything that was expected was told, and nothing unusual beyond it."""
    told, wanted = {event.name for event in events}, set(expected)
    assert wanted <= told, f"{where}: {sorted(wanted - told)} did not come; told: {sorted(told)}"
    surprise = unusual(events) - wanted
    assert not surprise, f"{where}: {sorted(surprise)} came, which no line of the scenario expects"
