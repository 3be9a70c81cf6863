from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, ManualClock
from esper.core.security.ledger import NonceLedger
from esper.core.storage.store import SqliteStore

DAY_NS = 86_400 * NS_PER_S


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A ledger that was made while the machine's clock was a day ahead."""
    path = tmp_path / "kasmina.db"
    SqliteStore(path, NonceLedger(ManualClock(SYSTEM_CLOCK.now_ns() + DAY_NS)).create).close()
    return path


def marks(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, value FROM nonce_marks"))


def test_a_ledger_tells_that_its_time_is_ahead(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "show", str(database)]) == 0
    printed = capsys.readouterr().out
    assert "nonces       0, 0 evicted" in printed
    assert "ahead of this machine; see reset-clock" in printed


def test_a_corrected_clock_is_believed_and_what_was_signed_before_is_not(database: Path) -> None:
    start_ns = SYSTEM_CLOCK.now_ns()
    assert main(["ledger", "reset-clock", str(database)]) == 0
    found = marks(database)
    assert start_ns <= found["highest_wall_ns"] == found["fence_ns"] <= SYSTEM_CLOCK.now_ns()


def test_a_running_services_ledger_is_left_alone(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = SqliteStore(database, lambda connection: None)
    assert main(["ledger", "reset-clock", str(database)]) == 78
    assert "in use by another process" in capsys.readouterr().err
    store.close()


def test_a_database_without_a_ledger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.db"
    SqliteStore(path, lambda connection: None).close()
    assert main(["ledger", "show", str(path)]) == 1
    assert "holds no nonce ledger" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert main(["ledger", "show", str(tmp_path / "absent.db")]) == 78
    assert list(tmp_path.iterdir()) == []
