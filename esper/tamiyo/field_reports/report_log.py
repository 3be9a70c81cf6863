"""The log of field reports: every version of a report is one record, the newest one counts.

A report is on the disk before `put` returns. Closed reports that are older than the retention are left behind when the
log is opened, and whenever it has doubled since: what is kept is written anew beside it, while the log is in use, and
takes its place with what came meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from esper.core import wal
from esper.core.clock import NS_PER_S, Clock, nanoseconds
from esper.core.errors import ContractError, CorruptRecord, StorageError
from esper.core.process.awaited import awaited
from esper.leyline import FieldReport
from esper.tamiyo.field_reports.reports import is_open

REPORT, PUBLISHED = 1, 2
NS_PER_HOUR = 3600 * NS_PER_S
MIN_BYTES = 4 * 1024 * 1024
"""A smaller log is never written anew while it is in use."""
log = logging.getLogger("esper.tamiyo")


class ReportLog:
    """Field reports by id, oldest first. `repaired` says that a torn record was cut off at start.

    `on_drop` hears how many reports outlived their retention unpublished, while the log is in use.
    """

    def __init__(self, path: Path, clock: Clock, *, retention_hours: float) -> None:
        self._clock = clock
        self._retention_ns = int(retention_hours * NS_PER_HOUR)
        self._log = wal.Log(path)
        self.repaired = self._log.repaired
        self._reports, self._published = _held(self._log.records())
        self.dropped_unpublished = 0
        self.on_drop: Callable[[int], None] = lambda count: None
        # One thread appends, so that none stands between the last record of a log and its successor.
        self._appending, self._rewriting = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._is_rewriting = False
        oldest_ns = self._oldest_ns()
        if self._forget(oldest_ns):
            self._replace(*self._successor(oldest_ns))
        self._full_bytes = max(MIN_BYTES, 2 * self._log.size_bytes)

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
        records = [(REPORT, report.SerializeToString()) for report in reports]
        await self._write(records, lambda: self._reports.update((report.report_id, report) for report in reports))

    async def mark_published(self, report_ids: Iterable[str]) -> None:
        """Remember across restarts that the bus has these reports."""
        ids = list(report_ids)
        await self._write(
            [(PUBLISHED, report_id.encode()) for report_id in ids],
            lambda: self._published.update(self._reports.keys() & ids),
        )

    def close(self) -> None:
        """Finish what is being written; the log is whole then, with or without its successor."""
        self._rewriting.shutdown()
        self._appending.shutdown()
        self._log.close()

    async def _write(self, records: Sequence[tuple[int, bytes]], and_then: Callable[[], None]) -> None:
        if not records:
            return
        await awaited(self._appending.submit(self._append, records), lambda _: and_then())
        if self._log.size_bytes >= self._full_bytes and not self._is_rewriting:
            self._is_rewriting = True
            oldest_ns = self._oldest_ns()
            known = self.dropped_unpublished
            self._forget(oldest_ns)
            if self.dropped_unpublished > known:
                self.on_drop(self.dropped_unpublished - known)
            self._rewriting.submit(self._rewrite, oldest_ns)

    def _append(self, records: Iterable[tuple[int, bytes]]) -> None:
        _append_all(self._log, records)

    def _oldest_ns(self) -> int:
        return self._clock.now_ns() - self._retention_ns

    def _forget(self, oldest_ns: int) -> int:
        """Old closed reports count no more. Returns how many."""
        expired = _expired(self._reports, oldest_ns)
        for report_id in expired:
            del self._reports[report_id]
            self.dropped_unpublished += report_id not in self._published
        self._published &= self._reports.keys()
        return len(expired)

    def _rewrite(self, oldest_ns: int) -> None:
        """Write the log anew without what is old; it goes on as it is where the disk has no room for two."""
        try:
            successor, until = self._successor(oldest_ns)
            self._appending.submit(self._replace, successor, until).result()
        except Exception as error:
            unexpected = None if isinstance(error, (OSError, StorageError)) else error
            log.error("the log of field reports stays as long as it is: %s", error, exc_info=unexpected)
        self._full_bytes = max(MIN_BYTES, 2 * self._log.size_bytes)
        self._is_rewriting = False

    def _successor(self, oldest_ns: int) -> tuple[wal.Log, int]:
        """A log beside this one of what is kept of it, and the record up to which it was read."""
        until = self._log.last_seq
        reports, published = _held(self._log.records())
        for report_id in _expired(reports, oldest_ns):
            del reports[report_id]
        scratch = self._log.path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        successor = wal.Log(scratch)
        kept = ((REPORT, report.SerializeToString()) for report in reports.values())
        marks = ((PUBLISHED, report_id.encode()) for report_id in sorted(published & reports.keys()))
        with _closed_if_it_fails(successor):
            _append_all(successor, chain(kept, marks))
        return successor, until

    def _replace(self, successor: wal.Log, until: int) -> None:
        """Put the successor in the place of the log, with what came since."""
        with _closed_if_it_fails(successor):
            _append_all(successor, ((record.type, record.payload) for record in self._log.records(until)))
            successor.take_place_of(self._log)
        self._log = successor


def _held(records: Iterable[wal.Record]) -> tuple[dict[str, FieldReport], set[str]]:
    """The newest version of each report by its id, and the ids of those that the bus has."""
    reports: dict[str, FieldReport] = {}
    published: set[str] = set()
    for record in records:
        if record.type == REPORT:
            report = FieldReport.FromString(record.payload)
            reports[report.report_id] = report
        elif record.type == PUBLISHED:
            published.add(record.payload.decode())
        else:
            raise CorruptRecord(f"record {record.seq} of the log of field reports is of the unknown type {record.type}")
    return reports, published


def _expired(reports: Mapping[str, FieldReport], oldest_ns: int) -> list[str]:
    """Ids of closed reports that are older than that."""
    closed = (each for each in reports.values() if not is_open(each))
    return [each.report_id for each in closed if nanoseconds(each.closed_at) < oldest_ns]


@contextmanager
def _closed_if_it_fails(log: wal.Log) -> Iterator[None]:
    try:
        yield
    except BaseException:
        log.close()
        raise


def _append_all(log: wal.Log, records: Iterable[tuple[int, bytes]]) -> None:
    for type_, payload in records:
        log.append(type_, payload)
    log.sync()
