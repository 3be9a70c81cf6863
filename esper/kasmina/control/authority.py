"""The authority over seeds: every request of the service, from its verification to its answer on the disk.

State lives in one database with one writer; this class only says what belongs into one transaction, and tells
telemetry and watchers once it is stored.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator

from opentelemetry.trace import get_current_span

from esper.core.clock import timestamp
from esper.core.errors import AccessDenied, LifecycleConflict
from esper.core.security.ledger import LedgerStats
from esper.core.security.tokens import is_run_token, token_digest
from esper.core.tracing import current_trace
from esper.kasmina import metrics
from esper.kasmina.control.ledger import command_rows, commands, database, replay, runs
from esper.kasmina.control.ledger.admission import committed
from esper.kasmina.control.ledger.answers import answer_of, joined, lost_answer
from esper.kasmina.control.ledger.commands import Applied, Receipt
from esper.kasmina.control.ledger.database import RunRow
from esper.kasmina.control.resources import Resources, require_open
from esper.kasmina.control.stages.advance import terminate
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    CircuitState,
    CommandOutcome,
    DirectiveKind,
    ExportSeedStatesResponse,
    GetCommandResponse,
    HealthStatus,
    KasminaRunSpec,
    KasminaServiceCloseRunResponse,
    KasminaServiceGetStatusResponse,
    KasminaServiceOpenRunResponse,
    RejectionCount,
    RunClosure,
    RunStateBlob,
    SeedOperationKind,
    SeedRecord,
    SignedCommand,
)
from esper.urza.catalog import Catalog

Told = tuple[Turn, LedgerStats]
ROLLBACK_OPEN = (
    "the trainer goes back at its next boundary if it has a state to go back to; else it refuses there and goes on,"
    " told by tolaria.rollback_refused and directive_failed with this command's id and the steps that are kept"
)


class Authority:
    """All of Kasmina's decisions, behind one method for each request."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._started_ns = resources.clock.now_ns()

    async def open_run(self, envelope: SignedCommand) -> KasminaServiceOpenRunResponse:
        self._resources.admission.verified(envelope, KasminaRunSpec)
        spec = await self._resources.admission.opened(envelope, KasminaRunSpec)

        opened = await self._resources.admission.commit(
            envelope, lambda c: runs.open_run(c, spec, envelope, self._resources.artifacts.catalog)
        )
        message = f"run {spec.training_run_id}, generation {spec.generation}"
        self._prefetched(spec)
        self._resources.tell(metrics.RUN_OPENED, message, spec, generation=spec.generation, replayed=len(opened.replay))
        return opened

    async def close_run(self, envelope: SignedCommand, token: str | None) -> KasminaServiceCloseRunResponse:
        """End what is not permanent. Closing again answers the same."""
        self._resources.admission.verified(envelope, RunClosure)
        closure = await self._resources.admission.opened(envelope, RunClosure)

        def work(connection: sqlite3.Connection) -> Told:
            row = database.run_by_id(connection, closure.training_run_id)
            if row is None or not is_run_token(token, row.token_digest):
                raise AccessDenied(f"the token is not that of run {closure.training_run_id!r}")
            if closure.generation != row.state.generation:
                raise _generation_conflict(row, closure.generation)
            turn = self._resources.turn(row, max(row.state.step, closure.step))
            if row.is_open:
                terminate(turn, closure.reason)
                turn.tell(metrics.RUN_CLOSED, closure.reason, reason=closure.reason)
                turn.state.step = turn.step
                database.put_state(connection, turn.state)
                database.close_run(connection, row.run_id)
            return turn, self._resources.ledger.stats(connection)

        turn, stats = await self._resources.admission.commit(envelope, work)
        self._resources.prefetcher.reset(closure.training_run_id, f"the run was closed: {closure.reason}")
        await self._resources.published(turn, stats)
        return KasminaServiceCloseRunResponse(
            seeds=[record.state for record in turn.state.seeds], growth=turn.state.growth
        )

    async def apply_command(self, envelope: SignedCommand) -> CommandOutcome:
        """Apply a command, or find what its id was answered before."""
        began_ns = self._resources.clock.monotonic_ns()
        self._resources.admission.verified(envelope, AdaptationCommand)
        command = await self._resources.admission.opened(envelope, AdaptationCommand)
        # What names a command is always kept by the traces' sampling.
        get_current_span().set_attribute("esper.command.id", command.command_id)
        receipt = Receipt(
            envelope=envelope,
            received_ns=self._resources.clock.now_ns(),
            trace=current_trace() or (command.trace if command.HasField("trace") else None),
            artifact_problem=await self._artifact_problem(command),
            breakers=(self._resources.artifacts.breaker.name,),
            plane=self._resources.plane.problem(command.training_run_id),
        )

        def work(connection: sqlite3.Connection) -> tuple[Applied, LedgerStats]:
            applied = commands.apply_command(connection, command, receipt, self._resources.artifacts.catalog)
            return applied, self._resources.ledger.stats(connection)

        applied, stats = await self._resources.admission.commit(envelope, work)
        outcome = applied.outcome
        outcome.verify_latency_ms = (self._resources.clock.monotonic_ns() - began_ns) / 1e6
        self._resources.reporting.counters.last_latency_ms = outcome.verify_latency_ms
        if not outcome.accepted and not outcome.repeated_id:
            self._resources.reporting.refuse(command, outcome)
        if (retired := _retired(command, outcome)) is not None:
            self._resources.prefetcher.retire(command.training_run_id, retired, f"command {command.command_id}")
        if applied.turn is not None:
            if command.HasField("circuit_breaker"):
                self._resources.artifacts.breaker.force(command.circuit_breaker.desired_state)
            if command.HasField("emergency"):
                await asyncio.to_thread(self._resources.plane.raise_ordered, [command])
            await self._resources.published(applied.turn, stats)
        return with_open_end(outcome)

    def get_command(self, token: str | None, command_id: str) -> GetCommandResponse:
        """Settle what became of a command."""
        run = self._run(token)
        row = self._resources.store.read(
            lambda connection: command_rows.command_by_id(connection, run.run_id, command_id)
        )
        return GetCommandResponse(found=row is not None, outcome=with_open_end(row.outcome) if row else None)

    async def advance(self, token: str | None, request: AdvanceRequest) -> AdvanceResponse:
        """Deliver what waits, take in the evidence, move the stages."""
        run_id = self._run(token).run_id
        late = self._resources.artifacts.figures.timeouts

        def work(connection: sqlite3.Connection) -> tuple[AdvanceResponse, Turn, LedgerStats]:
            row = require_open(database.run_by_id(connection, run_id))
            if request.generation != row.state.generation:
                raise _generation_conflict(row, request.generation)
            if request.step < row.state.step:
                detail = f"step {request.step} asks, run {run_id} is at step {row.state.step}"
                raise LifecycleConflict(f"{detail}; going back takes a resume under a higher generation")
            turn = self._resources.turn(row, request.step)
            lost = lost_answer(row, request)
            if lost is not None:
                turn.tell(metrics.ANSWER_REPEATED, f"the answer of step {lost.step} was lost", lost_step=lost.step)
            outcomes = commands.deliver_due(connection, turn)
            if not request.delivery_only:
                replay.advanced(connection, turn, request)
            answer = joined(lost, answer_of(turn, request, outcomes, artifact_timeouts=late))
            database.put_state(connection, turn.state)
            database.put_answer(connection, run_id, answer)
            return answer, turn, self._resources.ledger.stats(connection)

        answer, turn, stats = await committed(self._resources.store.submit(work))
        self._note_attachments(run_id, request)
        await self._resources.published(turn, stats, answer)
        return answer

    def run_state(self, token: str | None) -> RunStateBlob:
        return runs.state_blob(self._run(token).state)

    def seeds(self, token: str | None) -> list[SeedRecord]:
        return list(self._run(token).state.seeds)

    async def seed_states(self, token: str | None) -> AsyncIterator[ExportSeedStatesResponse]:
        """The seeds now and after every change, until the watcher goes."""
        async for _ in self._resources.feed.changes(self._run(token).run_id):
            state = self._run(token).state
            yield ExportSeedStatesResponse(step=state.step, seeds=[record.state for record in state.seeds])

    def status(self) -> KasminaServiceGetStatusResponse:
        """Counters; nothing about a run's content."""
        stats, open_runs, seq = self._resources.store.read(
            lambda connection: (
                self._resources.ledger.stats(connection),
                database.count_open_runs(connection),
                command_rows.last_seq(connection),
            )
        )
        counters = self._resources.reporting.counters
        breaker = self._resources.artifacts.breaker.status()
        is_whole = breaker.state == CircuitState.CIRCUIT_STATE_CLOSED
        return KasminaServiceGetStatusResponse(
            health=HealthStatus.HEALTH_STATUS_HEALTHY if is_whole else HealthStatus.HEALTH_STATUS_DEGRADED,
            open_runs=open_runs,
            accepted=counters.accepted,
            rejected=[
                RejectionCount(reason=reason, count=count)  # type: ignore[arg-type]
                for reason, count in sorted((counters.rejected + counters.refused).items())
            ],
            nonces=stats.size,
            fence=timestamp(stats.fence_ns),
            ledger_seq=seq,
            breakers=[breaker],
            started_at=timestamp(self._started_ns),
        )

    def run_catalog(self, token: str | None) -> tuple[str, Catalog]:
        """The open run that the token is of, and the blueprints that it knows."""
        row = self._run(token)
        return row.run_id, self._resources.artifacts.catalog.with_own(row.spec.own_blueprints)

    def require_token(self, token: str | None) -> None:
        """Raise AccessDenied unless the token is that of an open run."""
        self._run(token)

    def _prefetched(self, spec: KasminaRunSpec) -> None:
        """What the user named is had at hand before a seed needs it; what an earlier generation wanted is not."""
        prefetcher, run_id = self._resources.prefetcher, spec.training_run_id
        prefetcher.reset(run_id, f"generation {spec.generation} was opened")
        catalog = self._resources.artifacts.catalog.with_own(spec.own_blueprints)
        for blueprint_id in spec.named_blueprint_ids:
            prefetcher.begin(run_id, catalog, blueprint_id)

    async def _artifact_problem(self, command: AdaptationCommand) -> str | None:
        """Why the seed that a command germinates couldn't be built, or None; nothing is asked for other commands."""
        seed, run_id = command.seed, command.training_run_id
        if seed.operation != SeedOperationKind.SEED_OPERATION_KIND_GERMINATE:
            return None
        row = self._resources.store.read(lambda connection: database.run_by_id(connection, run_id))
        own = row.spec.own_blueprints if row is not None else ()
        catalog = self._resources.artifacts.catalog.with_own(own)
        ended = await self._resources.prefetcher.ready(run_id, catalog, seed.blueprint_id, seed_id=seed.seed_id)
        return ended.error or None

    def _note_attachments(self, run_id: str, request: AdvanceRequest) -> None:
        for report in request.reports:
            if report.kind == DirectiveKind.DIRECTIVE_KIND_ATTACH and report.succeeded:
                self._resources.prefetcher.attached(run_id, report.seed_id)
            elif report.kind in (DirectiveKind.DIRECTIVE_KIND_REMOVE, DirectiveKind.DIRECTIVE_KIND_ATTACH):
                self._resources.prefetcher.retire(run_id, report.seed_id, "the seed is out of the host")

    def _run(self, token: str | None) -> RunRow:
        if not token:
            raise AccessDenied("the run's token is missing; OpenRun gives it, send it as esper-run-token")
        return require_open(self._resources.store.read(lambda c: database.run_by_token(c, token_digest(token))))


def _retired(command: AdaptationCommand, outcome: CommandOutcome) -> str | None:
    """The seed that a command takes out, or doesn't germinate after all."""
    if command.HasField("prune"):
        return command.prune.seed_id
    is_cull = command.seed.operation == SeedOperationKind.SEED_OPERATION_KIND_CULL
    is_refused = command.seed.operation == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE and not outcome.accepted
    return command.seed.seed_id if is_cull or is_refused else None


def with_open_end(outcome: CommandOutcome) -> CommandOutcome:
    """What is told to a caller: an accepted rollback is the trainer's to make, and says where that will be heard.

    The trainer alone knows which states it has kept by the boundary at which the order comes.
    """
    if any(directive.kind == DirectiveKind.DIRECTIVE_KIND_ROLLBACK for directive in outcome.directives):
        outcome.detail = ROLLBACK_OPEN
    return outcome


def _generation_conflict(row: RunRow, generation: int) -> LifecycleConflict:
    return LifecycleConflict(f"generation {generation} asks, run {row.run_id} is in {row.state.generation}")
