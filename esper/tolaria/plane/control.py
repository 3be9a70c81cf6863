"""The trainer's side of the control loop: packets out, consequences in, never an RPC in the step.

The training thread hands a packet over and later takes its result; a worker thread asks Tamiyo, relays the
signed commands to Kasmina untouched, and lets Kasmina advance. Packets are handled strictly in order, so a run's
decisions depend on its packets alone. A missing answer is a result that says so, never an exception; so is one that
can't be used, and an error that nobody foresaw: the worker goes on with the next packet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from opentelemetry.trace import Span

from esper.core.errors import AsyncTimeoutError, CommandRejected, EsperError, InvalidAnswer, ServiceUnavailable
from esper.core.process.worker import AsyncWorker
from esper.core.tracing import context_of, tracer
from esper.kasmina.executor import Collected
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    Decision,
    ReplayedCommand,
    RunStateBlob,
    SignedCommand,
    SubmitOutcomeRequest,
    SystemStatePacket,
    TraceContext,
)
from esper.leyline import TamiyoServiceGetRunStateRequest as TamiyoStateRequest
from esper.rpc.clients import KasminaClient, TamiyoClient
from esper.tolaria.plane.answer import Answer, refusal
from esper.tolaria.plane.answer_rules import RunFacts, report_violations, require, state_violations
from esper.tolaria.plane.backlog import Backlog
from esper.tolaria.plane.calls.breaker import BreakerConfig
from esper.tolaria.plane.calls.decision_stream import DecisionStream
from esper.tolaria.plane.calls.kasmina_calls import KasminaCalls
from esper.tolaria.plane.calls.line import Line, Tell
from esper.tolaria.record.packet_result import BROKEN_OFF, TIMEOUT, PacketResult, RunStates, merged

log = logging.getLogger("esper.tolaria")
_TRACER = tracer("esper.tolaria")
# As many packets may wait as a run has: none of them may be refused.
MAX_PACKETS = 2**40


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig:
    """How long to wait for whom."""

    deadline_s: float = 30.0
    """Longest wait of the training thread for one packet's result, seconds."""
    rpc_timeout_s: float = 10.0
    """Deadline of each unary call, seconds."""
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    """When a service that misses deadlines isn't asked any more for a while, and the call to it cut."""
    advance_every_packets: int = 5
    """Kasmina advances at least this often; also where there is evidence, and at an epoch's end while a seed lives."""


class Control(Protocol):
    """What the trainer needs of the control plane."""

    @property
    def policy_digest(self) -> str | None:
        """What pins the policy that decides; None where nothing does."""

    @property
    def replayed(self) -> frozenset[str]:
        """Ids of commands that a resume replays."""

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        """Start work on a packet; `want_state` asks for both services' state after it, `is_last` for all that waits."""

    def order(self, command: AdaptationCommand) -> None:
        """Give Kasmina an order of the plane's with the next packet, whose Advance delivers what comes of it."""

    def take(self, packet_index: int) -> PacketResult:
        """Wait for a packet's result, up to the deadline; a failure is part of the result."""

    def close(self) -> None:
        """Stop working; results not taken are dropped."""


@dataclass(frozen=True, slots=True)
class _Job:
    packet: SystemStatePacket
    collected: Collected
    want_state: bool
    is_last: bool
    orders: tuple[AdaptationCommand, ...]


class ServiceControl:
    """`Control` over Tamiyo's stream and Kasmina's calls, on a worker with one place."""

    def __init__(
        self,
        tamiyo: TamiyoClient,
        kasmina: KasminaClient,
        config: ControlConfig,
        *,
        facts: RunFacts,
        sign: Callable[[AdaptationCommand], SignedCommand],
        replay: Sequence[ReplayedCommand] = (),
        policy_digest: str | None = None,
        tell: Tell = lambda name, message: None,
    ) -> None:
        self.policy_digest = policy_digest
        self._tamiyo = tamiyo
        self._sign = sign
        self._orders: list[AdaptationCommand] = []
        self._line = Line(config.breaker, tell)
        self._kasmina = KasminaCalls(kasmina, facts, config.rpc_timeout_s, self._line)
        self._config = config
        self._replay_until_step = max((row.delivery_step for row in replay), default=-1)
        self.replayed = frozenset(row.command_id for row in replay)
        self._answered_step: int | None = None
        self._worker = AsyncWorker(max_concurrency=1, max_queued=MAX_PACKETS)
        self._results: dict[int, Future[PacketResult]] = {}
        self._given_up: set[int] = set()
        self._backlog = Backlog()
        self._unsettled: dict[str, SignedCommand] = {}
        self.closed_reports: set[str] = set()
        self._stream = DecisionStream(tamiyo, replayed=self.replayed)

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        orders, self._orders = tuple(self._orders), []
        job = _Job(packet, collected, want_state, is_last, orders)
        try:
            future = self._worker.submit(partial(self._survived, job), name="control")
        except ServiceUnavailable:
            future = Future()
            future.cancel()
        self._results[packet.packet_index] = future

    def order(self, command: AdaptationCommand) -> None:
        self._orders.append(command)

    def take(self, packet_index: int) -> PacketResult:
        result = replace(self._taken(packet_index), calls=self._line.calls(self._worker))
        for index in sorted(index for index in self._given_up if self._results[index].done()):
            self._given_up.discard(index)
            result = merged(self._outcome(index), result)
        return result

    def close(self) -> None:
        self._stream.cut()
        self._worker.close(self._config.rpc_timeout_s)
        self._stream.close()

    def _taken(self, packet_index: int) -> PacketResult:
        """A packet's result, or the failure that its deadline was missed: then it comes with a later one."""
        try:
            with suppress(CancelledError):
                self._results[packet_index].exception(self._config.deadline_s)
        except FutureTimeout:
            self._given_up.add(packet_index)
            return self._missed(packet_index)
        return self._outcome(packet_index)

    def _outcome(self, packet_index: int) -> PacketResult:
        """What came of a packet that nobody works on any more."""
        future = self._results.pop(packet_index)
        if future.cancelled() or future.exception() is not None:
            failure = f"no answer to packet {packet_index}: the control worker has ended"
            return PacketResult(packet_index=packet_index, failure=failure, cause=BROKEN_OFF)
        return future.result()

    def _missed(self, packet_index: int) -> PacketResult:
        service = self._line.missed()
        if self._line.is_hopeless:
            self._stream.cut()
        return PacketResult(
            packet_index=packet_index,
            failure=f"no answer of {service} to packet {packet_index} within {self._config.deadline_s:g} s",
            cause=f"{service}_{TIMEOUT}",
        )

    def _survived(self, job: _Job) -> PacketResult:
        """The packet's result, whatever happens: what was done before an unexpected error counts."""
        answer = Answer()
        try:
            return self._handle(job, answer)
        except Exception as error:  # the edge of the thread: without it every later packet would wait in vain
            log.exception("work on packet %d broke off", job.packet.packet_index)
            self._stream.close()
            answer.break_off(error)
            return answer.result(job.packet.packet_index, None, None)

    def _handle(self, job: _Job, answer: Answer) -> PacketResult:
        """Ask Tamiyo, relay, advance, settle, report back; each part's failure leaves the others' results."""
        self._backlog.add(job.collected)
        for command in job.orders:
            self._order(command, answer)
        decided = answer.guard("tamiyo", lambda: self._decision(job))
        decision, tamiyo_state = decided if decided is not None else (None, None)
        if decision is not None:
            for command_id, envelope in zip(decision.command_ids, decision.commands, strict=True):
                with relaying(command_id, decision.trace):
                    self._apply(command_id, envelope, answer)
        if job.orders or job.is_last or self._is_due(job.packet, answer):
            self._advance(job.packet, answer)
        elif job.packet.step <= self._replay_until_step:
            self._fetch_replayed(job.packet, answer)
        self._settle(answer)
        self._report(job, answer)
        states = self._states(answer, tamiyo_state) if job.want_state else None
        return answer.result(job.packet.packet_index, decision, states)

    def _order(self, command: AdaptationCommand, answer: Answer) -> None:
        """Have Kasmina take an order; what was accepted comes back with the next Advance, as an operator's does."""
        given = Answer()
        self._apply(command.command_id, self._sign(command), given)
        if given.failed_service is not None:
            answer.merge_failure(given)
        answer.outcomes.extend(outcome for outcome in given.outcomes if not outcome.accepted)

    def _apply(self, command_id: str, envelope: SignedCommand, answer: Answer) -> None:
        try:
            answer.outcomes.append(self._kasmina.apply(command_id, envelope))
        except CommandRejected as rejection:
            answer.outcomes.append(refusal(command_id, rejection))
        except (ServiceUnavailable, AsyncTimeoutError, InvalidAnswer) as error:
            self._unsettled[command_id] = envelope
            answer.fail("kasmina", error)

    def _is_due(self, packet: SystemStatePacket, answer: Answer) -> bool:
        if packet.packet_index % self._config.advance_every_packets == 0 or self._backlog.has_evidence:
            return True
        # Epochs may be shorter than a packet is long, and what no seed waits for can wait for the next fifth packet.
        is_growing = self._backlog.observations or packet.growth.embargoes or answer.outcomes or self._unsettled
        return packet.is_epoch_end and bool(is_growing)

    def _advance(self, packet: SystemStatePacket, answer: Answer) -> None:
        request = AdvanceRequest(
            generation=packet.generation,
            step=packet.step,
            observations=self._backlog.observations.values(),
            reports=self._backlog.reports,
            slots=self._backlog.slots,
            training_macs=packet.metrics.training_macs,
            last_answered_step=self._answered_step,
        )
        response = self._ask_kasmina(request, answer)
        if response is not None:
            answer.reports = list(self._backlog.reports)
            answer.advanced = response
            self._backlog.clear()

    def _fetch_replayed(self, packet: SystemStatePacket, answer: Answer) -> None:
        """Only what a resume replays: no gate may be asked at a packet where the first course didn't ask it."""
        request = AdvanceRequest(
            generation=packet.generation,
            step=packet.step,
            delivery_only=True,
            last_answered_step=self._answered_step,
        )
        response = self._ask_kasmina(request, answer)
        if response is not None and (response.directives or response.transitions or response.gates):
            answer.advanced = response

    def _ask_kasmina(self, request: AdvanceRequest, answer: Answer) -> AdvanceResponse | None:
        response = answer.guard("kasmina", lambda: self._kasmina.advance(request))
        if response is not None:
            self._answered_step = response.step
            answer.outcomes.extend(response.outcomes)
        return response

    def _settle(self, answer: Answer) -> None:
        """Find out what became of commands whose answer was lost; one that never arrived is relayed again."""
        if answer.failed_service == "kasmina":
            return
        for command_id, envelope in list(self._unsettled.items()):
            try:
                outcome = self._kasmina.find(command_id)
            except EsperError as error:
                answer.fail("kasmina", error)
                return
            del self._unsettled[command_id]
            if outcome is not None:
                answer.outcomes.append(outcome)
            else:
                self._apply(command_id, envelope, answer)

    def _decision(self, job: _Job) -> tuple[Decision, RunStateBlob | None]:
        with self._line.asking("tamiyo"):
            return self._stream.ask(job.packet, want_state=job.want_state)

    def _report(self, job: _Job, answer: Answer) -> None:
        advanced = answer.advanced
        request = SubmitOutcomeRequest(
            step=job.packet.step,
            outcomes=answer.outcomes,
            gates=advanced.gates if advanced else (),
            transitions=advanced.transitions if advanced else (),
            reports=answer.reports,
            seeds=advanced.seeds if advanced else (),
        )
        if answer.outcomes or request.gates or request.transitions:
            answer.guard("tamiyo", partial(self._submit_outcome, request))

    def _states(self, answer: Answer, given: RunStateBlob | None) -> RunStates | None:
        """Both services' states; one of them alone is of no use. Tamiyo gives its own with the decision."""
        kasmina = answer.guard("kasmina", self._kasmina.state)
        tamiyo = answer.guard("tamiyo", partial(self._tamiyo_state, given))
        return RunStates(kasmina=kasmina, tamiyo=tamiyo) if kasmina is not None and tamiyo is not None else None

    def _submit_outcome(self, request: SubmitOutcomeRequest) -> None:
        with self._line.asking("tamiyo"):
            told = self._tamiyo.submit_outcome(request, timeout_s=self._config.rpc_timeout_s)
        require("SubmitOutcomeResponse", report_violations(told))
        self.closed_reports.update(told.closed_report_ids)

    def _tamiyo_state(self, given: RunStateBlob | None) -> RunStateBlob:
        """The state that was given, or the one that is asked for; either only if it is whole."""
        state = given if given is not None else self._asked_tamiyo_state()
        require("RunStateBlob of tamiyo", state_violations("tamiyo", state))
        return state

    def _asked_tamiyo_state(self) -> RunStateBlob:
        with self._line.asking("tamiyo"):
            return self._tamiyo.get_run_state(TamiyoStateRequest(), timeout_s=self._config.rpc_timeout_s).state


def relaying(command_id: str, trace: TraceContext) -> AbstractContextManager[Span]:
    """A span in the trace of a decision; it names the command, so that the trace is kept with the calls inside."""
    attributes = {"esper.command.id": command_id}
    return _TRACER.start_as_current_span("tolaria.relay", context_of(trace), attributes=attributes)
