"""The door for signed requests: one transaction for nonce and work, and every refusal counted and told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import CommandRejected, LifecycleConflict, NonceReplayed
from esper.core.security.keys import Keyring
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Signer, Verifier
from esper.core.storage.store import SqliteStore
from esper.kasmina.control.artifacts.access import ArtifactAccess, Breaker
from esper.kasmina.control.ledger import database
from esper.kasmina.control.ledger.admission import Admission
from esper.kasmina.control.reporting import Reporting
from esper.leyline import AdaptationCommand, RejectionReason, SignedCommand, TelemetryPacket
from esper.urza.artifacts import ArtifactStore
from tests.unit.kasmina.control.making import CATALOG, RUN, command, germinate
from tests.unit.kasmina.control.service import SECRET

REPLAYED = RejectionReason.REJECTION_REASON_NONCE_REPLAYED
MALFORMED = RejectionReason.REJECTION_REASON_MALFORMED_PAYLOAD


class Door:
    """Admission over a real store, and what it told."""

    def __init__(self, path: Path) -> None:
        clock, keyring = ManualClock(), Keyring.from_secret(SECRET)
        ledger = NonceLedger(clock)

        def create(connection: sqlite3.Connection) -> None:
            ledger.create(connection)
            database.create(connection)
            connection.execute("CREATE TABLE done (name TEXT)")

        self.store = SqliteStore(path, create)
        self.packets: list[TelemetryPacket] = []
        artifacts = ArtifactAccess(CATALOG, ArtifactStore(), Breaker(name="artifacts"))
        self.reporting = Reporting(clock, self.packets.append, artifacts)
        self.admission = Admission(Verifier(keyring, clock), ledger, self.store, clock, self.reporting)
        self._signer = Signer(keyring, clock)
        clock.advance(1)

    def signed(self, message: AdaptationCommand) -> SignedCommand:
        return self._signer.sign(message, audience=f"kasmina/{RUN}")

    @property
    def done(self) -> list[str]:
        return self.store.read(lambda c: [name for (name,) in c.execute("SELECT name FROM done")])


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "a.db")
    yield made
    made.store.close()


def insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO done VALUES ('whole')")


def insert_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO done VALUES ('half')")
    raise LifecycleConflict("no")


async def test_work_that_fails_is_undone_and_its_nonce_stays_used(door: Door) -> None:
    envelope = door.signed(germinate())
    with pytest.raises(LifecycleConflict):
        await door.admission.commit(envelope, insert_and_fail)
    assert door.done == []
    with pytest.raises(NonceReplayed):
        await door.admission.commit(envelope, insert)
    assert door.done == []
    await door.admission.commit(door.signed(germinate()), insert)
    assert door.done == ["whole"]
    assert door.reporting.counters.accepted == 1


async def test_a_replayed_request_is_counted_and_told_also_when_its_payload_is_of_no_use(door: Door) -> None:
    envelope = door.signed(command())  # no action
    for _ in range(2):
        with pytest.raises(CommandRejected):
            await door.admission.opened(envelope, AdaptationCommand)
    assert dict(door.reporting.counters.rejected) == {MALFORMED: 1, REPLAYED: 1}
    assert [event.name for packet in door.packets for event in packet.events] == ["command_rejected"] * 2
