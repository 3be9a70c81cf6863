"""A nonce that was acknowledged is refused for ever: after kill -9, a restart, a clock step and a full ledger."""

from __future__ import annotations

import random
from concurrent.futures import Future
from pathlib import Path

import pytest

from esper.core.clock import NS_PER_S, ManualClock, duration, timestamp
from esper.core.errors import CommandRejected, NonceReplayed
from esper.core.security.ledger import NonceLedger
from esper.core.storage.store import SqliteStore
from esper.leyline import CommandSecurity
from tests.contract.crash import acknowledged_before_kill

START_NS = ManualClock().now_ns()

REGISTERS_UNTIL_KILLED = """
import pathlib, sys
from esper.core.clock import ManualClock, duration, timestamp
from esper.core.security.ledger import NonceLedger
from esper.core.storage.store import SqliteStore
from esper.leyline import CommandSecurity
clock = ManualClock(int(sys.argv[4]))
ledger = NonceLedger(clock, int(sys.argv[3]))
store = SqliteStore(pathlib.Path(sys.argv[1]), ledger.create)
for n in range(1_000_000):
    clock.advance(0.0001)
    nonce = f"{sys.argv[2]}-{n}"
    issued_ns = clock.now_ns()
    security = CommandSecurity(
        key_id="k1", nonce=nonce, issued_at=timestamp(issued_ns), freshness_window=duration(100)
    )
    store.submit(lambda connection: ledger.register(connection, security)).result()
    print(nonce, issued_ns, flush=True)
"""


def security(nonce: str, issued_ns: int) -> CommandSecurity:
    return CommandSecurity(key_id="k1", nonce=nonce, issued_at=timestamp(issued_ns), freshness_window=duration(100))


def still_accepted(path: Path, clock: ManualClock, acknowledged: list[tuple[str, int]], max_entries: int) -> list[str]:
    ledger = NonceLedger(clock, max_entries)
    store = SqliteStore(path, ledger.create)
    answers: list[tuple[str, Future[None]]] = []
    for nonce, issued_ns in acknowledged:
        command = security(nonce, issued_ns)
        answers.append((nonce, store.submit(lambda connection, command=command: ledger.register(connection, command))))
    accepted = [nonce for nonce, answer in answers if not isinstance(answer.exception(30), CommandRejected)]
    store.close()
    return accepted


def killed_once(path: Path, life: int, at_least: int, max_entries: int) -> list[tuple[str, int]]:
    lines = acknowledged_before_kill(
        REGISTERS_UNTIL_KILLED,
        str(path),
        f"life{life}",
        str(max_entries),
        str(START_NS + life * NS_PER_S),
        at_least=at_least,
    )
    return [(nonce, int(issued)) for nonce, issued in (line.split() for line in lines)]


@pytest.mark.parametrize("max_entries", [10_000, 20])
def test_no_acknowledged_nonce_is_accepted_after_kill_9(tmp_path: Path, max_entries: int) -> None:
    path = tmp_path / "a.db"
    acknowledged: list[tuple[str, int]] = []
    for life in range(4):
        acknowledged += killed_once(path, life, 10 + 17 * life, max_entries)
        if life == 0:
            assert len(acknowledged) >= 10
    for step_s in (0, 3600, -3600):
        clock = ManualClock(START_NS + 10 * NS_PER_S + step_s * NS_PER_S)
        assert still_accepted(path, clock, acknowledged, max_entries) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_let_no_nonce_in_twice(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / "a.db"
    for life in range(1000):
        acknowledged = killed_once(path, life, chance.randrange(1, 40), 10_000)
        clock = ManualClock(START_NS + (life + 1) * NS_PER_S)
        assert still_accepted(path, clock, acknowledged, 10_000) == []


def test_a_ledger_that_was_deleted_accepts_nothing_from_its_former_life(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged = killed_once(path, 0, 10, 10_000)
    for file in tmp_path.glob("a.db*"):
        file.unlink()
    clock = ManualClock(START_NS + 10 * NS_PER_S)
    assert still_accepted(path, clock, acknowledged, 10_000) == []


def test_a_nonce_and_what_its_command_did_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    clock = ManualClock()
    ledger = NonceLedger(clock)

    def create(connection: object) -> None:
        ledger.create(connection)
        connection.execute("CREATE TABLE commands (id TEXT PRIMARY KEY)")

    store = SqliteStore(tmp_path / "a.db", create)
    clock.advance(1)

    def apply(nonce: str, command_id: str) -> Future[None]:
        def both(connection: object) -> None:
            ledger.register(connection, security(nonce, clock.now_ns()))
            connection.execute("INSERT INTO commands VALUES (?)", (command_id,))

        return store.submit(both)

    assert apply("n1", "c1").exception(10) is None
    assert "UNIQUE" in str(apply("n2", "c1").exception(10))
    assert apply("n2", "c2").exception(10) is None
    assert isinstance(apply("n2", "c3").exception(10), NonceReplayed)
    assert store.read(lambda connection: connection.execute("SELECT count(*) FROM commands").fetchone()) == (2,)
    store.close()
