"""Exploration: some decisions are drawn, with probabilities that are known and reported.

An exploring decision grows nothing with probability 1 - 1/W, W packets to a judging window, and else one of all
admissible candidates, each as likely. Draws are a function of the run's seed and the step, so that a packet that is
decided again is decided alike. What is impossible, or forbidden by an order or a budget, is never explored.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from esper.leyline import DecisionReason
from esper.tamiyo.context import RunContext
from esper.tamiyo.growing.candidates import Candidate
from esper.tamiyo.growing.obstacles import GUESSES, first_obstacle
from esper.tamiyo.growing.selection import Selection
from esper.tamiyo.policy import GERMINATE, Policy, Proposal, View, germination_order, rise_ahead

EXPLORED = DecisionReason.DECISION_REASON_EXPLORED


class ExploringPolicy:
    """Another policy, of whose decisions a share is drawn instead."""

    def __init__(self, inner: Policy, share: float) -> None:
        self._inner = inner
        self._share = share
        self.policy_id = inner.policy_id
        self.version = inner.version

    def propose(self, view: View) -> Proposal:
        own = self._inner.propose(view)
        if any(order.operation != GERMINATE for order in own.orders) or view.context.grows_stacks:
            return own
        if first_obstacle(view, but=GUESSES) is not None:
            return own
        admissible = _admissible(view, own)
        if not admissible:
            return own
        return self._drawn(view, own, admissible)

    def digest(self, context: RunContext, version: str) -> str:
        text = f"{self._inner.digest(context, version)}\nexplore {self._share!r}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _drawn(self, view: View, own: Proposal, admissible: list[Candidate]) -> Proposal:
        preferred = _place(own, admissible)
        probabilities = self._probabilities(view, len(admissible), preferred)
        selection = Selection(candidates=tuple(admissible), chosen=None)
        drawn = _pick(probabilities, draw(view))
        own = replace(own, selection=selection, probabilities=probabilities)
        wait = own.wait_probability
        if drawn is None:
            if not own.orders:
                return replace(own, log_probability=math.log(wait))
            words = f"explored: nothing is grown this time (probability {wait:.3g})"
            return replace(own, orders=(), reasons=(EXPLORED,), detail=words, log_probability=math.log(wait))
        chosen, log_probability = admissible[drawn], math.log(probabilities[drawn])
        selection = replace(selection, chosen=chosen)
        if drawn == preferred:
            return replace(own, selection=selection, log_probability=log_probability)
        words = f"explored: one of {len(admissible)} candidates, drawn with probability {probabilities[drawn]:.3g}"
        return replace(
            own,
            orders=(germination_order(chosen, EXPLORED),),
            reasons=(EXPLORED,),
            detail=words,
            selection=selection,
            log_probability=log_probability,
            severity=rise_ahead(view.signals),
        )

    def _probabilities(self, view: View, count: int, preferred: int | None) -> tuple[float, ...]:
        """Of each candidate; what is missing to 1 is the probability to wait."""
        life = view.context.spec.life
        packets = max(1.0, life.window_steps / max(1, life.reaction_steps))
        each = self._share / packets / count
        return tuple(each + (1.0 - self._share) * (place == preferred) for place in range(count))


def draw(view: View) -> float:
    """A number in 0..1 that only the run's seed and the step decide."""
    text = f"ESPER-EXPLORE-V1\n{view.context.spec.seed}\n{view.packet.step}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2.0**56


def _admissible(view: View, own: Proposal) -> list[Candidate]:
    """Everything that may be grown, with the inner policy's scores, and what the inner policy would grow among it."""
    known = own.selection.candidates if own.selection is not None else ()
    scores = {_identity(item): item.score for item in known}
    found = [
        replace(item, score=scores.get(_identity(item), item.score))
        for item in view.survey().candidates
        if not item.excluded
    ]
    chosen = own.selection.chosen if own.selection is not None and own.orders else None
    if chosen is not None and _identity(chosen) not in map(_identity, found):
        found.append(chosen)
    return found


def _place(own: Proposal, candidates: list[Candidate]) -> int | None:
    """Where the candidate stands that the inner policy would grow; None where it waits."""
    if not own.orders or own.selection is None or own.selection.chosen is None:
        return None
    wanted = _identity(own.selection.chosen)
    return next(place for place, item in enumerate(candidates) if _identity(item) == wanted)


def _identity(candidate: Candidate) -> tuple[object, ...]:
    blueprint = candidate.blueprint.blueprint_id if candidate.blueprint else "-"
    return candidate.slot.slot_id, blueprint, candidate.parameters, candidate.forward_macs


def _pick(probabilities: tuple[float, ...], number: float) -> int | None:
    """The candidate on which the number falls; None beyond all of them."""
    total = 0.0
    for place, probability in enumerate(probabilities):
        total += probability
        if number < total:
            return place
    return None
