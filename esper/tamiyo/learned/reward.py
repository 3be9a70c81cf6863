"""What a germination was worth: its effect as a share of the twin's score, less what it cost.

It costs the judgement, and where it is kept the work of the larger network until the run's end. A refused seed has no
effect and cost a twin, so it is worth less than nothing; growing nothing is worth 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline import FieldReport, FieldReportOutcome

PRICE = 0.05
"""What the multiply-accumulates of a whole run are worth, as a share of the score: little, for training a host twice as
long took 5 to 60 % off its error in our studies, and a price above what they give would forbid all growth."""
_PROGRESS = "progress"
_JUDGED = frozenset(
    {FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS, FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What came of one germination, in shares that mean the same in every run."""

    gain: float
    """Judged gain as a share of the twin's score; 0 where it didn't come to a judgement."""
    kept: bool
    effect: float
    """The gain where it was kept, else 0."""
    judgement: float
    """Cost of the judgement in whole runs of the host."""
    running: float
    """Work of a kept seed from its judgement to the run's end, in whole runs of the host."""

    @property
    def cost(self) -> float:
        return self.judgement + self.running

    def reward(self, price: float) -> float:
        return self.effect - price * self.cost


def worth_of(report: FieldReport) -> Worth | None:
    """None where the report says nothing of worth: not a germination, aborted, or not measured."""
    delta = report.delta
    if report.outcome not in _JUDGED or not report.HasField("observation"):
        return None
    if not delta.HasField("effect") or not delta.HasField("judgement_macs") or not delta.run_macs:
        return None
    share = 1.0 / delta.twin_score if delta.HasField("twin_score") and delta.twin_score > 0 else 0.0
    if share == 0.0 and delta.effect != 0.0:
        return None
    return Worth(
        gain=delta.gain * share,
        kept=report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS,
        effect=delta.effect * share,
        judgement=delta.judgement_macs / delta.run_macs,
        running=_running(report),
    )


def _running(report: FieldReport) -> float:
    """The added share of the host's work times the share of the run that was left when the seed was kept."""
    seen = (each.value for each in report.observation.features if each.name == _PROGRESS and each.HasField("value"))
    progress = next(seen, 0.0)
    if progress <= 0 or not report.opened_forward_macs:
        return 0.0
    left = max(0.0, 1.0 - report.closed_step * progress / max(1, report.opened_step))
    return left * report.delta.forward_macs_delta / report.opened_forward_macs
