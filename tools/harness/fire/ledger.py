"""The consumers' ledger: an envelope's effect and its id are one transaction; a redelivery has no second effect.

What was acknowledged to publishers stands in files beside it, a line an id. `verdict` compares the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

BUSY_S = 60.0
LEDGER = "ledger.db"
ACKNOWLEDGED = "acknowledged"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS handled (event_id TEXT PRIMARY KEY, deliveries INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS effects (consumer TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID",
)
_ENTER = (
    "INSERT INTO handled VALUES (?, 1) ON CONFLICT (event_id) DO UPDATE SET deliveries = deliveries + 1"
    " RETURNING deliveries"
)
_COUNT = "INSERT INTO effects VALUES (?, 1) ON CONFLICT (consumer) DO UPDATE SET total = total + 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a count found. `effects` is what consumers did, counted apart from the ids."""

    acknowledged: int
    handled: int
    effects: int
    lost: int
    """Acknowledged and never handled."""
    unacknowledged: int
    """Handled though the publisher was not told that it stands: its answer was lost."""
    redelivered: int
    """Deliveries beyond the first, which had no effect."""

    @property
    def failures(self) -> list[str]:
        found = []
        if self.lost:
            found.append(f"{self.lost} acknowledged messages were never handled")
        if self.effects != self.handled:
            found.append(f"{self.effects} effects of {self.handled} messages: some were handled twice or not at all")
        return found


class Ledger:
    """One consumer's line to the ledger that all of them share."""

    def __init__(self, folder: Path, consumer: str) -> None:
        self._consumer = consumer
        self._db = sqlite3.connect(folder / LEDGER, timeout=BUSY_S, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        for table in _TABLES:
            self._db.execute(table)

    def handle(self, event_ids: Sequence[str]) -> None:
        """Do what is to be done for each id that was never handled before: count it."""
        self._db.execute("BEGIN IMMEDIATE")
        for event_id in event_ids:
            (deliveries,) = self._db.execute(_ENTER, (event_id,)).fetchone()
            if deliveries == 1:
                self._db.execute(_COUNT, (self._consumer,))
        self._db.execute("COMMIT")


def acknowledged(folder: Path) -> set[str]:
    """Every id that some publisher was told is stored; a line without its end was being written at a kill."""
    texts = (path.read_text() for path in sorted(folder.glob(f"{ACKNOWLEDGED}.*")))
    return {line for text in texts for line in text[: text.rfind("\n") + 1].split()}


def handled(folder: Path) -> dict[str, int]:
    """Deliveries of each id that was handled."""
    if not (folder / LEDGER).exists():
        return {}
    with closing(sqlite3.connect(folder / LEDGER, timeout=BUSY_S)) as db:
        return dict(db.execute("SELECT event_id, deliveries FROM handled"))


def effects(folder: Path) -> int:
    """What all consumers did."""
    with closing(sqlite3.connect(folder / LEDGER, timeout=BUSY_S)) as db:
        return int(db.execute("SELECT COALESCE(SUM(total), 0) FROM effects").fetchone()[0])


def verdict(promised: Iterable[str], done: dict[str, int], effects: int) -> Verdict:
    """Compare what was promised with what was done."""
    known = set(promised)
    return Verdict(
        acknowledged=len(known),
        handled=len(done),
        effects=effects,
        lost=len(known - done.keys()),
        unacknowledged=len(done.keys() - known),
        redelivered=sum(done.values()) - len(done),
    )
