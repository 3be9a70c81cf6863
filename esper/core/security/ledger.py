"""The nonce ledger: which signed requests were seen. It survives restarts, clock steps and its own limits.

Every method works inside a transaction of its caller, so that a nonce and what its command did are stored together
or not at all. Nothing issued at or before the fence is accepted; the fence rises when a live nonce has to be
forgotten, and starts at the time of creation, because nobody knows what was seen before.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from esper.core.clock import NS_PER_S, Clock, nanoseconds
from esper.core.errors import NonceReplayed
from esper.core.security.signing import MAX_AHEAD_NS, MAX_FRESHNESS_NS, expires_ns, require_fresh
from esper.leyline import CommandSecurity, RejectionReason

MAX_JUMP_NS = 3600 * NS_PER_S

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS nonces (key_id TEXT NOT NULL, nonce TEXT NOT NULL, issued_ns INTEGER NOT NULL,"
    " expires_ns INTEGER NOT NULL, PRIMARY KEY (key_id, nonce)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS nonces_by_issue ON nonces (issued_ns)",
    "CREATE INDEX IF NOT EXISTS nonces_by_expiry ON nonces (expires_ns)",
    "CREATE TABLE IF NOT EXISTS nonce_marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerStats:
    """Size now, live nonces ever evicted, fence, highest clock seen, and how long a nonce is kept at most."""

    size: int
    evictions: int
    fence_ns: int
    highest_wall_ns: int
    ttl_s: float


class NonceLedger:
    """Nonces by key. One instance for each database and process."""

    def __init__(self, clock: Clock, max_entries: int = 10_000) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}, at least 1 is needed")
        self._clock = clock
        self._max_entries = max_entries
        self._wall_ns = clock.now_ns()
        self._steady_ns = clock.monotonic_ns()

    def create(self, connection: sqlite3.Connection) -> None:
        """Make the tables if they are missing; a ledger that was lost fences off everything before now."""
        for statement in _SCHEMA:
            connection.execute(statement)
        now_ns = self._clock.now_ns()
        _put_if_absent(connection, "fence_ns", now_ns)
        _put_if_absent(connection, "evictions", 0)
        _put_if_absent(connection, "size", 0)
        _put_if_absent(connection, "highest_wall_ns", now_ns)

    def register(self, connection: sqlite3.Connection, security: CommandSecurity) -> None:
        """Enter a verified request's nonce, or raise: seen before, below the fence, or not of this time."""
        now_ns = self._believed_now(connection)
        issued_ns = nanoseconds(security.issued_at)
        if issued_ns <= _mark(connection, "fence_ns"):
            raise _replayed("it was issued before this service's fence; sign it anew")
        seen = "SELECT 1 FROM nonces WHERE key_id = ? AND nonce = ?"
        if connection.execute(seen, (security.key_id, security.nonce)).fetchone():
            raise _replayed("its nonce was used before; sign it anew, with the same command id")
        require_fresh(security, now_ns)
        self._forget(connection, "expires_ns < ?", now_ns)
        self._make_room(connection)
        if issued_ns <= _mark(connection, "fence_ns"):
            raise _replayed("the ledger is full of newer requests; sign it anew")
        row = (security.key_id, security.nonce, issued_ns, expires_ns(security))
        connection.execute("INSERT INTO nonces VALUES (?, ?, ?, ?)", row)
        _put(connection, "size", _mark(connection, "size") + 1)

    def raise_fence(self, connection: sqlite3.Connection, ns: int) -> None:
        """Accept nothing issued at or before `ns` any more. This never lowers the fence."""
        if ns > _mark(connection, "fence_ns"):
            _put(connection, "fence_ns", ns)
        self._forget(connection, "issued_ns <= ?", _mark(connection, "fence_ns"))

    def reset_clock(self, connection: sqlite3.Connection) -> None:
        """Believe the clock again after it ran ahead, and accept nothing issued up to now: an operator's step.

        Only here a fence may fall: one from the wrong time would refuse everything until that time comes. Requests
        that were signed then and are forgotten by now could be replayed when it does, unless their key has ended.
        """
        now_ns = self._clock.now_ns()
        self._wall_ns, self._steady_ns = now_ns, self._clock.monotonic_ns()
        _put(connection, "highest_wall_ns", now_ns)
        _put(connection, "fence_ns", now_ns)

    def stats(self, connection: sqlite3.Connection) -> LedgerStats:
        """What telemetry reports."""
        return LedgerStats(
            size=_mark(connection, "size"),
            evictions=_mark(connection, "evictions"),
            fence_ns=_mark(connection, "fence_ns"),
            highest_wall_ns=_mark(connection, "highest_wall_ns"),
            ttl_s=(MAX_FRESHNESS_NS + MAX_AHEAD_NS) / NS_PER_S,
        )

    def _believed_now(self, connection: sqlite3.Connection) -> int:
        """The wall clock, except that it never runs back, nor an hour ahead of the time that really passed.

        At start the clock is believed: nobody can tell a jump from a weekend.
        """
        wall_ns, steady_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        expected_ns = self._wall_ns + steady_ns - self._steady_ns
        if wall_ns > expected_ns + MAX_JUMP_NS:
            wall_ns = expected_ns
        else:
            self._wall_ns, self._steady_ns = wall_ns, steady_ns
        highest_ns = max(wall_ns, _mark(connection, "highest_wall_ns"))
        _put(connection, "highest_wall_ns", highest_ns)
        return highest_ns

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Evict the oldest nonces of a full ledger; the fence makes sure that they can't come back."""
        before = _mark(connection, "size")
        surplus = before + 1 - self._max_entries
        if surplus <= 0:
            return
        oldest = "SELECT issued_ns FROM nonces ORDER BY issued_ns LIMIT 1 OFFSET ?"
        self.raise_fence(connection, connection.execute(oldest, (surplus - 1,)).fetchone()[0])
        evicted = before - _mark(connection, "size")
        _put(connection, "evictions", _mark(connection, "evictions") + evicted)

    def _forget(self, connection: sqlite3.Connection, condition: str, ns: int) -> None:
        gone = connection.execute(f"DELETE FROM nonces WHERE {condition}", (ns,)).rowcount
        if gone:
            _put(connection, "size", _mark(connection, "size") - gone)


def _replayed(detail: str) -> NonceReplayed:
    return NonceReplayed(RejectionReason.REJECTION_REASON_NONCE_REPLAYED, detail)


def _mark(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute("SELECT value FROM nonce_marks WHERE name = ?", (name,)).fetchone()[0]
    return value


def _put(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("UPDATE nonce_marks SET value = ? WHERE name = ?", (value, name))


def _put_if_absent(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("INSERT OR IGNORE INTO nonce_marks VALUES (?, ?)", (name, value))
