from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.core import wal
from esper.core.errors import CorruptRecord, StorageError
from esper.core.wal.format import FRAME_BYTES, HEADER_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reports.log"


def fill(path: Path, *payloads: bytes) -> None:
    with wal.Log(path) as log:
        for payload in payloads:
            log.append(1, payload)


def payloads(path: Path) -> list[bytes]:
    with wal.Log(path) as log:
        return [record.payload for record in log.records()]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=200)), max_size=20))
def test_what_was_appended_is_read_in_order_now_and_after_a_restart(
    tmp_path: Path, entries: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / os.urandom(8).hex()
    with wal.Log(path) as log:
        assert [log.append(kind, payload) for kind, payload in entries] == list(range(1, len(entries) + 1))
        assert [(record.type, record.payload) for record in log.records()] == entries
    with wal.Log(path) as log:
        assert not log.repaired
        assert log.last_seq == len(entries)
        assert [(record.seq, record.type, record.payload) for record in log.records()] == [
            (seq, kind, payload) for seq, (kind, payload) in enumerate(entries, 1)
        ]


def test_reading_can_start_after_a_sequence(path: Path) -> None:
    with wal.Log(path) as log:
        for payload in (b"a", b"b", b"c"):
            log.append(1, payload)
        assert [record.payload for record in log.records(after_seq=1)] == [b"b", b"c"]
        assert list(log.records(after_seq=3)) == []


def test_a_reader_sees_the_log_as_of_its_call(path: Path) -> None:
    with wal.Log(path) as log:
        log.append(1, b"a")
        reading = log.records()
        log.append(1, b"b")
        assert [record.payload for record in reading] == [b"a"]


def test_a_new_log_is_private(path: Path) -> None:
    fill(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_owner_is_refused(path: Path) -> None:
    with wal.Log(path), pytest.raises(StorageError, match="in use by another process"):
        wal.Log(path)


def test_a_torn_tail_is_cut_off_and_a_copy_kept(path: Path) -> None:
    fill(path, b"first", b"second")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with wal.Log(path) as log:
        assert log.repaired
        assert [record.payload for record in log.records()] == [b"first"]
        assert log.append(1, b"third") == 2
    assert path.with_name("reports.log.broken").read_bytes() == whole[:-3]
    assert payloads(path) == [b"first", b"third"]


def test_damage_before_a_whole_record_is_corruption(path: Path) -> None:
    fill(path, b"first", b"second", b"third")
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + FRAME_BYTES] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptRecord, match="2 whole records follow"):
        wal.Log(path)
    assert path.read_bytes() == bytes(raw)
    found = wal.inspect(path)
    assert (found.condition, found.records, found.records_after_damage) == (wal.Condition.CORRUPT, 0, 2)


def test_a_lenient_log_keeps_what_precedes_the_damage_and_a_copy_of_all(path: Path) -> None:
    fill(path, b"first", b"second", b"third")
    raw = bytearray(path.read_bytes())
    raw[-len(b"third") - FRAME_BYTES - 1] ^= 1
    path.write_bytes(raw)
    with wal.Log(path, strict=False) as log:
        assert log.repaired
        assert [record.payload for record in log.records()] == [b"first"]
    assert path.with_name("reports.log.broken").read_bytes() == bytes(raw)


def test_earlier_copies_of_damage_are_never_overwritten(path: Path) -> None:
    for _ in range(3):
        fill(path, b"x")
        path.write_bytes(path.read_bytes()[:-1])
        assert wal.repair(path).condition is wal.Condition.TORN
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["reports.log", "reports.log.broken", "reports.log.broken.2", "reports.log.broken.3"]


def test_a_record_of_another_log_is_no_record_of_this_one(path: Path) -> None:
    other = path.with_name("other.log")
    fill(path, b"mine")
    fill(other, b"", b"theirs")
    theirs = other.read_bytes()[HEADER_BYTES + FRAME_BYTES :]
    path.write_bytes(path.read_bytes() + theirs)
    assert wal.inspect(path).condition is wal.Condition.TORN
    assert payloads(path) == [b"mine"]


def test_a_repeated_record_is_not_taken_twice(path: Path) -> None:
    fill(path, b"a", b"b")
    raw = path.read_bytes()
    path.write_bytes(raw + raw[HEADER_BYTES : HEADER_BYTES + FRAME_BYTES + 1])
    assert payloads(path) == [b"a", b"b"]


def test_a_tail_of_zeros_is_torn(path: Path) -> None:
    fill(path, b"a")
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert wal.inspect(path).condition is wal.Condition.TORN
    assert payloads(path) == [b"a"]


def test_a_damaged_header_is_corruption(path: Path) -> None:
    fill(path, b"a")
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptRecord):
        wal.Log(path)


def test_a_copy_is_identical_and_never_overwrites(path: Path) -> None:
    fill(path, b"a")
    copy = path.with_name("copy.log")
    wal.backup(path, copy)
    assert copy.read_bytes() == path.read_bytes()
    with pytest.raises(StorageError, match="File exists"):
        wal.backup(path, copy)


def test_repairing_a_clean_log_changes_nothing(path: Path) -> None:
    fill(path, b"a")
    before = path.read_bytes()
    assert wal.repair(path).condition is wal.Condition.CLEAN
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["reports.log"]


def test_a_record_over_the_limit_is_refused_and_nothing_is_written(path: Path) -> None:
    with wal.Log(path) as log:
        with pytest.raises(StorageError, match="at most"):
            log.append(1, bytes(wal.MAX_PAYLOAD_BYTES + 1))
        assert log.append(1, b"next") == 1


def test_a_write_that_was_taken_in_part_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_write = os.pwrite

    def half(handle: int, raw: bytes, offset: int) -> int:
        return whole_write(handle, raw[: len(raw) // 2], offset)

    with wal.Log(path) as log:
        log.append(1, b"a")
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(StorageError, match="can't be written"):
            log.append(1, b"b" * 50)
        monkeypatch.undo()
        assert wal.inspect(path).condition is wal.Condition.CLEAN
        assert log.append(1, b"c") == 2
    assert payloads(path) == [b"a", b"c"]


def test_a_failed_fsync_is_fatal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[BaseException] = []
    log = wal.Log(path, on_fatal=deaths.append)
    log.append(1, b"a")

    def fail(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="fsync failed"):
        log.sync()
    assert len(deaths) == 1
    monkeypatch.undo()
    log.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """Inode and size of whatever was synced."""
    found: set[tuple[int, int]] = set()
    sync = os.fsync

    def note(handle: int) -> None:
        status = os.fstat(handle)
        found.add((status.st_ino, status.st_size))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    return found


def state_of(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_size


def test_a_repair_is_on_the_disk_when_it_returns(path: Path, synced: set[tuple[int, int]]) -> None:
    with wal.Log(path) as log:
        log.append(1, b"a")
    with path.open("ab") as file:
        file.write(b"torn")
    synced.clear()
    wal.repair(path)
    written = {state_of(path), state_of(path.with_name(path.name + ".broken")), state_of(path.parent)}
    assert written <= synced


def test_a_sync_reaches_the_logs_own_file(path: Path, synced: set[tuple[int, int]]) -> None:
    with wal.Log(path) as log:
        log.append(1, b"a")
        synced.clear()
        log.sync()
        assert state_of(path) in synced


def test_a_log_that_is_not_there_cannot_be_inspected(path: Path) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        wal.inspect(path)


def test_a_file_that_never_was_a_log_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    content = b"SQLite format 3\0" + os.urandom(5000)
    path.write_bytes(content)
    assert wal.inspect(path).condition is wal.Condition.FOREIGN
    for touch in (wal.repair, wal.Log, lambda path: wal.Log(path, strict=False)):
        with pytest.raises(CorruptRecord, match="doesn't begin as a log does"):
            touch(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("offset", [0, 8, 12, 31])
def test_a_log_whose_header_is_damaged_is_still_a_log(path: Path, offset: int) -> None:
    fill(path, b"a", b"b")
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    assert wal.inspect(path).condition is wal.Condition.CORRUPT
