"""`esper ledger`: the nonces that a stopped service remembers, its belief about the time, and its decisions again."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from esper.cli.stores import replay
from esper.cli.usage import Verbs, add_group, add_verb
from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, utc_text
from esper.core.errors import ConfigError, StorageError
from esper.core.lasted import lasted
from esper.core.security.ledger import NonceLedger
from esper.core.storage.read_only import looked_at
from esper.core.storage.store import SqliteStore

T = TypeVar("T")


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "ledger", "look at a stopped service's ledger, correct its clock, replay its decisions")
    show = add_verb(group, "show", run_show, "print size, fence and the latest time that the ledger has seen")
    show.add_argument("database", type=Path, metavar="DB", help="e.g. RUN_DIR/services/kasmina.db")
    reset = add_verb(group, "reset-clock", run_reset_clock, "believe this machine's clock again after it ran ahead")
    reset.add_argument("database", type=Path, metavar="DB", help="the same, of a service that is stopped")
    again = add_verb(group, "replay", replay.run, "decide again what a ledger recorded; exit code 1 where it differs")
    replay.add_arguments(again)


def run_show(arguments: argparse.Namespace) -> int:
    with _opened(arguments.database) as (store, ledger):
        stats = _done(store, ledger.stats)
    ahead_s = (stats.highest_wall_ns - SYSTEM_CLOCK.now_ns()) / NS_PER_S
    remedy = f", {lasted(ahead_s)} ahead of this machine; see reset-clock" if ahead_s > 0 else ""
    print(f"nonces       {stats.size}, {stats.evictions} evicted so far")
    print(f"fence        nothing issued up to {utc_text(stats.fence_ns)} is accepted")
    print(f"latest time  {utc_text(stats.highest_wall_ns)}{remedy}")
    return 0


def run_reset_clock(arguments: argparse.Namespace) -> int:
    with _opened(arguments.database) as (store, ledger):
        _done(store, ledger.reset_clock)
    print("the ledger believes this machine's clock; nothing issued up to now is accepted")
    print("rotate the keys if commands were signed while the clock was ahead: `esper keys rotate`, then `revoke`")
    return 0


@contextmanager
def _opened(database: Path) -> Iterator[tuple[SqliteStore, NonceLedger]]:
    """The store and its ledger; a service that runs keeps its database to itself."""
    if not database.is_file():
        raise ConfigError(
            "DB", str(database), "is no file; name a service's database, e.g. RUN_DIR/services/kasmina.db"
        )
    _require_ledger(database)
    store = SqliteStore(database, lambda connection: None)
    try:
        yield store, NonceLedger(SYSTEM_CLOCK)
    finally:
        store.close()


def _require_ledger(database: Path) -> None:
    """Look before opening: another program's database must not become one of ours."""
    try:
        with looked_at(database) as connection:
            connection.execute("SELECT value FROM nonce_marks")
    except sqlite3.Error as error:
        raise StorageError(f"{database} holds no nonce ledger: {error}") from error


def _done(store: SqliteStore, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        return store.submit(work).result()
    except sqlite3.Error as error:
        raise StorageError(f"{store.path} holds no nonce ledger: {error}") from error
