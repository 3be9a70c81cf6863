"""When a stack is due by the course of the loss, where the run fixed no steps for it.

Both rules read the same course: the smoothed losses of the last third of the steps, of the network as it is now.

* knee: the loss over the logarithm of the steps falls steeply at first and bends. The first stack is due once the
  fall has come down to a share of the steepest, the next once it has come down to that share of this, and so on.
* forecast: the loss goes on as a line in 1 / step while the learning rate is constant. A stack is due once the network
  as it is, trained on for the work that the deeper one would take to there, is forecast to end above that one, which
  ends below this one's loss after as many steps by the share that a doubling is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import linear_regression
from typing import Protocol

from esper.leyline import LossPoint, StackRule, SystemStatePacket, TamiyoRunState
from esper.tamiyo.context import RunContext

COURSE_SHARE = 1 / 3
"""Of the steps so far: the course that a rule looks at."""
FULL_SHARE = 0.8
"""Of the course that must be known."""
MIN_POINTS = 4
KNEE_SHARE = 1 / 2
"""At it the loss has bent. Recorded runs of 21 M parameters came to half of their steepest fall at 0.25 of 3,000 steps;
by thirds a second stack would have been due too late."""
DOUBLING_SHARE = 0.04
"""Of the loss, by which a network of twice the blocks ends lower after as many steps: 5.1 % and 4.2 % were measured at
3 -> 6 and 6 -> 12 blocks of 21 M parameters in 3,000 steps."""


class Seen(Protocol):
    """What a rule looks at."""

    @property
    def context(self) -> RunContext: ...
    @property
    def packet(self) -> SystemStatePacket: ...
    @property
    def state(self) -> TamiyoRunState: ...


Rule = Callable[[Seen], tuple[bool, str]]
"""Whether a stack is due, and the numbers behind it."""


def course_start(step: int) -> int:
    """First step of the course that ends at a step."""
    return math.floor(step * (1 - COURSE_SHARE))


def course(state: TamiyoRunState, step: int) -> Sequence[LossPoint]:
    """Losses of the network as it is in the last third of the steps; empty while too few are known."""
    start = max(course_start(step), state.last_change_step)
    points = [point for point in state.window if point.step >= max(1, start)]
    is_full = len(points) >= MIN_POINTS and points[-1].step - points[0].step >= FULL_SHARE * COURSE_SHARE * step
    return points if is_full else ()


def log_fall(state: TamiyoRunState, step: int) -> float | None:
    """Fall of the loss as the steps grow e-fold, by least squares; None while the course is not known."""
    points = course(state, step)
    if not points:
        return None
    return -linear_regression([math.log(point.step) for point in points], [point.loss for point in points]).slope


def note_fall(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext) -> None:
    """Keep the steepest fall of the host, before anything is grown."""
    if context.trigger.stack_rule != StackRule.STACK_RULE_KNEE or packet.seeds:
        return
    fall = log_fall(state, packet.step)
    if fall is not None and math.isfinite(fall):
        state.steepest_fall = max(fall, state.steepest_fall) if state.HasField("steepest_fall") else fall


def at_knee(seen: Seen) -> tuple[bool, str]:
    fall, state = log_fall(seen.state, seen.packet.step), seen.state
    if fall is None or not state.HasField("steepest_fall"):
        return False, "the loss is not known yet over the last third of the steps"
    knee = KNEE_SHARE ** (1 + len(seen.packet.seeds)) * state.steepest_fall
    return fall <= knee, f"the loss falls by {fall:.4g} as the steps grow e-fold, the knee is at {knee:.4g}"


def by_forecast(seen: Seen) -> tuple[bool, str]:
    step, end = seen.packet.step, seen.context.spec.life.growth_end_step
    points = course(seen.state, step)
    if not points:
        return False, "the loss is not known yet over the last third of the steps"
    slope, limit = linear_regression([1 / point.step for point in points], [point.loss for point in points])
    on = limit + slope / (step + (end - step) * _ratio(seen))
    deeper = (1 - DOUBLING_SHARE) * (limit + slope / end)
    return deeper <= on, f"at equal work the loss is forecast to end at {on:.4g}, twice as deep at {deeper:.4g}"


def _ratio(seen: Seen) -> float:
    """Work of a step of the deeper network for one of this one, by forward passes."""
    now = {signal.slot_id: signal.depth for signal in seen.packet.slots}
    added = max(now.get(slot.slot_id, slot.depth) * slot.block_forward_macs for slot in seen.context.stacks)
    return 1 + added / max(1, seen.packet.metrics.forward_macs)


RULES: Mapping[int, Rule] = {StackRule.STACK_RULE_KNEE: at_knee, StackRule.STACK_RULE_FORECAST: by_forecast}
