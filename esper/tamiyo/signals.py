"""Smoothed signals of a run: the level of the loss, how fast it falls, and how much is left to gain.

The trainer smooths; here the smoothed loss is kept over a window and its slope taken by least squares, so that
one noisy packet neither starts nor stops growth. Only deterministic inputs are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esper.leyline import LossPoint, PolicySignal, PolicySignalId, SystemStatePacket, TamiyoRunState
from esper.tamiyo.context import RunContext
from esper.tamiyo.stack_rules import MIN_POINTS, course_start, note_fall
from esper.tamiyo.trigger import Trigger

_FULL_SHARE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """What the growth trigger looks at. None means not known yet."""

    smoothed_loss: float | None
    saturation_floor: float
    slope: float | None
    accuracy: float | None
    loss_standard_error: float | None
    gradient_norm: float | None
    steps_since_change: int
    steps_left: int
    parameters_left: int | None


def observe(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext) -> Signals:
    """Take a packet into the window of `state` and return the signals after it."""
    metrics = packet.metrics
    if math.isfinite(metrics.smoothed_loss):
        state.window.append(LossPoint(step=packet.step, loss=metrics.smoothed_loss))
        state.smoothed_loss = metrics.smoothed_loss
        if not state.HasField("first_loss"):
            state.first_loss = metrics.smoothed_loss
    for name, field in (("gradient_norm", "smoothed_gradient_norm"), ("training_accuracy", "smoothed_accuracy")):
        if metrics.HasField(name):
            setattr(state, field, getattr(metrics, name))
    oldest = packet.step - context.trigger.window_steps
    _trim(state, min(oldest, course_start(packet.step)) if context.stacks_by_rule else oldest)
    note_fall(state, packet, context)
    return _signals(state, packet, context)


def relative_fall(points: Sequence[LossPoint], window_steps: int) -> float | None:
    """Fall of the loss per 100 steps as a share of its mean; None while the window isn't full."""
    count = len(points)
    if count < MIN_POINTS or points[-1].step - points[0].step < _FULL_SHARE * window_steps:
        return None
    mean_step = math.fsum(point.step for point in points) / count
    mean_loss = math.fsum(point.loss for point in points) / count
    spread = math.fsum((point.step - mean_step) ** 2 for point in points)
    slope = math.fsum((point.step - mean_step) * (point.loss - mean_loss) for point in points) / spread
    return -100.0 * slope / max(abs(mean_loss), 1e-12)


def relative_rise(loss: float, before: float, floor: float) -> float:
    """Rise of the loss as a share of what it was, or of the floor where it was lower: noise around zero is no jump."""
    return (loss - before) / max(before, floor)


def as_messages(signals: Signals, context: RunContext) -> list[PolicySignal]:
    """The signals as a decision's metadata carries them; unknown ones are left out."""
    trigger = context.trigger
    values = {
        PolicySignalId.POLICY_SIGNAL_ID_SMOOTHED_LOSS: signals.smoothed_loss,
        PolicySignalId.POLICY_SIGNAL_ID_LOSS_SLOPE: signals.slope,
        PolicySignalId.POLICY_SIGNAL_ID_SLOPE_THRESHOLD: trigger.slope_threshold,
        PolicySignalId.POLICY_SIGNAL_ID_SATURATION_FLOOR: signals.saturation_floor,
        PolicySignalId.POLICY_SIGNAL_ID_LOSS_STANDARD_ERROR: signals.loss_standard_error,
        PolicySignalId.POLICY_SIGNAL_ID_GRADIENT_NORM: signals.gradient_norm,
        PolicySignalId.POLICY_SIGNAL_ID_STEPS_SINCE_CHANGE: signals.steps_since_change,
        PolicySignalId.POLICY_SIGNAL_ID_PARAMETERS_LEFT: signals.parameters_left,
        PolicySignalId.POLICY_SIGNAL_ID_STEPS_LEFT: signals.steps_left,
        PolicySignalId.POLICY_SIGNAL_ID_SATURATION: signals.accuracy,
    }
    return [PolicySignal(id=id_, value=value) for id_, value in values.items() if value is not None]


def value_of(signals: Sequence[PolicySignal], wanted: PolicySignalId) -> float | None:
    """One signal's value in a decision's metadata."""
    return next((signal.value for signal in signals if signal.id == wanted), None)


def _trim(state: TamiyoRunState, oldest_step: int) -> None:
    surplus = sum(1 for point in state.window if point.step < oldest_step)
    del state.window[: min(surplus, max(0, len(state.window) - MIN_POINTS))]


def _recent(state: TamiyoRunState, oldest_step: int) -> Sequence[LossPoint]:
    """The slope's window: a rule for stacks keeps more than that."""
    found = [point for point in state.window if point.step >= oldest_step]
    return found if len(found) >= MIN_POINTS else state.window[-MIN_POINTS:]


def _signals(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext) -> Signals:
    metrics, budget = packet.metrics, context.spec.budget
    limited, trigger = budget.HasField("max_parameters"), context.trigger
    return Signals(
        smoothed_loss=state.smoothed_loss if state.HasField("smoothed_loss") else None,
        saturation_floor=_floor(trigger, state),
        slope=relative_fall(_recent(state, packet.step - trigger.window_steps), trigger.window_steps),
        accuracy=state.smoothed_accuracy if state.HasField("smoothed_accuracy") else None,
        loss_standard_error=(
            metrics.smoothed_loss_standard_error if metrics.HasField("smoothed_loss_standard_error") else None
        ),
        gradient_norm=state.smoothed_gradient_norm if state.HasField("smoothed_gradient_norm") else None,
        steps_since_change=packet.step - state.last_change_step,
        steps_left=max(0, context.spec.life.growth_end_step - packet.step - context.life_steps),
        parameters_left=max(0, budget.max_parameters - metrics.parameters) if limited else None,
    )


def _floor(trigger: Trigger, state: TamiyoRunState) -> float:
    """The floor in units of the loss; a little above zero, so that a loss can be held against it."""
    unit = abs(state.first_loss) if trigger.is_floor_relative else 1.0
    return max(trigger.saturation_floor * unit, 1e-12)
