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
        self._rules = tuple(rules)
        self._states: dict[tuple[str, str, str], _State] = {}

    @property
    def active(self) -> list[tuple[str, str]]:
        """Rule and source of what is raised now."""
        return sorted((rule, source) for (rule, source, _), state in self._states.items() if state.is_raised)

    def judge(self, packet: TelemetryPacket) -> list[Change]:
        """Alerts that this packet raises or clears: one change at a time for each, however long it lasts."""
        changes = []
        for rule in self._rules:
            values = [metric.value for metric in packet.metrics if metric.name == rule.metric]
            if not values:
                continue
            key = (rule.name, packet.source, packet.training_run_id)
            before = self._states.pop(key, _QUIET)
            past = [value for value in values if rule.past(value, rule.threshold)]
            streak = before.streak + 1 if past else 0
            is_raised = streak >= rule.packets
            if streak:
                self._states[key] = _State(streak, is_raised)
            if is_raised is not before.is_raised:
                changes.append(Change(rule, packet.source, (past or values)[0], is_raised))
        return changes
