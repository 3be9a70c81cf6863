"""The parts of the service, put together from its settings and its process's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.core.clock import Clock
from esper.core.process.worker import AsyncWorker
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, Verifier
from esper.core.telemetry import metric
from esper.leyline import BusLane, FieldReport, MessagePriority, Metric, PublishRequest, RiskReason
from esper.oona.envelope import seal
from esper.rpc.auth import service_metadata
from esper.rpc.clients import Tls
from esper.rpc.clients.aio import AioChannel, BusClient, aio_channel
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import Reporter
from esper.tamiyo import metrics
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.emergency import raise_emergencies
from esper.tamiyo.field_reports.outcomes import Outcomes
from esper.tamiyo.field_reports.publish import Publisher
from esper.tamiyo.field_reports.report_log import ReportLog
from esper.tamiyo.learned.adoption import Adoption
from esper.tamiyo.learned.lane import PolicyLane
from esper.tamiyo.learned.policies import Policies
from esper.tamiyo.learned.standing import Shelf
from esper.tamiyo.runs import Pin, RunBook
from esper.tamiyo.service.admission import Admission
from esper.tamiyo.service.evaluation import Evaluator
from esper.tamiyo.telemetry import SOURCE, Teller, Told
from esper.urza.catalog import Catalog

PUBLISH_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the process gives: keys, time, a directory, and where telemetry and reports go."""

    keyring: Keyring
    clock: Clock
    state_dir: Path
    reporter: Reporter
    alarm: Alarm
    bus_endpoint: str | None = None
    """Where closed field reports are published; without it they stay in the log."""
    bus_tls: Tls | None = None
    """What the bus is believed by; needed beyond loopback."""


class Parts:
    """Everything that the RPCs use. `start` begins publishing; `close` lets go of files and channels."""

    def __init__(self, config: TamiyoConfig, around: Surroundings) -> None:
        self.clock = around.clock
        self._alarm = around.alarm
        self.catalog = Catalog.builtin()
        self.teller = Teller(around.reporter, around.clock, every_packets=config.telemetry_every_packets)
        self.reports = ReportLog(
            around.state_dir / "field_reports.log", around.clock, retention_hours=config.report_retention_hours
        )
        self.policies = Policies(Shelf(around.state_dir / "policies"), explore=config.explore)
        self.adoption = Adoption(
            self.policies,
            shadow_decisions=config.shadow_decisions,
            rollback_after=config.rollback_after,
            tell=lambda spec, attributes: self.teller.event(spec, None, **attributes),
        )
        self.runs = RunBook(around.state_dir / "tamiyo.db", around.clock, config, policy=self._pin)
        self.admission = Admission(Verifier(around.keyring, around.clock), self.runs)
        self.outcomes = Outcomes(reports=self.reports, clock=around.clock, learned_from=self.adoption.learned_from)
        self.worker = AsyncWorker()
        self._late_ms = 0.0
        self.evaluator = Evaluator(
            policy_of=self.policies.of,
            trace_of=lambda digest: self.policies.shelf.standing.traces.get(digest, ""),
            catalog=self.catalog,
            runs=self.runs,
            reports=self.reports,
            signer=Signer(around.keyring, around.clock),
            clock=around.clock,
            tell=self._tell,
            beside=self.adoption.beside,
            tell_late=self._tell_late,
            worker=self.worker,
            timeout_s=config.inference_timeout_s,
        )
        self._bus = BusLine(around) if around.bus_endpoint is not None else None
        self.publisher = (
            Publisher(self.reports, self._bus.publish, retry_s=config.publish_retry_s, on_retry=self._tell_retry)
            if self._bus is not None
            else None
        )
        self.lane = (
            PolicyLane(self._bus.client, around.keyring, around.clock, self.runs, self.adoption)
            if self._bus is not None
            else None
        )

    def _pin(self) -> Pin:
        return Pin(version=self.policies.live.version, digest=self.policies.live_digest)

    def start(self) -> None:
        """Tell what the log's opening found, and publish what an earlier process left."""
        if self.reports.repaired:
            self.teller.event(metrics.LOG_REPAIRED, None)
        if self.reports.dropped_unpublished:
            self._tell_drop(self.reports.dropped_unpublished)
        self.reports.on_drop = self._tell_drop
        if self.publisher is not None:
            self.publisher.start()
        if self.lane is not None:
            self.lane.start()

    def wake_publisher(self) -> None:
        """Say that reports were closed."""
        if self.publisher is not None:
            self.publisher.wake()

    async def close(self) -> None:
        self.worker.close()
        if self.lane is not None:
            await self.lane.close()
        if self.publisher is not None:
            await self.publisher.close()
        if self._bus is not None:
            await self._bus.close()
        self.reports.close()
        self.runs.close()

    def _tell(self, told: Told) -> None:
        self.teller.decision(told, self._gauges)
        raise_emergencies(self._alarm, told)

    def _tell_late(self, run_id: str, late_ms: float, *, is_first: bool) -> None:
        self._late_ms = late_ms
        if is_first:
            spec = metrics.RISK_EVENTS[RiskReason.RISK_REASON_TIMEOUT_INFERENCE]
            self.teller.event(spec, run_id, effect="conservative", measured=late_ms)

    def _tell_drop(self, count: int) -> None:
        self.teller.event(metrics.REPORT_DROP, None, count=count)

    def _tell_retry(self, pending: int) -> None:
        self.teller.event(metrics.REPORT_RETRY, None, pending=pending)

    def _gauges(self) -> list[Metric]:
        publisher, trial = self.publisher, self.policies.shelf.standing.trial
        record = self.adoption.record(self.policies.live_digest)
        return [
            metric(metrics.SHADOW_DECISIONS, trial.decisions if trial else 0),
            *(
                (metric(metrics.LEARNED_DECISIONS, record.count), metric(metrics.LEARNED_REWARD, record.mean))
                if record
                else ()
            ),
            metric(metrics.INFERENCE_TIMEOUTS, self.worker.counts.timed_out),
            metric(metrics.LATE_INFERENCE, self._late_ms),
            *(metric(metrics.WORKER_CALLS, n, fate=fate) for fate, n in self.worker.counts.by_fate().items()),
            metric(metrics.REPORTS_TOTAL, len(self.reports)),
            metric(metrics.REPORTS_PENDING, len(self.reports.unpublished())),
            metric(metrics.REPORTS_PUBLISHED, publisher.published if publisher else 0),
            metric(metrics.REPORTS_RETRIES, publisher.retries if publisher else 0),
            metric(metrics.REPORTS_DROPPED, self.reports.dropped_unpublished),
        ]


class BusLine:
    """Sealed field reports to the bus, whose own copy of a report is the one with its id."""

    def __init__(self, around: Surroundings) -> None:
        self._keyring, self._clock = around.keyring, around.clock
        self._channel: AioChannel = aio_channel(around.bus_endpoint or "", around.bus_tls)
        self.client = BusClient(self._channel, metadata=service_metadata(around.keyring, SOURCE))

    async def publish(self, batch: Sequence[FieldReport]) -> None:
        """Return when the bus has the reports. Raises the error tree."""
        envelopes = [
            seal(
                self._keyring,
                self._clock,
                report,
                source=SOURCE,
                lane=BusLane.BUS_LANE_NORMAL,
                priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
                event_id=report.report_id,
            )
            for report in batch
        ]
        await self.client.publish(PublishRequest(envelopes=envelopes), timeout_s=PUBLISH_TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()
