"""What to do about one packet: the protocol of a policy, and the heuristic that keeps it by default.

A policy reads deterministic inputs, decides, and changes nothing: the same view gives the same proposal, so a
learned policy can take the heuristic's place without anything else noticing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from esper.leyline import (
    Blueprint,
    DecisionReason,
    GateVerdict,
    GrowthTrigger,
    SeedGate,
    SeedOperationKind,
    SeedStage,
    SeedState,
    SystemStatePacket,
    TamiyoRunState,
)
from esper.tamiyo.context import BUSY_STAGES, LIVE_STAGES, RunContext
from esper.tamiyo.selection import Selection
from esper.tamiyo.signals import Signals

WAIT = "wait"
GERMINATE = SeedOperationKind.SEED_OPERATION_KIND_GERMINATE
FOSSILIZE = SeedOperationKind.SEED_OPERATION_KIND_FOSSILIZE
CULL = SeedOperationKind.SEED_OPERATION_KIND_CULL
ACTIONS = {GERMINATE: "germinate", FOSSILIZE: "fossilize", CULL: "cull"}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a policy sees. `select` looks at the slots; it is called only where a slot is wanted."""

    context: RunContext
    packet: SystemStatePacket
    state: TamiyoRunState
    signals: Signals
    select: Callable[[], Selection]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One change of one seed; a germination names slot and blueprint, its seed id is given later."""

    operation: SeedOperationKind
    reason: DecisionReason
    seed: SeedState | None = None
    blueprint: Blueprint | None = None
    slot_id: str = ""

    @property
    def action(self) -> str:
        return ACTIONS[self.operation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a policy wants, before any risk rule."""

    orders: tuple[Order, ...] = ()
    reasons: tuple[DecisionReason, ...]
    selection: Selection | None = None
    log_probability: float = 0.0
    value: float | None = None
    severity: float = 0.0
    """Severity that the policy itself expects, 0..1."""

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
    """Verdicts first; then grow at a plateau that has room left, one seed at a time."""

    policy_id = "heuristic"
    version = "1.0.0"

    def propose(self, view: View) -> Proposal:
        verdicts = tuple(_verdict_orders(view))
        if verdicts:
            return Proposal(orders=verdicts, reasons=_distinct(order.reason for order in verdicts))
        obstacle = next((reason for reason, holds in OBSTACLES if holds(view)), None)
        if obstacle is not None:
            return Proposal(reasons=(obstacle,))
        return _germination(view)

    def digest(self, context: RunContext, version: str) -> str:
        text = f"{self.policy_id}\n{version}\n{context.trigger}\n{context.config}"
        return hashlib.sha256(text.encode()).hexdigest()


def _verdict_orders(view: View) -> list[Order]:
    """Keep what passed the twin test, cull what failed any gate; not while a command for the seed is open."""
    asked = {command.seed_id for command in view.state.open_commands}
    orders = [_verdict_order(seed) for seed in view.packet.seeds if seed.seed_id not in asked]
    return [order for order in orders if order is not None]


def _verdict_order(seed: SeedState) -> Order | None:
    passed = seed.verdict == GateVerdict.GATE_VERDICT_PASS and seed.gate == SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
    if passed and seed.stage == SeedStage.SEED_STAGE_PROBATIONARY:
        return Order(operation=FOSSILIZE, reason=DecisionReason.DECISION_REASON_GATE_PASSED, seed=seed)
    if seed.verdict == GateVerdict.GATE_VERDICT_FAIL and seed.stage in LIVE_STAGES:
        return Order(operation=CULL, reason=DecisionReason.DECISION_REASON_GATE_FAILED, seed=seed)
    return None


def _is_off(view: View) -> bool:
    return view.context.trigger.mode == GrowthTrigger.GROWTH_TRIGGER_NEVER


def _is_paused(view: View) -> bool:
    return view.packet.growth.paused


def _is_over(view: View) -> bool:
    """No seed's stages could end before the decay begins, or the gates ended growth."""
    end_step = view.context.spec.life.growth_end_step
    return view.packet.growth.ended or view.packet.step + view.context.life_steps > end_step


def _is_occupied(view: View) -> bool:
    return any(seed.stage in BUSY_STAGES for seed in view.packet.seeds) or bool(view.state.open_commands)


def _is_forced(view: View) -> bool:
    return view.context.trigger.mode == GrowthTrigger.GROWTH_TRIGGER_ALWAYS


def _is_warming_up(view: View) -> bool:
    too_early = view.packet.step < max(view.context.trigger.warmup_steps, view.state.retry_step)
    return too_early or (view.signals.slope is None and not _is_forced(view))


def _is_saturated(view: View) -> bool:
    if _is_forced(view):
        return False
    trigger, signals = view.context.trigger, view.signals
    fits = (
        signals.accuracy is not None and trigger.saturation_share < 1 and signals.accuracy >= trigger.saturation_share
    )
    return fits or (signals.smoothed_loss is not None and signals.smoothed_loss <= signals.saturation_floor)


def _is_improving(view: View) -> bool:
    slope = view.signals.slope
    return not _is_forced(view) and slope is not None and slope >= view.context.trigger.slope_threshold


OBSTACLES: Sequence[tuple[DecisionReason, Callable[[View], bool]]] = (
    (DecisionReason.DECISION_REASON_GROWTH_OFF, _is_off),
    (DecisionReason.DECISION_REASON_SEED_ALIVE, _is_occupied),
    (DecisionReason.DECISION_REASON_PAUSED, _is_paused),
    (DecisionReason.DECISION_REASON_GROWTH_ENDED, _is_over),
    (DecisionReason.DECISION_REASON_WARMING_UP, _is_warming_up),
    (DecisionReason.DECISION_REASON_SATURATED, _is_saturated),
    (DecisionReason.DECISION_REASON_STILL_IMPROVING, _is_improving),
)


def _germination(view: View) -> Proposal:
    selection = view.select()
    chosen = selection.chosen
    if chosen is None:
        lack = (
            DecisionReason.DECISION_REASON_BUDGET if selection.lacks_budget else DecisionReason.DECISION_REASON_NO_SLOT
        )
        return Proposal(reasons=(lack,), selection=selection)
    forced = DecisionReason.DECISION_REASON_FORCED
    reason = forced if _is_forced(view) else DecisionReason.DECISION_REASON_PLATEAU
    order = Order(operation=GERMINATE, reason=reason, blueprint=chosen.blueprint, slot_id=chosen.slot.slot_id)
    return Proposal(orders=(order,), reasons=(reason,), selection=selection)


def _distinct(reasons: Iterable[DecisionReason]) -> tuple[DecisionReason, ...]:
    return tuple(dict.fromkeys(reasons))
