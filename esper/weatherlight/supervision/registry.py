"""Which services there are and when each was last heard. Kept on disk: a restart forgets nobody.

After a restart every service has one full term to be heard again before it counts as lost, and counts as well until
it says otherwise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

from esper.core.clock import NS_PER_S, Clock, timestamp
from esper.core.settings.config import require_positive
from esper.core.storage.store import SqliteStore
from esper.leyline import HealthStatus, HeartbeatRequest, RegisterServiceRequest, ServiceStatus

# A sign of life that says nothing new is stored this often: the disk has better to do every two seconds.
STORED_EVERY_NS = 30 * NS_PER_S
_COLUMNS = "service, instance, endpoint, version, run, health, summary, seen_ns"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryConfig:
    """Pace of heartbeats."""

    heartbeat_s: float = 2.0  # how often a service should be heard
    missed_until_lost: int = 3  # a service is lost after so many missed heartbeats
    forget_s: float = 3600.0  # a lost service is forgotten after this long

    def __post_init__(self) -> None:
        require_positive(self, "heartbeat_s", "missed_until_lost", "forget_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One service. `heard_ns` is this process's steady time, `seen_ns` the wall time of the last sign of life.

    `stored_ns` is the steady time at which it was last put on the disk.
    """

    service: str
    instance: str
    endpoint: str | None
    version: str
    run: str | None
    health: HealthStatus
    summary: str | None
    seen_ns: int
    heard_ns: int
    stored_ns: int
    is_lost: bool = False

    def status(self) -> ServiceStatus:
        return ServiceStatus(
            service=self.service,
            instance=self.instance,
            endpoint=self.endpoint,
            health=self.health,
            last_seen=timestamp(self.seen_ns),
            is_lost=self.is_lost,
            summary=self.summary,
            training_run_id=self.run,
        )


def create(connection: sqlite3.Connection) -> None:
    """Make the table if it is missing."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS services (service TEXT NOT NULL, instance TEXT NOT NULL, endpoint TEXT,"
        " version TEXT NOT NULL, run TEXT, health INTEGER NOT NULL, summary TEXT, seen_ns INTEGER NOT NULL,"
        " PRIMARY KEY (service, instance)) WITHOUT ROWID"
    )


class Registry:
    """Services by name and instance."""

    def __init__(self, store: SqliteStore, clock: Clock, config: RegistryConfig | None = None) -> None:
        self._store = store
        self._clock = clock
        self._config = config or RegistryConfig()
        self._entries = {(entry.service, entry.instance): entry for entry in self._stored()}

    @property
    def heartbeat_s(self) -> float:
        return self._config.heartbeat_s

    def statuses(self) -> list[ServiceStatus]:
        """Every service, in the order of its name."""
        return [self._entries[key].status() for key in sorted(self._entries)]

    def register(self, request: RegisterServiceRequest) -> Callable[[sqlite3.Connection], None]:
        """Enter a service; gives the write that makes it last. A new instance replaces lost ones of its name."""
        entry = Entry(
            service=request.service,
            instance=request.instance,
            endpoint=request.endpoint if request.HasField("endpoint") else None,
            version=request.version,
            run=request.training_run_id if request.HasField("training_run_id") else None,
            health=HealthStatus.HEALTH_STATUS_HEALTHY,
            summary=None,
            seen_ns=self._clock.now_ns(),
            heard_ns=self._clock.monotonic_ns(),
            stored_ns=self._clock.monotonic_ns(),
        )
        succeeded = [key for key, old in self._entries.items() if self._is_succeeded(old, entry)]
        for key in succeeded:
            del self._entries[key]
        self._entries[entry.service, entry.instance] = entry
        return lambda db: _write(db, succeeded, entry)

    def heartbeat(self, request: HeartbeatRequest) -> tuple[Entry, Callable[[sqlite3.Connection], None] | None] | None:
        """Note a sign of life; gives the entry as it was before, and the write. None: the service must register.

        No write where the sign says nothing new and one was stored a short while ago.
        """
        key = (request.service, request.instance)
        before = self._entries.get(key)
        if before is None:
            return None
        if request.is_leaving:
            del self._entries[key]
            return before, lambda db: _write(db, [key], None)
        entry = replace(
            before,
            health=request.health,
            summary=request.summary if request.HasField("summary") else None,
            run=request.training_run_id if request.HasField("training_run_id") else None,
            seen_ns=self._clock.now_ns(),
            heard_ns=self._clock.monotonic_ns(),
            is_lost=False,
        )
        told = ("health", "summary", "run", "is_lost")
        is_news = any(getattr(entry, name) != getattr(before, name) for name in told)
        if not is_news and entry.heard_ns - before.stored_ns < STORED_EVERY_NS:
            self._entries[key] = entry
            return before, None
        self._entries[key] = entry = replace(entry, stored_ns=entry.heard_ns)
        return before, lambda db: _write(db, [], entry)

    def sweep(self) -> tuple[list[Entry], Callable[[sqlite3.Connection], None]]:
        """Find the services that have become lost now, and forget the long lost; gives the write too."""
        now_ns = self._clock.monotonic_ns()
        term_ns = self._config.heartbeat_s * self._config.missed_until_lost * NS_PER_S
        lost, forgotten = [], []
        for key, entry in list(self._entries.items()):
            silent_ns = now_ns - entry.heard_ns
            if silent_ns > self._config.forget_s * NS_PER_S:
                forgotten.append(key)
                del self._entries[key]
            elif silent_ns > term_ns and not entry.is_lost:
                self._entries[key] = replace(entry, is_lost=True)
                lost.append(self._entries[key])
        return lost, lambda db: _write(db, forgotten, None)

    def _is_succeeded(self, old: Entry, new: Entry) -> bool:
        same_place = old.endpoint is not None and old.endpoint == new.endpoint
        return old.service == new.service and old.instance != new.instance and (old.is_lost or same_place)

    def _stored(self) -> list[Entry]:
        rows = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM services").fetchall())
        names = _COLUMNS.split(", ")
        heard_ns = self._clock.monotonic_ns()
        found = [Entry(**dict(zip(names, row, strict=True)), heard_ns=heard_ns, stored_ns=heard_ns) for row in rows]
        return [replace(entry, health=HealthStatus.HEALTH_STATUS_HEALTHY, summary=None, run=None) for entry in found]


def _write(db: sqlite3.Connection, gone: list[tuple[str, str]], entry: Entry | None) -> None:
    db.executemany("DELETE FROM services WHERE service = ? AND instance = ?", gone)
    if entry is not None:
        row = tuple(getattr(entry, name) for name in _COLUMNS.split(", "))
        db.execute(f"INSERT OR REPLACE INTO services VALUES ({', '.join('?' * len(row))})", row)
