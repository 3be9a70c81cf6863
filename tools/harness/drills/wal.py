"""The drills of framed logs: a restore from a copy, step by step, and a soak in damage."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from esper.core import wal
from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.errors import CorruptRecord, StorageError
from esper.leyline import FieldReport
from esper.tamiyo.field_reports.report_log import ReportLog
from tools.harness.drills.wal_faults import FAULTS, Records
from tools.harness.faults.files import flipped

REPORTS, LATER = 200, 50
KEPT_BYTES = 256 * 1024
"""A longer log is begun anew, so that a soak's rounds stay equal."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the restore, and whether what must be true of it is."""

    name: str
    told: str
    is_passed: bool


@dataclass(slots=True)
class Rounds:
    """What became of one fault's rounds."""

    rounds: int = 0
    kept: int = 0
    """Records that were looked at afterwards, over all rounds."""
    failures: list[str] = field(default_factory=list)


def restored() -> Iterator[Step]:
    """Tamiyo's field reports are copied, damaged, refused, put back from the copy, and go on from there."""
    with tempfile.TemporaryDirectory(prefix="esper-drill-") as folder:
        path, copy = Path(folder) / "field_reports.log", Path(folder) / "copy"
        _put(path, range(REPORTS))
        wal.backup(path, copy)
        yield Step("copied while reports are there", f"{REPORTS} reports", wal.inspect(copy).records == REPORTS)
        _put(path, range(REPORTS, REPORTS + LATER))
        flipped(path)
        try:
            ReportLog(path, SYSTEM_CLOCK, retention_hours=24.0).close()
            yield Step("a damaged log is refused", "it was opened", False)
        except CorruptRecord as error:
            yield Step("a damaged log is refused", str(error).partition(", after")[0].replace(folder, "DIR"), True)
        damaged = path.read_bytes()
        found = wal.restore(copy, path)
        yield Step("the copy is put back", f"{found.records} records", found.records == REPORTS)
        broken = path.with_name(path.name + ".broken")
        is_kept = broken.exists() and broken.read_bytes() == damaged
        yield Step("what was damaged is kept beside it", broken.name, is_kept)
        with wal.Log(path):
            try:
                wal.restore(copy, path)
                yield Step("a log in use is not replaced", "it was replaced", False)
            except StorageError:
                yield Step("a log in use is not replaced", "refused", True)
        _put(path, range(REPORTS, REPORTS + LATER))
        names = _names(path)
        wanted = [f"report-{number}" for number in range(REPORTS + LATER)]
        yield Step("reports go on where the copy ended", f"{len(names)} reports, each once", names == wanted)


def soaked(seconds: float, seed: int) -> dict[str, Rounds]:
    """Fault after fault, in turn, for so long."""
    draw, found = random.Random(seed), {name: Rounds() for name in FAULTS}
    with tempfile.TemporaryDirectory(prefix="esper-soak-") as folder:
        path, acked, until_s = Path(folder) / "soak.log", Records(), time.monotonic() + seconds
        while time.monotonic() < until_s or not all(each.rounds for each in found.values()):
            for name, fault in FAULTS.items():
                acked, failures = fault(path, acked, draw)
                found[name].rounds += 1
                found[name].kept += len(acked)
                found[name].failures += failures
            for broken in path.parent.glob("*.broken*"):
                broken.unlink()
            if path.stat().st_size > KEPT_BYTES:
                path.unlink()
                acked = Records()
    return found


def _put(path: Path, numbers: range) -> None:
    log = ReportLog(path, SYSTEM_CLOCK, retention_hours=24.0)
    reports = [_report(number) for number in numbers]

    async def put() -> None:
        for report in reports:
            await log.put([report])

    asyncio.run(put())
    log.close()


def _report(number: int) -> FieldReport:
    return FieldReport(
        report_id=f"report-{number}",
        command_id=f"command-{number}",
        training_run_id="drill",
        generation=0,
        opened_at=timestamp(SYSTEM_CLOCK.now_ns()),
        opened_step=number,
    )


def _names(path: Path) -> list[str]:
    log = ReportLog(path, SYSTEM_CLOCK, retention_hours=24.0)
    names = [report.report_id for report in log.of_run("drill")]
    log.close()
    return names
