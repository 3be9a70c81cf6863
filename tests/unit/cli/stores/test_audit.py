from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.security.keys import Key, Keyring, KeySet, derive_key, new_secret, write_keys
from esper.core.security.signing import Signer, signature_of
from esper.kasmina.control.ledger import command_rows, database
from esper.leyline import AdaptationCommand, CommandOutcome, KasminaRunState, PauseOrder, SignedCommand
from tests.permissions import as_its_user
from tests.unit.kasmina.control.making import spec

RUN = "run-1"
Change = Callable[[sqlite3.Connection], object]


class Ledger:
    """A run's directory with the ledger that Kasmina would have written."""

    def __init__(self, run_dir: Path, commands: int = 3) -> None:
        self.run_dir = run_dir
        self.path = run_dir / "services" / "kasmina.db"
        self.path.parent.mkdir()
        secret = new_secret()
        (run_dir / "secret").write_text(secret + "\n")
        (run_dir / "secret").chmod(0o600)
        self.signer = Signer(Keyring.from_secret(secret), SYSTEM_CLOCK)
        self.change(database.create)
        for number in range(1, commands + 1):
            envelope = self.sign(number)
            self.change(lambda connection, envelope=envelope, number=number: self.insert(connection, envelope, number))

    def change(self, fn: Change) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            fn(connection)
            connection.commit()

    def sign(self, number: int, run_id: str = RUN) -> SignedCommand:
        command = AdaptationCommand(
            command_id=f"c{number}",
            training_run_id=run_id,
            generation=0,
            step=10 * number,
            issued_by="operator:me",
            pause=PauseOrder(rationale="lunch"),
        )
        return self.signer.sign(command, audience=f"kasmina/{run_id}")

    @staticmethod
    def insert(connection: sqlite3.Connection, envelope: SignedCommand, number: int) -> None:
        outcome = CommandOutcome(command_id=f"c{number}", accepted=True, recorded_at=timestamp(SYSTEM_CLOCK.now_ns()))
        command_rows.insert_command(
            connection, RUN, envelope, outcome, issued_by="operator:me", action="pause", step=10 * number, is_due=False
        )

    def verify(self) -> int:
        return main(["audit", "verify", str(self.run_dir)])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def stored(seq: int) -> Callable[[sqlite3.Connection], SignedCommand]:
    def read(connection: sqlite3.Connection) -> SignedCommand:
        row = connection.execute("SELECT envelope FROM commands WHERE seq = ?", (seq,)).fetchone()
        return SignedCommand.FromString(row[0])

    return read


def replace(seq: int, change: Callable[[SignedCommand], None]) -> Change:
    def apply(connection: sqlite3.Connection) -> None:
        envelope = stored(seq)(connection)
        change(envelope)
        connection.execute("UPDATE commands SET envelope = ? WHERE seq = ?", (envelope.SerializeToString(), seq))

    return apply


def test_an_honest_ledger_is_verified_and_told(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger.verify() == 0
    printed = capsys.readouterr().out
    assert "1 run-1 c1 ok     pause: lunch at step 10 by operator:me" in printed
    assert printed.endswith("3 commands, 0 failed, 0 missing\n")


def test_an_order_is_told_with_the_step_at_which_it_acted(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator doesn't know the run's step and may write any: here 40, while the run was at 770."""
    envelope = ledger.sign(4)

    def deliver(connection: sqlite3.Connection) -> None:
        outcome = CommandOutcome(command_id="c4", accepted=True, recorded_at=timestamp(SYSTEM_CLOCK.now_ns()))
        command_rows.insert_command(
            connection, RUN, envelope, outcome, issued_by="operator:me", action="pause", step=770, is_due=True
        )

    ledger.change(deliver)
    assert ledger.verify() == 0
    assert "pause: lunch for step 40, not delivered by operator:me" in capsys.readouterr().out

    def deliver_now(connection: sqlite3.Connection) -> None:
        row = command_rows.command_by_id(connection, RUN, "c4")
        assert row is not None
        row.outcome.delivery_step = 775
        command_rows.put_outcome(connection, row.outcome)
        command_rows.mark_delivered(connection, row, 775)

    ledger.change(deliver_now)
    assert ledger.verify() == 0
    assert "pause: lunch at step 775 by operator:me" in capsys.readouterr().out


def test_the_database_itself_can_be_named(ledger: Ledger) -> None:
    argv = ["audit", "verify", str(ledger.path), "--key", str(ledger.run_dir / "secret")]
    assert main(argv) == 0


def told_as_its_user(ledger: Ledger) -> tuple[int, str, str]:
    command = [*as_its_user(), sys.executable, "-m", "esper.cli.main", "audit", "verify", str(ledger.run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_ledger_is_verified_where_nothing_may_be_written(ledger: Ledger) -> None:
    ledger.change(lambda connection: connection.execute("PRAGMA journal_mode = WAL"))  # as the service has it
    ledger.path.parent.chmod(0o555)
    try:
        code, told, _ = told_as_its_user(ledger)
    finally:
        ledger.path.parent.chmod(0o755)
    assert code == 0
    assert told.endswith("3 commands, 0 failed, 0 missing\n")


@pytest.mark.parametrize("left", [("", "-wal"), ("", "-wal", "-shm")])
def test_so_is_what_a_killed_run_left_in_its_log(ledger: Ledger, left: tuple[str, ...]) -> None:
    """Also where somebody kept the log without the memory that its writer shared."""
    ledger.change(lambda connection: connection.execute("PRAGMA journal_mode = WAL"))
    with closing(sqlite3.connect(ledger.path)) as connection:
        ledger.insert(connection, ledger.sign(4), 4)
        connection.commit()
        kept = {part: Path(f"{ledger.path}{part}").read_bytes() for part in left}
    for part, content in kept.items():
        Path(f"{ledger.path}{part}").write_bytes(content)
    ledger.path.parent.chmod(0o555)
    try:
        code, told, refused = told_as_its_user(ledger)
    finally:
        ledger.path.parent.chmod(0o755)
    assert (code, refused) == (0, "")
    assert told.endswith("4 commands, 0 failed, 0 missing\n")


def test_a_ledger_of_another_user_is_named_with_the_remedy(ledger: Ledger) -> None:
    ledger.path.chmod(0o000)
    code, told, refused = told_as_its_user(ledger)
    assert (code, told) == (os.EX_NOPERM, "")
    remedy = "give this user the right to read and write it"
    assert refused == f"esper: {ledger.path} can't be used: Permission denied; {remedy}\n"


def test_a_changed_payload_is_found(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.change(replace(2, lambda envelope: setattr(envelope, "payload", envelope.payload + b"\x20\x63")))
    assert ledger.verify() == 1
    printed = capsys.readouterr().out
    assert "c2 FAILED signature by key 'k1' doesn't match; the payload isn't the one that was recorded" in printed
    assert printed.count("FAILED") == 1


def test_a_command_of_another_run_is_found(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    other = ledger.sign(2, run_id="run-2")
    ledger.change(replace(2, lambda envelope: envelope.CopyFrom(other)))
    assert ledger.verify() == 1
    assert "signed for 'kasmina/run-2'" in capsys.readouterr().out


def test_an_envelope_stored_twice_is_found(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    def copy(connection: sqlite3.Connection) -> None:
        first = stored(1)(connection)
        connection.execute("UPDATE commands SET envelope = ? WHERE seq = 3", (first.SerializeToString(),))

    ledger.change(copy)
    assert ledger.verify() == 1
    assert "its nonce was used by row 1" in capsys.readouterr().out


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_deleted_row_is_found_also_at_the_end(ledger: Ledger, capsys: pytest.CaptureFixture[str], seq: int) -> None:
    ledger.change(lambda connection: connection.execute("DELETE FROM commands WHERE seq = ?", (seq,)))
    assert ledger.verify() == 1
    assert f"rows missing from the ledger: {seq}" in capsys.readouterr().out


def test_an_exchanged_outcome_is_found(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    swap = "UPDATE commands SET outcome = (SELECT outcome FROM commands WHERE seq = 2) WHERE seq = 1"
    ledger.change(lambda connection: connection.execute(swap))
    assert ledger.verify() == 1
    assert "c1 FAILED its outcome belongs to another row" in capsys.readouterr().out


def test_another_secret_verifies_nothing(ledger: Ledger) -> None:
    (ledger.run_dir / "secret").write_text(new_secret())
    assert ledger.verify() == 1


def test_a_directory_without_a_ledger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(tmp_path)]) == 78
    assert "services/kasmina.db isn't there" in capsys.readouterr().err


def test_a_file_that_is_no_ledger_is_one_clear_line(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.path.write_bytes(b"no database" * 100)
    assert ledger.verify() == 1
    assert "can't be read as a ledger" in capsys.readouterr().err


def test_a_course_that_was_given_up_is_verified_and_told(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    opening = spec(2, gives_up_course=True)
    opening.training_run_id = RUN
    envelope = ledger.signer.sign(opening, audience=f"kasmina/{RUN}")
    ledger.change(lambda db: command_rows.give_up_course(db, RUN, envelope, applied_seq=3, step=40))
    ledger.verify()
    line = capsys.readouterr().out.splitlines()[3]
    assert "ok     generation 2 goes on otherwise" in line


class Rotated(Ledger):
    """A ledger whose key k1 was revoked; whoever has it still signs with it."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        secret = (run_dir / "secret").read_text().strip()
        keys = KeySet(active="k1", keys=(Key(key_id="k1", secret=secret),))
        self.keys = run_dir / "keys.json"
        revoked_ns = SYSTEM_CLOCK.now_ns()
        write_keys(self.keys, keys.with_key(Key(key_id="k2", secret=new_secret())).accepting_until("k1", revoked_ns))

    def verify(self) -> int:
        return main(["audit", "verify", str(self.run_dir), "--key", str(self.keys)])


def test_rows_of_a_key_that_was_revoked_since_are_believed_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Rotated(tmp_path).verify() == 0
    printed = capsys.readouterr().out
    assert "signed by keys that have ended since (3 by k1)" in printed
    assert printed.endswith("3 commands, 0 failed, 0 missing\n")


@pytest.mark.parametrize(
    ("back_s", "fault"),
    [
        (0, "signature by key 'k1' doesn't match"),
        (3600, "issued at 20"),
        (30, "key 'k1' had ended when it was recorded"),
    ],
)
def test_a_row_that_a_revoked_key_signed_fails_however_its_time_is_set_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], back_s: float, fault: str
) -> None:
    ledger = Rotated(tmp_path)
    envelope = ledger.sign(4)
    envelope.security.issued_at.CopyFrom(timestamp(SYSTEM_CLOCK.now_ns() - round(back_s * 1e9)))
    secret = (tmp_path / "secret").read_text().strip()
    envelope.security.signature = signature_of(derive_key(secret.encode(), "k1"), envelope)
    ledger.change(lambda connection: ledger.insert(connection, envelope, 4))
    assert ledger.verify() == 1
    assert fault in capsys.readouterr().out


def test_the_network_that_a_run_was_opened_with_is_shown_as_it_was_signed(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = spec()
    opened.manifest.submodules[0].output_shape.extend([6])
    state = KasminaRunState(training_run_id=opened.training_run_id)
    ledger.change(lambda connection: database.put_run(connection, "0" * 64, opened, state))
    assert main(["audit", "host", str(ledger.run_dir)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"run {opened.training_run_id}, generation {opened.generation}, seed {opened.seed}\n")
    assert f"weights {opened.manifest.weights_digest}" in told
    assert "fc1: Linear, 390 parameters -> 6 float32" in told


def test_a_ledger_that_is_none_is_no_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kasmina.db").write_bytes(b"no ledger")
    assert main(["audit", "host", str(tmp_path / "kasmina.db")]) != 0
    assert "can't be read as a ledger" in capsys.readouterr().err
