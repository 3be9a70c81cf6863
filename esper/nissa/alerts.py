"""Alerts: rules over the packets of each source. A packet without a rule's metric says nothing about that rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.leyline import TelemetryPacket
from esper.nissa.rules import RULES, Rule


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that was raised or cleared."""

    rule: Rule
    source: str
    value: float
    is_raised: bool


@dataclass(frozen=True, slots=True)
class _State:
    streak: int = 0
    is_raised: bool = False


_QUIET = _State()


class Alerts:
    """The state of every rule for every source and run."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.metric, []).append(rule)
        self._states: dict[tuple[str, str, str], _State] = {}

    @property
    def active(self) -> list[tuple[str, str]]:
        """Rule and source of what is raised now."""
        return sorted((rule, source) for (rule, source, _), state in self._states.items() if state.is_raised)

    def judge(self, packet: TelemetryPacket) -> list[Change]:
        """Alerts that this packet raises or clears: one change at a time for each, however long it lasts."""
        found: dict[str, list[float]] = {}
        for metric in packet.metrics:
            if metric.name in self._rules:
                found.setdefault(metric.name, []).append(metric.value)
        judged = ((rule, values) for name, values in found.items() for rule in self._rules[name])
        return [change for rule, values in judged if (change := self._judge(rule, values, packet)) is not None]

    def _judge(self, rule: Rule, values: list[float], packet: TelemetryPacket) -> Change | None:
        key = (rule.name, packet.source, packet.training_run_id)
        before = self._states.pop(key, _QUIET)
        past = [value for value in values if rule.past(value, rule.threshold)]
        streak = before.streak + 1 if past else 0
        is_raised = streak >= rule.packets
        if streak:
            self._states[key] = _State(streak, is_raised)
        if is_raised is before.is_raised:
            return None
        return Change(rule, packet.source, (past or values)[0], is_raised)
