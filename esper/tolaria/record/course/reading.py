"""Reading a run's events: whole lines only, and the run as it stands, without what a resume or a rollback undid."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from esper.core.errors import DependencyViolationError, StorageError
from esper.core.storage.files import read_regular
from esper.tolaria.record.course.forms import is_event

Record = Mapping[str, Any]

# What happened to a run, as opposed to what it did: it stays true when the run goes back.
INCIDENTS = (
    *("timeout", "mode", "service", "fault", "rollback", "failure", "resumed", "stopped", "doubt", "compiled", "room"),
    *("started", "emergency", "breaker", "graph"),
)
GOES_BACK = ("resumed", "rollback")
KEEPS = ("snapshot", "checkpoint")
"""A state is kept in memory; one is on the disk, which may be told a while after its boundary."""


def read_events(run_dir: Path) -> list[Record]:
    """Every whole line of events.jsonl; a line that a kill cut off or that was damaged since is left out."""
    path = run_dir / "events.jsonl"
    if not path.exists():
        raise DependencyViolationError("tolaria", "file", str(path), "is this the directory of a run?")
    try:
        lines = read_regular(path).splitlines()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return [event for line in lines if (event := parsed(line)) is not None]


def parsed(line: bytes | str) -> Record | None:
    """The event of a line; None if it holds none that is whole."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, not even text, or nested without end
        return None
    return event if is_event(event) else None


def of_kind(events: Sequence[Record], kind: str) -> list[Record]:
    """The events of one kind, in order."""
    return [event for event in events if event["kind"] == kind]


def seconds_of(event: Record) -> float | None:
    """When it was written, in seconds of the wall clock; None where it doesn't say."""
    try:
        return datetime.fromisoformat(event["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def standing(events: Iterable[Record]) -> list[Record]:
    """The events without those between a checkpoint and the moment when the run went back to it."""
    kept: list[Record] = []
    for event in events:
        if event["kind"] in GOES_BACK:
            kept = gone_back(event["step"], kept)
        kept.append(event)
    return kept


def gone_back(step: int, events: list[Record]) -> list[Record]:
    """The events that stand once the run has gone back to the state that it kept at that step.

    That state is the last word of its boundary, so what follows it is undone; incidents are not, nor is the news that
    it has reached the disk meanwhile.
    """
    kept = [place for place, event in enumerate(events) if event["kind"] in KEEPS and event.get("step") == step]
    if not kept:
        return events[:]
    end = kept[0] + 1
    return events[:end] + [event for event in events[end:] if event["kind"] in INCIDENTS or _is_of(event, step)]


def _is_of(event: Record, step: int) -> bool:
    told = event.get("step", step)
    return event["kind"] == "checkpoint" and isinstance(told, int) and told <= step


def cut_torn_line(path: Path) -> None:
    """Cut off a last line that was not written to its end, so that the next one stands alone."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
