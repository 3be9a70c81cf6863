"""What to do about one packet: the protocol of a policy, and the heuristic that keeps it by default.

A policy reads deterministic inputs, decides, and changes nothing: the same view gives the same proposal, so a
learned policy can take the heuristic's place without anything else noticing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from esper.core.enums import short_name
from esper.leyline import (
    Blueprint,
    DecisionReason,
    GateVerdict,
    SeedGate,
    SeedOperationKind,
    SeedStage,
    SeedState,
    TamiyoRunState,
)
from esper.tamiyo.context import LIVE_STAGES, RunContext
from esper.tamiyo.growing import new_task
from esper.tamiyo.growing.candidates import Candidate
from esper.tamiyo.growing.obstacles import Scene, first_obstacle, stacks_tried
from esper.tamiyo.growing.selection import Selection
from esper.tamiyo.signals import Signals
from esper.tamiyo.stack_rules import RULES

WAIT = "wait"
GERMINATE = SeedOperationKind.SEED_OPERATION_KIND_GERMINATE
FOSSILIZE = SeedOperationKind.SEED_OPERATION_KIND_FOSSILIZE
CULL = SeedOperationKind.SEED_OPERATION_KIND_CULL
ACTIONS = {GERMINATE: "germinate", FOSSILIZE: "fossilize", CULL: "cull"}


@dataclass(frozen=True, kw_only=True, slots=True)
class View(Scene):
    """What a policy sees. `select` looks at the slots; it is called only where a slot is wanted."""

    select: Callable[[], Selection]
    survey: Callable[[], Selection]
    """Looks at everything that could be grown, for a policy that chooses among all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One change of one seed; a germination names slot and blueprint, its seed id is given later."""

    operation: SeedOperationKind
    reason: DecisionReason
    seed: SeedState | None = None
    blueprint: Blueprint | None = None
    slot_id: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the blueprint that are not its defaults."""

    @property
    def action(self) -> str:
        return ACTIONS[self.operation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a policy wants, before any risk rule."""

    orders: tuple[Order, ...] = ()
    reasons: tuple[DecisionReason, ...]
    detail: str
    """The first reason in words, with its numbers."""
    selection: Selection | None = None
    log_probability: float = 0.0
    value: float | None = None
    severity: float = 0.0
    """Severity that the policy itself expects, 0..1."""
    probabilities: tuple[float, ...] = ()
    """Of each candidate of the selection to be taken now; empty: the chosen one is taken for certain."""

    @property
    def wait_probability(self) -> float:
        """Probability that nothing is grown now, as far as probabilities are given."""
        return max(0.0, 1.0 - math.fsum(self.probabilities)) if self.probabilities else 0.0

    @property
    def action(self) -> str:
        return "+".join(order.action for order in self.orders) or WAIT


class Policy(Protocol):
    """Decides on packets."""

    policy_id: str
    version: str

    def propose(self, view: View) -> Proposal:
        """What to do now. Never raises for a valid packet."""

    def digest(self, context: RunContext, version: str) -> str:
        """SHA-256 over everything but its input that its decisions depend on."""


class HeuristicPolicy:
    """Verdicts first; then grow at a plateau that has room left, or for a new task, one seed at a time."""

    policy_id = "heuristic"
    version = "1.0.0"

    def propose(self, view: View) -> Proposal:
        verdicts = on_verdicts(view)
        if verdicts is not None:
            return verdicts
        obstacle = first_obstacle(view)
        if obstacle is not None:
            return Proposal(reasons=obstacle[:1], detail=obstacle[1])
        return _germination(view)

    def digest(self, context: RunContext, version: str) -> str:
        text = f"{self.policy_id}\n{version}\n{context.trigger}\n{context.config}"
        return hashlib.sha256(text.encode()).hexdigest()


def on_verdicts(view: View) -> Proposal | None:
    """What the judge's verdicts ask for; None where there are none. No policy decides against evidence."""
    verdicts = tuple(_verdict_orders(view))
    if not verdicts:
        return None
    reasons = _distinct(order.reason for order in verdicts)
    return Proposal(orders=verdicts, reasons=reasons, detail="; ".join(map(_verdict_in_words, verdicts)))


def _verdict_orders(view: View) -> list[Order]:
    """Keep what passed the twin test, cull what failed any gate; not while a command for the seed is open."""
    asked = {command.seed_id for command in view.state.open_commands}
    orders = [_verdict_order(seed) for seed in view.packet.seeds if seed.seed_id not in asked]
    return [order for order in orders if order is not None]


def _verdict_order(seed: SeedState) -> Order | None:
    passed = seed.verdict == GateVerdict.GATE_VERDICT_PASS and seed.gate == SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
    if passed and seed.stage == SeedStage.SEED_STAGE_PROBATIONARY and not seed.is_paused:
        return Order(operation=FOSSILIZE, reason=DecisionReason.DECISION_REASON_GATE_PASSED, seed=seed)
    if seed.verdict == GateVerdict.GATE_VERDICT_FAIL and seed.stage in LIVE_STAGES:
        return Order(operation=CULL, reason=DecisionReason.DECISION_REASON_GATE_FAILED, seed=seed)
    return None


def _verdict_in_words(order: Order) -> str:
    seed = order.seed or SeedState()
    gate, verdict = short_name(SeedGate, seed.gate), short_name(GateVerdict, seed.verdict)
    return f"{order.action} seed {seed.seed_id}: {gate} {verdict}"


def _germination(view: View) -> Proposal:
    selection = view.select()
    chosen = selection.chosen
    if chosen is None:
        lack, words = selection.lack
        return Proposal(reasons=(lack,), detail=words, selection=selection)
    reason, words = _why_now(view)
    return Proposal(
        orders=(germination_order(chosen, reason),),
        reasons=(reason,),
        detail=words,
        selection=selection,
        value=_gain_so_far(view.state, chosen.slot.slot_id),
        severity=rise_ahead(view.signals),
    )


def germination_order(chosen: Candidate, reason: DecisionReason) -> Order:
    """The order to grow a candidate."""
    return Order(
        operation=GERMINATE,
        reason=reason,
        blueprint=chosen.blueprint,
        slot_id=chosen.slot.slot_id,
        values=chosen.values,
    )


def _gain_so_far(state: TamiyoRunState, slot_id: str) -> float | None:
    """Mean gain of the seeds that were judged in a slot, in units of the score; None where none was."""
    return next((item.gain_sum / item.judged for item in state.evidence if item.slot_id == slot_id), None)


def rise_ahead(signals: Signals) -> float:
    """By how much the loss rises in the next 100 steps if it goes on as it does, as a share of it and at most 1.

    A loss that rises is flat to the trigger; grown into, its cause would be blamed on the seed.
    """
    return min(1.0, max(0.0, -(signals.slope or 0.0)))


def _why_now(view: View) -> tuple[DecisionReason, str]:
    if view.is_forced:
        return DecisionReason.DECISION_REASON_FORCED, "the run's trigger is ALWAYS"
    if view.context.stacks_by_rule and view.context.grows_stacks:
        return DecisionReason.DECISION_REASON_PLATEAU, RULES[view.context.trigger.stack_rule](view)[1]
    if view.context.grows_stacks:
        tried, steps = stacks_tried(view), view.context.trigger.stack_steps
        words = f"stack {tried + 1} of {len(steps)} was due from step {steps[tried]} on"
        return DecisionReason.DECISION_REASON_SCHEDULED, words
    jump = new_task.in_words(view.state)
    if jump is not None:
        return DecisionReason.DECISION_REASON_NEW_TASK, jump
    return DecisionReason.DECISION_REASON_PLATEAU, _plateau_in_words(view)


def _plateau_in_words(view: View) -> str:
    slope, threshold = view.signals.slope, view.context.trigger.slope_threshold
    return f"the loss falls by {slope or 0.0:.2%} in 100 steps, flat below {threshold:.2%}"


def _distinct(reasons: Iterable[DecisionReason]) -> tuple[DecisionReason, ...]:
    return tuple(dict.fromkeys(reasons))
