"""The decision ledger keeps what it is given, and no more than it may."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core.decisions import decision_ledger
from esper.core.decisions.decision_ledger import Decided, append, create, rows


def decided(number: int = 0, *, generation: int = 1, content: bytes = b"") -> Decided:
    return Decided(
        run_id="run-1",
        generation=generation,
        step=number,
        kind="packet",
        version=1,
        before=content,
        given=b"",
        decision=content,
        after=content,
        circumstances={"plane": "degraded"},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def connection(ledger: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(ledger)) as opened:
        create(opened)
        yield opened


@given(parts=st.lists(st.binary(max_size=200), min_size=4, max_size=4))
@settings(max_examples=50)
def test_what_is_written_is_read(parts: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.db"
    before, given_, decision, after = parts
    row = Decided(
        run_id="ρ",
        generation=3,
        step=7,
        kind="k",
        version=2,
        before=before,
        given=given_,
        decision=decision,
        after=after,
    )
    with closing(sqlite3.connect(ledger)) as connection, connection:
        create(connection)
        append(connection, row, lambda: b"spec")
    (found,) = rows(ledger)
    assert (found.before, found.given, found.decision, found.after, found.spec) == (*parts, b"spec")
    assert (found.run_id, found.generation, found.step, found.kind, found.version) == ("ρ", 3, 7, "k", 2)


def test_the_newest_rows_stay(connection: sqlite3.Connection, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_ledger, "MAX_ROWS", 3)
    for number in range(10):
        append(connection, decided(number), lambda: b"spec")
    connection.commit()
    assert [row.step for row in rows(ledger)] == [7, 8, 9]


def test_a_spec_goes_with_the_last_row_that_needs_it(
    connection: sqlite3.Connection, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_ledger, "MAX_ROWS", 3)
    for generation in (1, 1, 2, 1, 3, 4, 5, 6):
        append(connection, decided(generation=generation), lambda: b"spec")
    connection.commit()
    assert [row.generation for row in rows(ledger)] == [4, 5, 6]
    kept = [generation for (generation,) in connection.execute("SELECT generation FROM decision_specs")]
    assert kept == [3, 4, 5, 6]  # those without a row go when the next generation begins


def test_a_spec_is_kept_once_for_each_generation(connection: sqlite3.Connection, ledger: Path) -> None:
    asked: list[int] = []

    def spec(number: int) -> bytes:
        asked.append(number)
        return b"spec %d" % number

    for generation in (1, 1, 2):
        append(connection, decided(generation=generation), lambda number=generation: spec(number))
    connection.commit()
    assert asked == [1, 2]
    assert [row.spec for row in rows(ledger)] == [b"spec 1", b"spec 1", b"spec 2"]


def test_a_row_of_a_transaction_that_is_undone_was_never_there(connection: sqlite3.Connection, ledger: Path) -> None:
    append(connection, decided(), lambda: b"spec")
    connection.rollback()
    assert list(rows(ledger)) == []


def test_the_state_after_costs_little_beside_the_state_before(connection: sqlite3.Connection, ledger: Path) -> None:
    state = bytes(range(256)) * 8
    append(connection, decided(content=state), lambda: b"spec")
    connection.commit()
    (size,) = connection.execute("SELECT length(record) FROM decisions").fetchone()
    assert size < len(state)
