"""Tamiyo's process: translates between RPC and the parts that do the work."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from esper.core.clock import timestamp
from esper.core.enums import short_name
from esper.core.errors import AccessDenied, CommandRejected
from esper.core.messages.validation import require_valid
from esper.leyline import (
    ApplyPolicyUpdateRequest,
    ApplyPolicyUpdateResponse,
    ControlRequest,
    ControlResponse,
    EvaluateRequest,
    EvaluateResponse,
    FlushHistoryRequest,
    FlushHistoryResponse,
    HealthStatus,
    ListFieldReportsRequest,
    ListFieldReportsResponse,
    PolicyUpdate,
    PolicyUpdateRejection,
    RejectionReason,
    RunClosure,
    SubmitOutcomeRequest,
    SubmitOutcomeResponse,
    TamiyoRunSpec,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceCloseRunResponse,
    TamiyoServiceGetRunStateRequest,
    TamiyoServiceGetRunStateResponse,
    TamiyoServiceGetStatusRequest,
    TamiyoServiceGetStatusResponse,
    TamiyoServiceOpenRunRequest,
    TamiyoServiceOpenRunResponse,
)
from esper.rpc.process import ServiceContext, run_service
from esper.rpc.server.bases import TamiyoServicer
from esper.rpc.server.call import Call
from esper.tamiyo import metrics
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.runs import Run, blob_of, state_from
from esper.tamiyo.service.parts import Parts, Surroundings
from esper.tamiyo.telemetry import reason_name
from esper.tamiyo.update import Refusal, with_update

PAGE_SIZE, MAX_PAGE_SIZE = 100, 500
SHOWN = 3


class TamiyoService(TamiyoServicer):
    """The RPCs of TamiyoService."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_at = timestamp(parts.clock.now_ns())

    async def open_run(self, request: TamiyoServiceOpenRunRequest, call: Call) -> TamiyoServiceOpenRunResponse:
        parts, envelope = self._parts, request.command
        with self._counting_refusals(call):
            async with parts.admission.admitted(envelope, TamiyoRunSpec) as (spec, _):
                catalog = parts.catalog.with_own(spec.own_blueprints)
                for blueprint_id in spec.trigger.blueprint_ids:
                    catalog.get(blueprint_id)
                if spec.HasField("resume"):
                    parts.policies.of(state_from(spec.resume, spec.training_run_id).policy_digest)
                run, token = await parts.runs.open(spec, envelope.security)
        await parts.outcomes.rewound(run)
        policy = parts.policies.of(run.state.policy_digest)
        return TamiyoServiceOpenRunResponse(
            run_token=token,
            policy_id=policy.policy_id,
            policy_version=run.state.policy_version,
            policy_digest=policy.digest(run.context, run.state.policy_version),
        )

    async def close_run(self, request: TamiyoServiceCloseRunRequest, call: Call) -> TamiyoServiceCloseRunResponse:
        parts, envelope = self._parts, request.command
        with self._counting_refusals(call):
            async with parts.admission.admitted(envelope, RunClosure) as (closure, run_id):
                run = parts.runs.by_token(call.run_token)
                if run.run_id != run_id:
                    raise AccessDenied(f"the run token is of run {run.run_id}, the request closes run {run_id}")
                async with run.lock:
                    await parts.runs.close_run(run, envelope.security)
        await parts.outcomes.ended(run, closure.step, closure.reason)
        parts.wake_publisher()
        return TamiyoServiceCloseRunResponse(reports=len(parts.reports.of_run(run_id)))

    async def evaluate(self, request: EvaluateRequest, call: Call) -> EvaluateResponse:
        with self._counting_refusals(call):
            run = self._parts.runs.by_token(call.run_token)
        run.hearing.heard(None)
        return EvaluateResponse(decision=await self._parts.evaluator.evaluate(run, request.packet))

    async def control(self, requests: AsyncIterator[ControlRequest], call: Call) -> AsyncIterator[ControlResponse]:
        with self._counting_refusals(call):
            self._parts.runs.by_token(call.run_token)
        line = object()
        try:
            async for request in requests:
                require_valid(request)
                # Looked up for each packet: the run may have been closed or opened again since the last one.
                run = self._parts.runs.by_token(call.run_token)
                run.hearing.heard(line)
                decision = await self._parts.evaluator.evaluate(run, request.packet)
                yield ControlResponse(decision=decision, state=blob_of(run.state) if request.want_state else None)
        finally:
            self._parts.runs.line_ended(line)

    async def submit_outcome(self, request: SubmitOutcomeRequest, call: Call) -> SubmitOutcomeResponse:
        with self._counting_refusals(call):
            run = self._parts.runs.by_token(call.run_token)
        closed_ids = await self._parts.outcomes.submit(run, request)
        if closed_ids:
            self._parts.wake_publisher()
        return SubmitOutcomeResponse(closed_report_ids=closed_ids)

    async def get_run_state(
        self, request: TamiyoServiceGetRunStateRequest, call: Call
    ) -> TamiyoServiceGetRunStateResponse:
        with self._counting_refusals(call):
            run = self._parts.runs.by_token(call.run_token)
        async with run.lock:
            return TamiyoServiceGetRunStateResponse(state=blob_of(run.state))

    async def list_field_reports(self, request: ListFieldReportsRequest, call: Call) -> ListFieldReportsResponse:
        with self._counting_refusals(call):
            run = self._parts.runs.by_token(call.run_token)
        size = min(request.page_size or PAGE_SIZE, MAX_PAGE_SIZE)
        reports, next_token = self._parts.reports.page(run.run_id, size=size, after_id=request.page_token)
        return ListFieldReportsResponse(reports=reports, next_page_token=next_token)

    async def get_status(self, request: TamiyoServiceGetStatusRequest, call: Call) -> TamiyoServiceGetStatusResponse:
        parts = self._parts
        healths = HealthStatus.HEALTH_STATUS_HEALTHY, HealthStatus.HEALTH_STATUS_DEGRADED
        return TamiyoServiceGetStatusResponse(
            health=healths[bool(parts.runs.conservative)],
            open_runs=len(parts.runs),
            decisions=parts.teller.decisions,
            commands=parts.teller.commands,
            reports=len(parts.reports),
            log_repaired=parts.reports.repaired,
            policy_version=parts.policies.live.version,
            started_at=self._started_at,
            rejected=parts.teller.rejected,
        )

    async def flush_history(self, request: FlushHistoryRequest, call: Call) -> FlushHistoryResponse:
        with self._counting_refusals(call):
            self._parts.runs.by_token(call.run_token)
        if self._parts.publisher is not None:
            await self._parts.publisher.flush()
        return FlushHistoryResponse(reports=len(self._parts.reports), open=self._parts.reports.open_count)

    async def apply_policy_update(self, request: ApplyPolicyUpdateRequest, call: Call) -> ApplyPolicyUpdateResponse:
        parts, envelope = self._parts, request.command
        with self._counting_refusals(call):
            async with parts.admission.admitted(envelope, PolicyUpdate) as (update, run_id):
                run = parts.runs.get(run_id)
                if run is None:
                    raise CommandRejected(
                        RejectionReason.REJECTION_REASON_WRONG_RUN, f"run {run_id} is not open here", update.update_id
                    )
                async with run.lock:
                    catalog = parts.catalog.with_own(run.context.spec.own_blueprints)
                    policy_id = parts.policies.of(run.state.policy_digest).policy_id
                    result = with_update(run.state, update, policy_id=policy_id, catalog=catalog)
                    if isinstance(result, Refusal):
                        await parts.runs.spend(envelope.security)
                        return self._refused(run_id, update, result, run.state.policy_version)
                    await parts.runs.change(run, result, envelope.security)
        parts.teller.event(metrics.POLICY_UPDATE_APPLIED, run_id, update_id=update.update_id, version=update.version)
        return ApplyPolicyUpdateResponse(accepted=True, policy_version=update.version)

    def caution(self) -> tuple[str, str | None] | None:
        runs = self._parts.runs.conservative
        only = runs[0].run_id if len(runs) == 1 else None
        shown = ", ".join(map(_caution, runs[:SHOWN])) + " and others" * (len(runs) > SHOWN)
        return (f"conservative about {shown}", only) if runs else None

    async def close(self) -> None:
        await self._parts.close()

    def _refused(
        self, run_id: str, update: PolicyUpdate, refusal: Refusal, version_in_force: str
    ) -> ApplyPolicyUpdateResponse:
        reason = short_name(PolicyUpdateRejection, refusal.reason).lower()
        self._parts.teller.event(
            metrics.POLICY_UPDATE_REJECTED,
            run_id,
            update_id=update.update_id,
            reason=reason,
            detail=refusal.detail,
            version=update.version,
        )
        return ApplyPolicyUpdateResponse(
            accepted=False, rejection=refusal.reason, detail=refusal.detail, policy_version=version_in_force
        )

    @contextmanager
    def _counting_refusals(self, call: Call) -> Iterator[None]:
        """Count and tell what is refused for its signature or token, then let it go on to the caller."""
        try:
            yield
        except (CommandRejected, AccessDenied) as error:
            reason = RejectionReason.Name(error.reason) if isinstance(error, CommandRejected) else "access_denied"
            self._parts.teller.refusal(call.method, reason.removeprefix("REJECTION_REASON_").lower(), None)
            raise


def _caution(run: Run) -> str:
    """A run, why it is held, and until when, where that is known."""
    why = [reason_name(run.state.conservative_reason), run.hearing.in_words]
    return f"{run.run_id} ({'; '.join(filter(None, why))})"


def build(context: ServiceContext[TamiyoConfig]) -> Sequence[TamiyoServicer]:
    """The servicer of one process."""
    around = Surroundings(
        keyring=context.keyring,
        clock=context.clock,
        state_dir=context.state_dir,
        reporter=context.reporter,
        alarm=context.alarm,
        bus_endpoint=context.weatherlight,
        bus_tls=context.weatherlight_tls,
    )
    parts = Parts(context.config, around)
    parts.start()
    return (TamiyoService(parts),)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; the result is the process's exit code."""
    return run_service("tamiyo", build, argv, config_type=TamiyoConfig)


if __name__ == "__main__":
    sys.exit(main())
