"""What a germination was worth: its effect as a share of the twin's score, less what judging it cost.

A refused seed has no effect and cost a twin, so it is worth less than nothing; growing nothing is worth 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline import FieldReport, FieldReportOutcome

PRICE = 0.1
"""What the multiply-accumulates of a whole run are worth, as a share of the score."""
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
    cost: float
    """Cost of the judgement as a share of a whole run of the host."""

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
        cost=delta.judgement_macs / delta.run_macs,
    )
