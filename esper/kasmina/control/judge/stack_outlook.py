"""What stands beside a stack's verdict and never decides: the gain at equal cost, a forecast to the end, recovery.

Equal steps favour the larger network and a short window at equal FLOPs the smaller one, also where growth pays most,
so neither is a verdict. The forecast is a straight line in 1 / step while the learning rate is constant: of the powers
tried the one without bias on recorded runs, where it was wrong by 0.02 nats in the median, as much as many a gain. It
knows nothing of the decay after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import StatisticsError, fmean, linear_regression

from esper.kasmina.control.judge.stack_test import Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmCosts:
    """Training FLOPs of one step, by arm; any one unit."""

    twin: float
    grown: float

    @property
    def ratio(self) -> float:
        """Steps that the twin makes for the cost of one of the grown network's."""
        return self.grown / self.twin


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Both arms drawn on to the run's end, nats per token; a gain is positive where growth is ahead."""

    grown: float
    twin: float
    twin_at_equal_flops: float
    """The twin, if it trains on until it has cost what the grown network has at the end."""

    @property
    def gain_at_equal_steps(self) -> float:
        return self.twin - self.grown

    @property
    def gain_at_equal_flops(self) -> float:
        return self.twin_at_equal_flops - self.grown


def of_all_parts(evaluations: Sequence[Evaluation], looks: Sequence[Sequence[int]]) -> list[Evaluation]:
    """Evaluations whose losses can be compared across steps: as they are, or the means over whole looks.

    Parts of a judging set differ in their losses by more than training changes them meanwhile; a look scores them all.
    """
    if all(evaluation.part is None for evaluation in evaluations):
        return list(evaluations)
    whole = [[each for each in evaluations if each.step in steps] for steps in map(frozenset, looks)]
    return [
        replace(
            seen[-1],
            step=round(fmean(each.step for each in seen)),
            gain=fmean(each.gain for each in seen),
            twin_score=fmean(each.twin_score for each in seen),
            part=None,
        )
        for seen, steps in zip(whole, looks, strict=True)
        if len(seen) == len(steps)
    ]


def gain_at_equal_flops(evaluations: Sequence[Evaluation], graft_step: int, costs: ArmCosts) -> float | None:
    """The twin's loss minus the loss that the grown network had when it had cost as much since the graft.

    Mean over all evaluations of the twin that have such a moment between two evaluations; None if none has.
    `evaluations` are in the order of their steps.
    """
    gains = []
    for evaluation in evaluations:
        moment = graft_step + (evaluation.step - graft_step) / costs.ratio
        for before, after in pairwise(evaluations):
            if before.step <= moment <= after.step:
                share = (moment - before.step) / (after.step - before.step)
                grown = before.grown_score + share * (after.grown_score - before.grown_score)
                gains.append(evaluation.twin_score - grown)
                break
    return fmean(gains) if gains else None


def forecast(evaluations: Sequence[Evaluation], *, graft_step: int, end_step: int, costs: ArmCosts) -> Forecast | None:
    """Both arms at `end_step`, by lines in 1 / step through the evaluations; None if these lie at fewer than two steps.

    `end_step` is best the last step of the constant learning rate; give evaluations after the recovery alone.
    """
    inverse = [1.0 / evaluation.step for evaluation in evaluations]
    try:
        twin_slope, twin_limit = linear_regression(inverse, [evaluation.twin_score for evaluation in evaluations])
        grown_slope, grown_limit = linear_regression(inverse, [evaluation.grown_score for evaluation in evaluations])
    except StatisticsError:
        return None
    return Forecast(
        grown=grown_limit + grown_slope / end_step,
        twin=twin_limit + twin_slope / end_step,
        twin_at_equal_flops=twin_limit + twin_slope / (graft_step + (end_step - graft_step) * costs.ratio),
    )


def recovery_steps(evaluations: Sequence[Evaluation], graft_step: int) -> int | None:
    """Steps from the graft to the first evaluation after which growth was ahead on the whole; None if it never was.

    The turning point of the summed gain (CUSUM), which one lucky evaluation doesn't move. For the next graft's window,
    never for this one's.
    """
    sums = list(accumulate((evaluation.gain for evaluation in evaluations), initial=0.0))
    turn = max(range(len(sums)), key=lambda index: (-sums[index], index)) if sums else 0
    return evaluations[turn].step - graft_step if turn < len(evaluations) else None
