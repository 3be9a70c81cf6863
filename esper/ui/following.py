"""Following a run's directory while it is written: new lines only, torn ones when they are whole, undone ones gone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from esper.core.security.run_line import LOCK
from esper.core.storage.file_lock import says_held
from esper.tolaria.record.course.forms import is_event
from esper.tolaria.record.course.reading import GOES_BACK, Record, gone_back, parsed, seconds_of
from esper.tolaria.record.page.view import view

EVENTS, SUMMARY = "events.jsonl", "summary.json"
# A run is silent when nothing was heard for this long, and for so many times as its longest recent pause.
SILENT_S, PAUSES = 10.0, 3.0
RECENT = 30
# A view is made anew at most after so many times as long as the last one took: following a long run stays cheap.
REST = 10.0
CHUNK_BYTES = 2**22


class Following:
    """One run's events so far, and its view; threads may ask for it at once. `now` is the wall time in seconds."""

    def __init__(self, run_dir: Path, now: Callable[[], float] = time.time) -> None:
        self.run_dir = run_dir
        self._now = now
        self._lock = threading.Lock()
        self._forget()
        self._made: tuple[tuple[Any, ...], Any] | None = None
        self._made_at, self._took_s = 0.0, 0.0
        self._version = 0

    def _forget(self) -> None:
        self._events: list[Record] = []
        self._file: tuple[int, int] = (0, 0)
        self._offset = 0
        self._head = b""
        self._damaged = 0

    def look(self) -> tuple[str, Any]:
        """The newest view, and a version that changes with it. What can't be read is told in the view's place."""
        with self._lock:
            self._read()
            summary = self._summary()
            is_held = says_held(self.run_dir / LOCK)
            state = (self._file, self._offset, self._damaged, is_held, None if summary is None else summary[0])
            if self._made is None or (self._made[0] != state and self._is_rested):
                began = time.monotonic()
                made = view(self._events, None if summary is None else summary[1], is_held=is_held)
                self._made_at = time.monotonic()
                self._took_s = self._made_at - began
                self._made = (state, made)
                self._version += 1
            return f"{self._file[1]}-{self._version}", self._made[1]

    @property
    def _is_rested(self) -> bool:
        return time.monotonic() - self._made_at >= REST * self._took_s

    def liveness(self) -> dict[str, Any]:
        """How old the newest event is now, whether that is unusual for this run, and what couldn't be read."""
        with self._lock:
            stamps = [at for event in self._events[-RECENT:] if (at := seconds_of(event)) is not None]
        now = self._now()
        pauses = [later - earlier for earlier, later in pairwise(stamps)]
        silent_s = max(SILENT_S, PAUSES * max(pauses, default=0.0))
        age_s = max(0.0, now - stamps[-1]) if stamps else None
        return {
            "now": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "last_event_age_s": age_s,
            "silent_after_s": silent_s,
            "is_held": says_held(self.run_dir / LOCK),
            "damaged_lines": self._damaged,
            "size_bytes": self._offset,
        }

    def _read(self) -> None:
        """Take what was appended; a file that another one replaced, or that was cut, is read from its start."""
        path = self.run_dir / EVENTS
        try:
            with path.open("rb") as file:
                self._begin(file)
                while lines := self._whole_lines(file):
                    self._offset += sum(map(len, lines))
                    for event in _events(lines):
                        self._take(event)
        except OSError:
            self._forget()

    def _begin(self, file: BinaryIO) -> None:
        """Begin anew where the file is another one: a new file may have the number of one that was removed."""
        found = os.fstat(file.fileno())
        is_same = (found.st_dev, found.st_ino) == self._file and found.st_size >= self._offset
        if not is_same or file.read(len(self._head)) != self._head:
            self._forget()
            self._file = (found.st_dev, found.st_ino)

    def _whole_lines(self, file: BinaryIO) -> list[bytes]:
        """Some of the lines that follow; one that is still being written is read again from its start."""
        file.seek(self._offset)
        lines = [line for line in file.readlines(CHUNK_BYTES) if line.endswith(b"\n")]
        if self._offset == 0 and lines:
            self._head = lines[0]
        return lines

    def _take(self, event: Record | None) -> None:
        if event is None:
            self._damaged += 1
            return
        if event["kind"] in GOES_BACK:
            self._events = gone_back(event["step"], self._events)
        self._events.append(event)

    def _summary(self) -> tuple[float, dict[str, Any]] | None:
        """The finished run's summary and when it was written; one that is damaged or being written counts as none."""
        path = self.run_dir / SUMMARY
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return path.stat().st_mtime, found
        return None


def _events(lines: Sequence[bytes]) -> Iterator[Record | None]:
    """Each line's event, None for one that holds none. Read at once, events share the texts of their keys, and
    a long run takes less memory. A damaged line shows by an error, or by another number of values than of lines."""
    try:
        found = json.loads(b"[%b]" % b",".join(lines))
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(lines):
        yield from map(parsed, lines)
        return
    for event in found:
        yield event if is_event(event) else None
