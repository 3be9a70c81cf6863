"""A policy that was learned: it grows what it predicts to be worth more than it costs, and waits otherwise.

When and what are learned; whether it is possible or allowed is not, and neither is the judge's verdict. Runs that grow
stacks by schedule, and forced runs in when they grow, are left to the heuristic's rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from esper.leyline import DecisionReason
from esper.tamiyo.context import RunContext
from esper.tamiyo.growing.candidates import Candidate
from esper.tamiyo.growing.obstacles import GUESSES, first_obstacle
from esper.tamiyo.growing.selection import Selection
from esper.tamiyo.learned.linear import Floats, Prediction
from esper.tamiyo.learned.table import table_of
from esper.tamiyo.learned.weights import Weights
from esper.tamiyo.policy import HeuristicPolicy, Proposal, View, germination_order, on_verdicts, rise_ahead

LEARNED, FORCED = DecisionReason.DECISION_REASON_LEARNED, DecisionReason.DECISION_REASON_FORCED


class Scored(Sequence[Candidate]):
    """Candidates with the scores that a policy gave them, made when somebody looks: mostly nothing is grown."""

    def __init__(self, candidates: Sequence[Candidate], scores: Floats) -> None:
        self._candidates, self._scores = candidates, scores

    def __len__(self) -> int:
        return len(self._candidates)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Candidate]: ...
    def __getitem__(self, place: int | slice) -> Candidate | Sequence[Candidate]:
        return self._scored[place] if isinstance(place, slice) else self._one(place)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._scored)

    @cached_property
    def _scored(self) -> Sequence[Candidate]:
        return [self._one(place) for place in range(len(self))]

    def _one(self, place: int) -> Candidate:
        return replace(self._candidates[place], score=float(self._scores[place]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Appraisal:
    """What a policy makes of the candidates at one packet."""

    candidates: Scored
    prediction: Prediction
    best: int
    """Place of the candidate with the highest cautious reward."""
    cautious: float
    """Its reward less the caution."""

    @property
    def words(self) -> str:
        means, errors, place = self.prediction.means, self.prediction.errors, self.best
        refused = 1.0 - min(1.0, max(0.0, float(means["keep"][place])))
        return (
            f"the best of {len(self.candidates)} candidates is predicted to be worth {means['reward'][place]:.3g} "
            f"± {errors['reward'][place]:.2g}: a gain of {means['gain'][place]:.2%}, refused with chance {refused:.2f}"
        )


class LearnedPolicy:
    """Decides by weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.policy_id = weights.policy_id
        self.version = weights.version
        self._heuristic = HeuristicPolicy()

    def propose(self, view: View) -> Proposal:
        if view.context.grows_stacks:
            return self._heuristic.propose(view)
        verdicts = on_verdicts(view)
        if verdicts is not None:
            return verdicts
        obstacle = first_obstacle(view, but=GUESSES)
        if obstacle is not None:
            return Proposal(reasons=obstacle[:1], detail=obstacle[1])
        selection = view.survey()
        appraisal = self.appraise(view, selection)
        if appraisal is None:
            lack, words = selection.lack
            return Proposal(reasons=(lack,), detail=words, selection=selection)
        return self._on(appraisal, view)

    def digest(self, context: RunContext, version: str) -> str:
        text = f"{self.policy_id}\n{version}\n{self.weights.digest}\n{context.trigger}\n{context.config}"
        return hashlib.sha256(text.encode()).hexdigest()

    def appraise(self, view: View, selection: Selection) -> Appraisal | None:
        """What the admissible candidates are worth; None where there is none."""
        table = table_of(selection)
        if not table.candidates:
            return None
        prediction = self.weights.model.predict(table.rows(view), table.layout)
        rewards = prediction.means["reward"]
        cautious = rewards - self.weights.caution * prediction.errors["reward"]
        best = int(cautious.argmax())
        return Appraisal(
            candidates=Scored(table.candidates, rewards),
            prediction=prediction,
            best=best,
            cautious=float(cautious[best]),
        )

    def _on(self, appraisal: Appraisal, view: View) -> Proposal:
        chosen = appraisal.candidates[appraisal.best]
        waits = Proposal(
            reasons=(LEARNED,),
            detail=appraisal.words,
            selection=Selection(candidates=appraisal.candidates, chosen=None),
            value=max(0.0, chosen.score),
        )
        if appraisal.cautious <= 0 and not view.is_forced:
            return waits
        reason = FORCED if view.is_forced else LEARNED
        return replace(
            waits,
            orders=(germination_order(chosen, reason),),
            reasons=(reason,),
            selection=Selection(candidates=appraisal.candidates, chosen=chosen),
            severity=rise_ahead(view.signals),
        )
