from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core.clock import ManualClock, timestamp
from esper.core.errors import ContractError, CorruptRecord
from esper.leyline import FieldReport
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
        await log.put([report(number)])
        print(number, flush=True)
asyncio.run(work())
"""


def test_a_report_that_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(20)]
        child.send_signal(signal.SIGKILL)
    log = log_at(tmp_path)
    kept = {item.report_id for item in log.of_run(RUN)}
    log.close()
    assert {f"fr-{number}" for number in acknowledged} <= kept
