"""What keeps a run from growing now, looked for in a fixed order; each obstacle says with its numbers that it is there.

None stands for "not in the way". Orders of people and the run's own limits come before the growth trigger's signals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from esper.core.enums import short_name
from esper.leyline import DecisionReason, GrowthTrigger, SeedStage, SystemStatePacket, TamiyoRunState
from esper.tamiyo.context import BUSY_STAGES, RunContext
from esper.tamiyo.growing import new_task
from esper.tamiyo.signals import Signals
from esper.tamiyo.stack_rules import RULES


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is known when a policy asks whether growth is possible at all."""

    context: RunContext
    packet: SystemStatePacket
    state: TamiyoRunState
    signals: Signals

    @property
    def is_forced(self) -> bool:
        """Whether the run asked to grow whatever its signals say."""
        return self.context.trigger.mode == GrowthTrigger.GROWTH_TRIGGER_ALWAYS


NEEDED = "a seed needs {} steps to its verdict"
Obstacle = Callable[[Scene], str | None]


def off(scene: Scene) -> str | None:
    if scene.context.trigger.mode != GrowthTrigger.GROWTH_TRIGGER_NEVER:
        return None
    return "the run's trigger is NEVER"


def occupied(scene: Scene) -> str | None:
    """One seed at a time: the twin has to differ by that seed alone."""
    busy = [
        f"seed {seed.seed_id} is {short_name(SeedStage, seed.stage)}{', paused' if seed.is_paused else ''}"
        for seed in scene.packet.seeds
        if seed.stage in BUSY_STAGES
    ]
    busy += [f"command {command.command_id} is under way" for command in scene.state.open_commands]
    return "; ".join(busy) or None


def paused(scene: Scene) -> str | None:
    return "an order paused growth; a ResumeOrder lets it go on" if scene.packet.growth.paused else None


def ended(scene: Scene) -> str | None:
    growth = scene.packet.growth
    return f"{growth.culls_in_row} culls in a row" if growth.ended else None


def too_late(scene: Scene) -> str | None:
    """No seed's stages could end before the decay begins."""
    step, needed = scene.packet.step, scene.context.life_steps
    end_step = scene.context.spec.life.growth_end_step
    if step + needed <= end_step:
        return None
    what = "a stack needs {} steps to its verdict and to pay" if scene.context.grows_stacks else NEEDED
    return f"{what.format(needed)}, {max(0, end_step - step)} are left before growth ends"


def deep_enough(scene: Scene) -> str | None:
    """Every run of blocks has the depth that was asked for: nothing is due, early or late."""
    target = scene.context.trigger.target_depth
    if target is None or not scene.context.grows_stacks:
        return None
    now = {signal.slot_id: signal.depth for signal in scene.packet.slots}
    depths = [(slot.slot_id, now.get(slot.slot_id, slot.depth)) for slot in scene.context.stacks]
    if not depths or any(depth < target for _, depth in depths):
        return None
    return "; ".join(f"{slot_id}: deep enough: it has {depth} of {target} equal blocks" for slot_id, depth in depths)


def warming_up(scene: Scene) -> str | None:
    step, trigger = scene.packet.step, scene.context.trigger
    has_own_time = scene.context.grows_stacks and (scene.is_forced or not scene.context.stacks_by_rule)
    if step < trigger.warmup_steps and not has_own_time:
        return f"step {step} of {trigger.warmup_steps} before the first seed"
    if step < scene.state.retry_step:
        return f"the last command had no effect; the next try is at step {scene.state.retry_step}"
    if scene.signals.slope is None and not scene.is_forced and not scene.context.grows_stacks:
        return f"the loss is not known yet over {trigger.window_steps} steps of this network"
    return None


def saturated(scene: Scene) -> str | None:
    """Nothing is left to gain on the training data."""
    if scene.is_forced or scene.context.grows_stacks:
        return None
    trigger, signals = scene.context.trigger, scene.signals
    share = trigger.saturation_share
    if signals.accuracy is not None and share < 1 and signals.accuracy >= share:
        return f"{signals.accuracy:.2%} of the training samples are right, saturated from {share:.2%} on"
    if signals.smoothed_loss is not None and signals.smoothed_loss <= signals.saturation_floor:
        return f"smoothed loss {signals.smoothed_loss:.4g}, saturated from {signals.saturation_floor:.4g} down"
    return None


def improving(scene: Scene) -> str | None:
    """The loss of a task that isn't new is not flat yet; or this run's rule for depth waits for another course."""
    slope, trigger = scene.signals.slope, scene.context.trigger
    if scene.is_forced:
        return None
    if scene.context.grows_stacks:
        is_due, words = RULES[trigger.stack_rule](scene) if scene.context.stacks_by_rule else (True, "")
        return None if is_due else words
    threshold = trigger.slope_threshold
    if slope is None or slope < threshold or new_task.in_words(scene.state) is not None:
        return None
    return f"the loss falls by {slope:.2%} in 100 steps, flat below {threshold:.2%}"


def not_due(scene: Scene) -> str | None:
    """Depth doesn't wait for a plateau, it comes at steps that the run fixed; a stack that was culled had its turn."""
    steps, tried = scene.context.trigger.stack_steps, stacks_tried(scene)
    if scene.is_forced or scene.context.stacks_by_rule or not scene.context.grows_stacks:
        return None
    if tried >= len(steps):
        every = f"each of the {len(steps)} steps" if len(steps) > 1 else "the one step"
        return f"{every} at which a stack was due has had its own"
    due = steps[tried]
    if scene.packet.step < due:
        return f"stack {tried + 1} of {len(steps)} is due at step {due}"
    return None


def stacks_tried(scene: Scene, stages: Collection[SeedStage] | None = None) -> int:
    """Stacks that the run has grafted so far, kept or not; in the given stages, if any are given."""
    stacks = {slot.slot_id for slot in scene.context.stacks}
    return sum(seed.slot_id in stacks and (stages is None or seed.stage in stages) for seed in scene.packet.seeds)


OBSTACLES: Sequence[tuple[DecisionReason, Obstacle]] = (
    (DecisionReason.DECISION_REASON_GROWTH_OFF, off),
    (DecisionReason.DECISION_REASON_SEED_ALIVE, occupied),
    (DecisionReason.DECISION_REASON_PAUSED, paused),
    (DecisionReason.DECISION_REASON_GROWTH_ENDED, ended),
    (DecisionReason.DECISION_REASON_TARGET_REACHED, deep_enough),
    (DecisionReason.DECISION_REASON_TOO_LATE, too_late),
    (DecisionReason.DECISION_REASON_SCHEDULED, not_due),
    (DecisionReason.DECISION_REASON_WARMING_UP, warming_up),
    (DecisionReason.DECISION_REASON_SATURATED, saturated),
    (DecisionReason.DECISION_REASON_STILL_IMPROVING, improving),
)


GUESSES = frozenset({DecisionReason.DECISION_REASON_SATURATED, DecisionReason.DECISION_REASON_STILL_IMPROVING})
"""Obstacles that guess whether growth would pay; the others say whether it is possible, or allowed."""


def first_obstacle(scene: Scene, *, but: Collection[DecisionReason] = ()) -> tuple[DecisionReason, str] | None:
    """The first thing that is in the way, and the numbers behind it; `but` names what isn't looked at."""
    for reason, look in OBSTACLES:
        if reason in but:
            continue
        words = look(scene)
        if words is not None:
            return reason, words
    return None
