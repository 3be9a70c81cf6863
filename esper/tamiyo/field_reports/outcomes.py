"""Outcomes on their way into the field reports: what the trainer submits, a rewind, the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esper.core.clock import Clock, timestamp
from esper.leyline import FieldReport, SubmitOutcomeRequest
from esper.tamiyo.field_reports.report_log import ReportLog
from esper.tamiyo.field_reports.reports import ABORTED, Moment, absorbed, closed, digested, is_open
from esper.tamiyo.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Completes field reports; each change is durable before it is answered."""

    reports: ReportLog
    clock: Clock
    learned_from: Callable[[str, Iterable[FieldReport]], None]
    """Hears what came of the decisions of a policy, which its weights' digest names."""

    async def submit(self, run: Run, request: SubmitOutcomeRequest) -> list[str]:
        """Take in what was observed; give the ids of the reports that it closes."""
        async with run.lock:
            news, moment = digested(request), self._moment(run, request.step)
            changed = [absorbed(report, news, moment) for report in self.reports.open_of(run.run_id)]
            new = [report for report in changed if report is not None]
            await self.reports.put(new)
            done = [report for report in new if not is_open(report)]
            self.learned_from(run.state.policy_digest, done)
            return [report.report_id for report in done]

    async def rewound(self, run: Run) -> None:
        """A run was opened again: commands above its checkpoint that Kasmina doesn't replay never happened."""
        replayed = {command.command_id for command in run.context.spec.replay}
        gone = [
            report
            for report in self.reports.open_of(run.run_id)
            if report.opened_step > run.state.step and report.command_id not in replayed
        ]
        await self._abort(run, gone, run.state.step, f"rewound: generation {run.generation} began before it")

    async def ended(self, run: Run, step: int, reason: str) -> None:
        """A run was closed: what is still open will never be known."""
        await self._abort(run, self.reports.open_of(run.run_id), step, f"the run ended first: {reason}")

    async def _abort(self, run: Run, reports: list[FieldReport], step: int, note: str) -> None:
        moment = self._moment(run, step)
        await self.reports.put([closed(report, ABORTED, moment, note=note) for report in reports])

    def _moment(self, run: Run, step: int) -> Moment:
        state = run.state
        return Moment(
            time=timestamp(self.clock.now_ns()),
            step=step,
            smoothed_loss=state.smoothed_loss if state.HasField("smoothed_loss") else None,
            hook_latency_ms=run.hook_latency_ms,
            is_conservative=state.conservative,
            training_macs=state.training_macs if state.HasField("training_macs") else None,
            step_macs_ratio=state.step_macs_ratio if state.HasField("step_macs_ratio") else None,
        )
