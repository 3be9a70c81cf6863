"""The log of field reports: every version of a report is one record, the newest one counts.

A report is on the disk before `put` returns. Nothing is rewritten while the log is in use; closed reports that are
older than the retention are left behind when the log is opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from esper.core import wal
from esper.core.clock import NS_PER_S, Clock, nanoseconds
from esper.core.errors import ContractError
from esper.core.storage.files import sync_directory
from esper.leyline import FieldReport
from esper.tamiyo.field_reports.reports import is_open

REPORT, PUBLISHED = 1, 2
NS_PER_HOUR = 3600 * NS_PER_S


class ReportLog:
    """Field reports by id, oldest first. `repaired` says that a torn record was cut off at start."""

    def __init__(self, path: Path, clock: Clock, *, retention_hours: float) -> None:
        self._clock = clock
        self._oldest_ns = clock.now_ns() - int(retention_hours * NS_PER_HOUR)
        self._log = wal.Log(path)
        self.repaired = self._log.repaired
        self._reports: dict[str, FieldReport] = {}
        self._published: set[str] = set()
        self._writing = asyncio.Lock()
        self._load()
        self.dropped_unpublished = 0
        self._expire(path)

    def __len__(self) -> int:
        return len(self._reports)

    @property
    def open_count(self) -> int:
        return sum(1 for report in self._reports.values() if is_open(report))

    def get(self, report_id: str) -> FieldReport | None:
        return self._reports.get(report_id)

    def of_run(self, run_id: str) -> list[FieldReport]:
        """Reports of a run, oldest first."""
        return [report for report in self._reports.values() if report.training_run_id == run_id]

    def open_of(self, run_id: str) -> list[FieldReport]:
        return [report for report in self.of_run(run_id) if is_open(report)]

    def unpublished(self) -> list[FieldReport]:
        """Closed reports that the bus hasn't acknowledged, oldest first."""
        return [r for r in self._reports.values() if not is_open(r) and r.report_id not in self._published]

    def page(self, run_id: str, *, size: int, after_id: str) -> tuple[list[FieldReport], str]:
        """Up to `size` reports after the one with `after_id`, and the token of the next page, empty at the end."""
        reports = self.of_run(run_id)
        start = 0
        if after_id:
            places = {report.report_id: place for place, report in enumerate(reports)}
            if after_id not in places:
                raise ContractError("ListFieldReportsRequest", [f"page_token {after_id!r} is of no report of this run"])
            start = places[after_id] + 1
        page = reports[start : start + size]
        return page, page[-1].report_id if start + size < len(reports) else ""

    async def put(self, reports: Sequence[FieldReport]) -> None:
        """Keep these versions; they are durable when this returns."""
        await self._write([(REPORT, report.SerializeToString()) for report in reports])
        self._reports.update((report.report_id, report) for report in reports)

    async def mark_published(self, report_ids: Iterable[str]) -> None:
        """Remember across restarts that the bus has these reports."""
        ids = list(report_ids)
        await self._write([(PUBLISHED, report_id.encode()) for report_id in ids])
        self._published.update(ids)

    def close(self) -> None:
        self._log.close()

    async def _write(self, records: Sequence[tuple[int, bytes]]) -> None:
        if not records:
            return
        async with self._writing:
            await asyncio.to_thread(_append_all, self._log, records)

    def _load(self) -> None:
        handlers: dict[int, Callable[[bytes], None]] = {REPORT: self._load_report, PUBLISHED: self._load_published}
        for record in self._log.records():
            handlers[record.type](record.payload)

    def _load_report(self, payload: bytes) -> None:
        report = FieldReport.FromString(payload)
        self._reports[report.report_id] = report

    def _load_published(self, payload: bytes) -> None:
        self._published.add(payload.decode())

    def _expire(self, path: Path) -> None:
        """Leave old closed reports behind: write the others to a new log and put it in the place of this one."""
        expired = [r for r in self._reports.values() if not is_open(r) and nanoseconds(r.closed_at) < self._oldest_ns]
        if not expired:
            return
        for report in expired:
            del self._reports[report.report_id]
            self.dropped_unpublished += report.report_id not in self._published
        self._published &= self._reports.keys()
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        reports = ((REPORT, report.SerializeToString()) for report in self._reports.values())
        published = ((PUBLISHED, report_id.encode()) for report_id in sorted(self._published))
        with wal.Log(scratch) as successor:
            _append_all(successor, [*reports, *published])
        self._log.close()
        os.replace(scratch, path)
        sync_directory(path.parent)
        self._log = wal.Log(path)


def _append_all(log: wal.Log, records: Iterable[tuple[int, bytes]]) -> None:
    for type_, payload in records:
        log.append(type_, payload)
    log.sync()
