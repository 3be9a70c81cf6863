"""`esper audit verify`: check every command in a run's ledger again, offline, from the envelopes that were stored."""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from esper.cli.key_source import add_key_flag, keyring_for
from esper.cli.stores import audit_host
from esper.cli.stores.databases import find
from esper.cli.usage import Verbs, add_group, add_verb, run_directory
from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, nanoseconds
from esper.core.counted import counted
from esper.core.decisions.decisions import in_words, reasons_in_words
from esper.core.errors import CommandRejected, StorageError
from esper.core.plain import plain
from esper.core.security.keys import Keyring
from esper.core.security.signing import MAX_AHEAD_NS, Verifier, expires_ns, open_payload
from esper.core.storage.read_only import looked_at
from esper.kasmina.control.ledger.command_rows import GIVEN_UP, payload_digest
from esper.leyline import AdaptationCommand, CommandOutcome, KasminaRunSpec, RegistryReset, SignedCommand

DATABASE = "kasmina.db"
Payload = AdaptationCommand | RegistryReset | KasminaRunSpec
# What a row may hold: a command, a registry's reset, or the opening by which a run gave up the course it was on.
PAYLOADS: dict[str, type[Payload]] = {
    cls.DESCRIPTOR.full_name: cls for cls in (AdaptationCommand, RegistryReset, KasminaRunSpec)
}
_ROWS = "SELECT seq, run_id, command_id, payload_sha256, envelope, outcome FROM commands ORDER BY seq"
_LAST_SEQ = "SELECT seq FROM sqlite_sequence WHERE name = 'commands'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A command as Kasmina's ledger holds it."""

    seq: int
    run_id: str
    command_id: str
    payload_sha256: str
    envelope: SignedCommand
    outcome: CommandOutcome


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "audit", "prove what a run was told to do")
    parser = add_verb(
        group, "verify", run, "verify every signature and row of a run's ledger; exit code 1 if one fails"
    )
    host = add_verb(group, "host", audit_host.run, "show the network that a run was opened with, as it was signed")
    for verb in (parser, host):
        verb.add_argument(
            "run_dir", type=run_directory, metavar="RUN_DIR", help="a run's directory, or Kasmina's database"
        )
    add_key_flag(parser, default="RUN_DIR/secret if it is there, else env")


def run(arguments: argparse.Namespace) -> int:
    ledger = find(arguments.run_dir, DATABASE)
    keyring = keyring_for(arguments.key, arguments.run_dir)
    rows, last_seq = read_rows(ledger)
    failed = 0
    for row, faults in verified(rows, keyring):
        failed += bool(faults)
        verdict = f"FAILED {'; '.join(faults)}" if faults else f"ok     {_told(row)}"
        print(plain(f"{row.seq:6} {row.run_id} {row.command_id} {verdict}"))
    missing = missing_rows(rows, last_seq)
    if ended := signed_by_ended_keys(rows, keyring):
        told = ", ".join(f"{count} by {key_id}" for key_id, count in sorted(ended.items()))
        print(plain(f"signed by keys that have ended since ({told}): believed at the time that this ledger recorded"))
    if missing:
        print(f"rows missing from the ledger: {', '.join(map(str, missing))}")
    print(f"{counted(len(rows), 'command')}, {failed} failed, {len(missing)} missing")
    return 1 if failed or missing else 0


def read_rows(ledger: Path) -> tuple[list[Row], int]:
    """Every row, and the highest number that was ever given to one. The database isn't changed."""
    try:
        with looked_at(ledger) as connection:
            found = [_row(*columns) for columns in connection.execute(_ROWS)]
            last = connection.execute(_LAST_SEQ).fetchone()
    except sqlite3.Error as error:
        raise StorageError(f"{ledger} can't be read as a ledger: {error}") from error
    return found, last[0] if last else 0


def verified(rows: list[Row], keyring: Keyring) -> Iterator[tuple[Row, list[str]]]:
    """Each row with everything that is wrong with it."""
    verifier = Verifier(keyring, SYSTEM_CLOCK)
    nonces: dict[tuple[str, str], int] = {}
    for row in rows:
        security = row.envelope.security
        faults = list(_faults(row, verifier))
        first = nonces.setdefault((security.key_id, security.nonce), row.seq)
        if first != row.seq:
            faults.append(f"its nonce was used by row {first}")
        yield row, faults


def signed_by_ended_keys(rows: list[Row], keyring: Keyring) -> Counter[str]:
    """Rows whose key isn't accepted any more, by key: whoever has it can sign such a row, not have it recorded."""
    now_ns = SYSTEM_CLOCK.now_ns()
    ids = (row.envelope.security.key_id for row in rows)
    return Counter(key_id for key_id in ids if key_id in keyring.key_ids and keyring.key(key_id, now_ns) is None)


def missing_rows(rows: list[Row], last_seq: int) -> list[int]:
    """Numbers that were given and are no longer there: rows are never deleted."""
    return sorted(set(range(1, last_seq + 1)) - {row.seq for row in rows})


def _faults(row: Row, verifier: Verifier) -> Iterator[str]:
    """What doesn't fit together in one row. Age is no fault: the key had to be valid when it signed."""
    envelope = row.envelope
    if not verifier.is_authentic(envelope, nanoseconds(envelope.security.issued_at)):
        yield f"signature by key {envelope.security.key_id!r} doesn't match"
    yield from _untimely(row, verifier)
    if envelope.audience != f"kasmina/{row.run_id}":
        yield f"signed for {envelope.audience!r}"
    if hashlib.sha256(envelope.payload).hexdigest() != row.payload_sha256:
        yield "the payload isn't the one that was recorded"
    if envelope.payload_type not in PAYLOADS:
        yield f"signed as {envelope.payload_type!r}"
        return
    try:
        payload = open_payload(envelope, PAYLOADS[envelope.payload_type])
    except CommandRejected as error:
        yield error.detail
        return
    command_id = _command_id(envelope, payload)
    if (command_id, payload.training_run_id) != (row.command_id, row.run_id):
        yield f"the payload is command {command_id!r} of run {payload.training_run_id!r}"
    if row.outcome.command_id != row.command_id or row.outcome.ledger_seq != row.seq:
        yield "its outcome belongs to another row"


def _untimely(row: Row, verifier: Verifier) -> Iterator[str]:
    """What a row signed with a key that had ended, and a time that was set back, can't have: a recording to match."""
    security = row.envelope.security
    if not row.outcome.HasField("recorded_at"):
        if row.envelope.payload_type != KasminaRunSpec.DESCRIPTOR.full_name:  # an opening has a row, but no outcome
            yield "its outcome doesn't say when it was recorded"
        return
    recorded_ns, issued_ns = nanoseconds(row.outcome.recorded_at), nanoseconds(security.issued_at)
    if not -MAX_AHEAD_NS <= recorded_ns - issued_ns <= expires_ns(security) - issued_ns + MAX_AHEAD_NS:
        yield f"issued at {_clock_time(issued_ns)}, but recorded at {_clock_time(recorded_ns)}"
    if verifier.is_authentic(row.envelope, issued_ns) and not verifier.is_authentic(row.envelope, recorded_ns):
        yield f"key {security.key_id!r} had ended when it was recorded"


def _clock_time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / NS_PER_S, UTC).isoformat(timespec="seconds")


def _command_id(envelope: SignedCommand, payload: Payload) -> str:
    """What a row is named for: a reset and an opening have no id of their own."""
    if isinstance(payload, RegistryReset):
        return f"registry_reset-{envelope.security.nonce}"
    if isinstance(payload, KasminaRunSpec):
        return f"{GIVEN_UP}-{payload_digest(envelope)}"
    return payload.command_id


def _told(row: Row) -> str:
    if row.envelope.payload_type == KasminaRunSpec.DESCRIPTOR.full_name:
        generation = KasminaRunSpec.FromString(row.envelope.payload).generation
        return f"generation {generation} goes on otherwise: what was ordered since its checkpoint is given up"
    if row.envelope.payload_type == RegistryReset.DESCRIPTOR.full_name:
        return f"registry reset: {RegistryReset.FromString(row.envelope.payload).rationale}"
    command = AdaptationCommand.FromString(row.envelope.payload)
    reasons = reasons_in_words(command.metadata)
    refusal = "" if row.outcome.accepted else f" -> refused: {row.outcome.detail}"
    why = f" ({reasons})" if reasons else ""
    return f"{in_words(command)} {_when(row, command)} by {command.issued_by}{why}{refusal}"


def _when(row: Row, command: AdaptationCommand) -> str:
    """The step at which it acted: an operator, who doesn't know the run's step, may have named any."""
    if row.outcome.HasField("delivery_step"):
        return f"at step {row.outcome.delivery_step}"
    return f"for step {command.step}, not delivered" if row.outcome.accepted else f"at step {command.step}"


def _row(seq: int, run_id: str, command_id: str, digest: str, envelope: bytes, outcome: bytes) -> Row:
    return Row(
        seq=seq,
        run_id=run_id,
        command_id=command_id,
        payload_sha256=digest,
        envelope=SignedCommand.FromString(envelope),
        outcome=CommandOutcome.FromString(outcome),
    )
