from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core import wal
from esper.core.clock import ManualClock, timestamp
from esper.core.errors import ContractError, CorruptRecord, StorageError
from esper.leyline import FieldReport
from esper.tamiyo.field_reports import report_log
from esper.tamiyo.field_reports.report_log import ReportLog
from esper.tamiyo.field_reports.reports import SUCCESS, Moment, Origin, closed, opened
from tests.unit.tamiyo.builders import ALWAYS, RUN, Simulation, spec

COMMAND = next(i.command for v in Simulation(run_spec=spec(ALWAYS)).run() for i in v.issues)
HOURS = 24.0


def log_at(path: Path, clock: ManualClock | None = None) -> ReportLog:
    return ReportLog(path / "field_reports.log", clock or ManualClock(), retention_hours=HOURS)


def report(number: int, clock: ManualClock | None = None, run: str = RUN) -> FieldReport:
    made = opened(COMMAND, Origin(time=_now(clock or ManualClock()), latency_ms=1.0))
    made.report_id, made.command_id, made.training_run_id = f"fr-{number}", str(number), run
    return made


def done(made: FieldReport, clock: ManualClock | None = None) -> FieldReport:
    return closed(made, SUCCESS, Moment(time=_now(clock or ManualClock()), step=900))


def _now(clock: ManualClock) -> Timestamp:
    return timestamp(clock.now_ns())


async def test_the_newest_version_of_a_report_counts_also_after_a_restart(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.put([report(1), report(2)])
    await log.put([done(report(1))])
    log.close()
    again = log_at(tmp_path)
    assert [item.report_id for item in again.of_run(RUN)] == ["fr-1", "fr-2"]
    assert again.get("fr-1") == done(report(1))
    assert (len(again), again.open_count) == (2, 1)
    again.close()


async def test_what_was_put_is_synced_to_the_disk_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, synced = log_at(tmp_path), []
    file = tmp_path / "field_reports.log"
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size)))
    await log.put([report(1)])
    assert synced[-1:] == [(file.stat().st_ino, file.stat().st_size)]
    await log.mark_published(["fr-1"])
    assert synced[-1:] == [(file.stat().st_ino, file.stat().st_size)]
    log.close()


async def test_reports_of_another_run_are_not_shown(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.put([report(1), report(2, run="other")])
    assert [item.report_id for item in log.open_of("other")] == ["fr-2"]
    log.close()


async def test_what_was_published_is_remembered_across_a_restart(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.put([done(report(1)), done(report(2)), report(3)])
    await log.mark_published(["fr-1"])
    assert [item.report_id for item in log.unpublished()] == ["fr-2"]
    log.close()
    again = log_at(tmp_path)
    assert [item.report_id for item in again.unpublished()] == ["fr-2"]
    again.close()


async def test_old_closed_reports_are_left_behind_at_the_next_start_and_open_ones_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    log = log_at(tmp_path, clock)
    await log.put([done(report(1), clock), done(report(2), clock), report(3)])
    await log.mark_published(["fr-1"])
    clock.advance(HOURS * 3600 + 1)
    await log.put([done(report(4), clock)])
    log.close()
    again = log_at(tmp_path, clock)
    assert [item.report_id for item in again.of_run(RUN)] == ["fr-3", "fr-4"]
    assert again.dropped_unpublished == 1
    await again.put([report(5, clock)])
    again.close()
    third = log_at(tmp_path, clock)
    assert [item.report_id for item in third.of_run(RUN)] == ["fr-3", "fr-4", "fr-5"]
    assert third.dropped_unpublished == 0
    third.close()


async def grown(log: ReportLog, numbers: range, clock: ManualClock) -> None:
    """Reports that were opened, closed and published."""
    for number in numbers:
        await log.put([report(number, clock)])
        await log.put([done(report(number, clock), clock)])
        await log.mark_published([f"fr-{number}"])


async def rewritten(log: ReportLog) -> None:
    """Until a rewriting that is under way is over."""
    await asyncio.to_thread(log._rewriting.submit(lambda: None).result)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_log, "MIN_BYTES", 2000)


@pytest.mark.usefixtures("small")
async def test_a_log_in_use_is_written_anew_without_what_is_old_whenever_it_has_doubled(tmp_path: Path) -> None:
    clock, file, sizes = ManualClock(), tmp_path / "field_reports.log", list[int]()
    log = log_at(tmp_path, clock)
    await log.put([report(1000, clock)])
    for day in range(30):
        await grown(log, range(10 * day, 10 * day + 10), clock)
        await rewritten(log)
        sizes.append(file.stat().st_size)
        clock.advance(HOURS * 3600 + 1)
    assert max(sizes) < 3 * max(sizes[:3])
    assert len(log) < 50
    assert log.dropped_unpublished == 0
    names = [item.report_id for item in log.of_run(RUN)]
    assert (names[0], names[-1]) == ("fr-1000", "fr-299")
    log.close()
    with wal.Log(file) as kept:
        assert {record.type for record in kept.records()} == {report_log.REPORT, report_log.PUBLISHED}
    again = log_at(tmp_path, clock)
    assert [item.report_id for item in again.of_run(RUN)] == ["fr-1000"]
    assert not list(tmp_path.glob("*.new"))
    again.close()


@pytest.mark.usefixtures("small")
async def test_what_is_put_while_the_log_is_written_anew_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, successor = threading.Event(), threading.Event(), ReportLog._successor

    def held(log: ReportLog, oldest_ns: int) -> tuple[wal.Log, int]:
        found = successor(log, oldest_ns)
        begun.set()
        go_on.wait(20)
        return found

    monkeypatch.setattr(ReportLog, "_successor", held)
    clock = ManualClock()
    log, inode = log_at(tmp_path, clock), (tmp_path / "field_reports.log").stat().st_ino
    await grown(log, range(10), clock)
    assert await asyncio.to_thread(begun.wait, 20)
    await log.put([report(10, clock), report(11, clock)])
    await grown(log, range(10, 11), clock)
    go_on.set()
    await rewritten(log)
    assert (tmp_path / "field_reports.log").stat().st_ino != inode
    await log.put([report(12, clock)])
    log.close()
    again = log_at(tmp_path, clock)
    assert [item.report_id for item in again.of_run(RUN)] == [f"fr-{number}" for number in range(13)]
    assert (again.unpublished(), again.open_count) == ([], 2)
    again.close()


@pytest.mark.usefixtures("small")
async def test_what_grows_old_unpublished_in_a_log_in_use_is_told(tmp_path: Path) -> None:
    clock, told = ManualClock(), list[int]()
    log = log_at(tmp_path, clock)
    log.on_drop = told.append
    await log.put([done(report(number, clock), clock) for number in range(3)])
    clock.advance(HOURS * 3600 + 1)
    await grown(log, range(3, 20), clock)
    await rewritten(log)
    assert (sum(told), log.dropped_unpublished, log.get("fr-0")) == (3, 3, None)
    log.close()


@pytest.mark.usefixtures("small")
async def test_a_log_that_has_no_room_beside_it_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append, clock = wal.Log.append, ManualClock()

    def full(log: wal.Log, type: int, payload: bytes) -> int:
        if log.path.suffix == ".new":
            raise StorageError("no space left on device")
        return append(log, type, payload)

    with monkeypatch.context() as patched:
        patched.setattr(wal.Log, "append", full)
        log = log_at(tmp_path, clock)
        await grown(log, range(10), clock)
        await rewritten(log)
    assert "stays as long as it is: no space left" in caplog.text
    inode = (tmp_path / "field_reports.log").stat().st_ino
    await grown(log, range(10, 60), clock)
    await rewritten(log)
    log.close()
    assert (tmp_path / "field_reports.log").stat().st_ino != inode
    again = log_at(tmp_path, clock)
    assert len(again) == 60
    again.close()


async def test_a_torn_last_record_is_cut_off_and_told(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.put([report(1), report(2)])
    log.close()
    file = tmp_path / "field_reports.log"
    file.write_bytes(file.read_bytes()[:-3])
    again = log_at(tmp_path)
    assert again.repaired
    assert [item.report_id for item in again.of_run(RUN)] == ["fr-1"]
    again.close()


async def test_damage_in_the_middle_is_never_skipped(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    await log.put([report(1), report(2), report(3)])
    log.close()
    file = tmp_path / "field_reports.log"
    raw = bytearray(file.read_bytes())
    raw[60] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CorruptRecord):
        log_at(tmp_path)


@given(count=st.integers(0, 12), size=st.integers(1, 5))
@settings(max_examples=20)
async def test_pages_give_every_report_once_in_order(
    count: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = log_at(tmp_path_factory.mktemp("pages"))
    await log.put([report(number) for number in range(count)])
    seen, token = [], ""
    while True:
        page, token = log.page(RUN, size=size, after_id=token)
        assert len(page) <= size
        seen.extend(item.report_id for item in page)
        if not token:
            break
    assert seen == [f"fr-{number}" for number in range(count)]
    log.close()


async def test_a_page_token_of_no_report_is_refused(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    with pytest.raises(ContractError, match="page_token"):
        log.page(RUN, size=10, after_id="fr-9")
    log.close()


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.unit.tamiyo.field_reports.test_report_log import log_at, report
async def work():
    log = log_at(Path(sys.argv[1]))
    for number in range(10_000):
        log._full_bytes = int(sys.argv[2]) or log._full_bytes
        await log.put([report(number)])
        print(number, flush=True)
asyncio.run(work())
"""
NEVER, ALWAYS_ANEW = 0, 1


@pytest.mark.parametrize(("full_bytes", "count"), [(NEVER, 20), *((ALWAYS_ANEW, count) for count in (20, 40, 41, 43))])
def test_a_report_that_was_acknowledged_survives_kill_9(tmp_path: Path, full_bytes: int, count: int) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(full_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(count)]
        child.send_signal(signal.SIGKILL)
    log = log_at(tmp_path)
    kept = {item.report_id for item in log.of_run(RUN)}
    log.close()
    assert {f"fr-{number}" for number in acknowledged} <= kept
