"""From a packet to a signed decision: check, decide, sign, keep, tell.

Nothing leaves before it is durable: first the reports of the commands, then the run's state with the decision. A
packet that is sent again gets the decision that it got, signed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.context import Context
from opentelemetry.trace import Link, get_current_span

from esper.core.clock import Clock, timestamp
from esper.core.errors import AsyncTimeoutError, ContractError, LifecycleConflict
from esper.core.process.worker import AsyncWorker
from esper.core.security.signing import Signer
from esper.core.tracing import context_of, current_trace, tracer
from esper.leyline import (
    AdaptationCommand,
    Decision,
    FieldReport,
    RiskReason,
    SignedCommand,
    SystemStatePacket,
    TamiyoRunState,
    TraceContext,
)
from esper.tamiyo.context import RunContext
from esper.tamiyo.deciding.commands import Issue
from esper.tamiyo.deciding.decide import Verdict, decide
from esper.tamiyo.field_reports.report_log import ReportLog
from esper.tamiyo.field_reports.reports import ABORTED, Moment, Origin, closed, is_open, opened, report_id
from esper.tamiyo.growing.selection import Selection
from esper.tamiyo.growing.survey import Offers
from esper.tamiyo.policy import Policy, View
from esper.tamiyo.replay import record
from esper.tamiyo.runs import Run, RunBook
from esper.tamiyo.telemetry import Told, conditions, reason_name
from esper.urza.catalog import Catalog

_tracer = tracer("esper.tamiyo")


class TellLate(Protocol):
    """Hears of a packet that could not be decided on in time; of several in a row, which is the first."""

    def __call__(self, run_id: str, late_ms: float, *, is_first: bool) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Evaluates packets of open runs, one at a time for each run."""

    policy_of: Callable[[str], Policy]
    """By the digest of its weights."""
    trace_of: Callable[[str], str]
    """By the same, the trace that brought them; empty where there is none."""
    catalog: Catalog
    runs: RunBook
    reports: ReportLog
    signer: Signer
    clock: Clock
    tell: Callable[[Told], None]
    beside: Callable[[View], None]
    """Shows a policy on trial what was decided on."""
    tell_late: TellLate
    worker: AsyncWorker
    timeout_s: float

    async def evaluate(self, run: Run, packet: SystemStatePacket) -> Decision:
        """The decision on a packet. Raises LifecycleConflict for one that is out of order."""
        async with run.lock:
            _require_in_order(run, packet)
            if run.state.HasField("packet_index") and packet.packet_index == run.state.packet_index:
                return self._again(run)
            with _tracer.start_as_current_span(
                "tamiyo.evaluate",
                context=Context(),
                links=_links(packet, self.trace_of(run.state.policy_digest)),
                attributes={"esper.run.id": run.run_id, "esper.step": packet.step},
            ):
                return await self._evaluate(run, packet)

    async def _evaluate(self, run: Run, packet: SystemStatePacket) -> Decision:
        began_ns, previous_loss = self.clock.monotonic_ns(), _previous_loss(run.state)
        verdict = await self._verdict(run, packet)
        decided = record(run.context, run.state, packet, verdict, was_late=run.was_late)
        decision = self._decision(run, packet, verdict)
        decision.latency_ms = (self.clock.monotonic_ns() - began_ns) / 1e6
        await self.reports.put(self._new_reports(run, verdict, packet, decision.latency_ms))
        await self.runs.save(run, verdict.state, decision, decided)
        told = Told(
            run_id=run.run_id,
            verdict=verdict,
            packet_index=packet.packet_index,
            generation=packet.generation,
            previous_loss=previous_loss,
            known=run.conditions,
            latency_ms=decision.latency_ms,
            trace=current_trace(),
        )
        run.conditions, run.was_late = conditions(verdict), False
        run.heard_ns = began_ns
        if packet.metrics.HasField("hook_latency_ms"):
            run.hook_latency_ms = packet.metrics.hook_latency_ms
        self.tell(told)
        self.beside(verdict.view)
        return decision

    async def _verdict(self, run: Run, packet: SystemStatePacket) -> Verdict:
        """Decide in a thread of the worker. Raises AsyncTimeoutError: nothing is decided in place of what is late."""
        if run.offers is None:
            run.offers = Offers(run.context, self.catalog.with_own(run.context.spec.own_blueprints))
        work = partial(
            decide,
            run.context,
            run.state,
            packet,
            policy=self.policy_of(run.state.policy_digest),
            select=partial(_look_up, run.offers),
            survey=partial(_survey, run.offers),
            was_late=run.was_late,
        )
        began_ns = self.clock.monotonic_ns()
        try:
            return await self.worker.run(work, name="inference", timeout_s=self.timeout_s)
        except AsyncTimeoutError:
            late_ms = (self.clock.monotonic_ns() - began_ns) / 1e6
            self.tell_late(run.run_id, late_ms, is_first=not run.was_late)
            run.was_late = True
            run.conditions |= {reason_name(RiskReason.RISK_REASON_TIMEOUT_INFERENCE)}
            raise

    def _decision(self, run: Run, packet: SystemStatePacket, verdict: Verdict) -> Decision:
        fresh = [issue.command for issue in verdict.issues if not issue.is_replayed]
        return Decision(
            packet_index=packet.packet_index,
            generation=packet.generation,
            commands=[self._sign(command, run.context) for command in fresh],
            command_ids=[command.command_id for command in fresh],
            metadata=verdict.metadata,
            replayed_command_ids=verdict.replayed_ids,
            trace=current_trace(),
        )

    def _sign(self, command: AdaptationCommand, context: RunContext) -> SignedCommand:
        attributes = {"esper.run.id": context.run_id, "esper.command.id": command.command_id}
        with _tracer.start_as_current_span("tamiyo.sign", attributes=attributes):
            opened_trace = current_trace()
            if opened_trace is not None:
                command.trace.CopyFrom(opened_trace)
            return self.signer.sign(command, audience=context.spec.kasmina_audience)

    def _new_reports(
        self, run: Run, verdict: Verdict, packet: SystemStatePacket, latency_ms: float
    ) -> list[FieldReport]:
        """Reports that the decision opens, and those of commands that it gives up."""
        now = timestamp(self.clock.now_ns())
        moment = Moment(
            time=now,
            step=packet.step,
            smoothed_loss=_previous_loss(verdict.state),
            is_conservative=verdict.state.conservative,
        )
        origin = _origin(verdict, packet, now, latency_ms, run)
        given_up = (self.reports.get(report_id(command_id)) for command_id in verdict.expired_ids)
        return [
            *(opened(issue.command, origin) for issue in verdict.issues if self._is_unknown(issue)),
            *(
                closed(report, ABORTED, moment, note="it had no effect by its deadline")
                for report in given_up
                if report is not None and is_open(report)
            ),
        ]

    def _is_unknown(self, issue: Issue) -> bool:
        """Whether the command's report is still to be opened; a replayed command was reported when it was decided."""
        return not issue.is_replayed or self.reports.get(report_id(issue.command.command_id)) is None

    def _again(self, run: Run) -> Decision:
        decision = Decision()
        decision.CopyFrom(run.decision)
        del decision.commands[:]
        for envelope in run.decision.commands:
            command = AdaptationCommand.FromString(envelope.payload)
            decision.commands.append(self.signer.sign(command, audience=envelope.audience))
        return decision


def _look_up(offers: Offers, state: TamiyoRunState, packet: SystemStatePacket, _: RunContext) -> Selection:
    with _tracer.start_as_current_span("urza.lookup") as span:
        selection = offers.select(state, packet)
        span.set_attribute("esper.candidates", len(selection.candidates))
        if selection.chosen is not None and selection.chosen.blueprint is not None:
            span.set_attribute("esper.blueprint.id", selection.chosen.blueprint.blueprint_id)
        return selection


def _survey(offers: Offers, state: TamiyoRunState, packet: SystemStatePacket, _: RunContext) -> Selection:
    with _tracer.start_as_current_span("tamiyo.survey") as span:
        selection = offers.survey(state, packet)
        span.set_attribute("esper.candidates", len(selection.candidates))
        return selection


def _origin(verdict: Verdict, packet: SystemStatePacket, now: Timestamp, latency_ms: float, run: Run) -> Origin:
    state, metrics = verdict.state, packet.metrics
    run_macs = state.step_macs_ratio * metrics.forward_macs * run.context.spec.total_steps
    return Origin(
        time=now,
        latency_ms=latency_ms,
        observation=verdict.observation,
        training_macs=metrics.training_macs,
        forward_macs=metrics.forward_macs,
        run_macs=round(run_macs) if state.HasField("step_macs_ratio") else None,
    )


def _require_in_order(run: Run, packet: SystemStatePacket) -> None:
    if packet.training_run_id != run.run_id:
        named = f"training_run_id is {packet.training_run_id!r}, the token is of run {run.run_id!r}"
        raise ContractError("SystemStatePacket", [named])
    if packet.generation != run.generation:
        raise LifecycleConflict(f"packet of generation {packet.generation}, run {run.run_id} is in {run.generation}")
    if run.state.HasField("packet_index") and packet.packet_index < run.state.packet_index:
        raise LifecycleConflict(f"packet {packet.packet_index} arrived after {run.state.packet_index} was answered")


def _previous_loss(state: TamiyoRunState) -> float | None:
    return state.smoothed_loss if state.HasField("smoothed_loss") else None


def _links(packet: SystemStatePacket, policy_trace: str) -> Sequence[Link]:
    """The step that the packet was made in, if it was sampled, and the update that brought the policy."""
    told = [packet.trace] if packet.HasField("trace") else []
    if policy_trace:
        told.append(TraceContext(traceparent=policy_trace))
    spans = (get_current_span(context_of(each)).get_span_context() for each in told)
    return [Link(span) for span in spans if span.is_valid]
