"""Alerts: rules over the packets of each source and run. A packet without a rule's metric says nothing about that rule.

An alert about a metric clears with the first good value, one about events once it has been quiet for long enough, and
both when nothing more is heard of what they are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from esper.core.clock import NS_PER_S, Clock
from esper.core.telemetry import attribute_value
from esper.leyline import Event, TelemetryLevel, TelemetryPacket
from esper.nissa.patience import Patience
from esper.nissa.rules import CRITICAL_RULE, EVENT_RULES, QUIET_S, RULES, EventRule, Rule, Severity

CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL
# More packets in a row than any rule asks for.
MANY = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """What an alert is about; `event` names the event of one that events raise."""

    rule: str
    source: str
    run: str
    event: str
    severity: Severity
    routes: tuple[str, ...]
    help: str
    threshold: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells it from every other alert."""
        return self.rule, self.source, self.run, self.event


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that was raised or cleared; `value` is what was measured, or how many events there were."""

    alert: Alert
    value: float
    is_raised: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    alert: Alert
    due_ns: int
    """When it clears unless it is heard of again."""
    value: float = 0.0
    streak: int = 0
    is_raised: bool = False


class Alerts:
    """The state of every rule for every source and run."""

    def __init__(
        self,
        clock: Clock,
        rules: Sequence[Rule] = RULES,
        event_rules: Sequence[EventRule] = EVENT_RULES,
        patience: Patience | None = None,
    ) -> None:
        self._clock = clock
        self._patience = patience or Patience()
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.metric, []).append(rule)
        self._rule_of = {name: rule for rule in event_rules for name in rule.events}
        self._states: dict[tuple[str, str, str, str], _State] = {}

    @property
    def standing(self) -> list[Alert]:
        """What is raised now."""
        return [self._states[key].alert for key in sorted(self._states) if self._states[key].is_raised]

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take alerts of an earlier process as raised: they are not told again, and clear as if it had gone on."""
        for alert in alerts:
            self._states[alert.key] = _State(alert, self._due_ns(alert), streak=MANY, is_raised=True)

    def judge(self, packet: TelemetryPacket) -> list[Change]:
        """Alerts that this packet raises or clears: one change at a time for each, however long it lasts."""
        found: dict[str, list[float]] = {}
        for metric in packet.metrics:
            if metric.name in self._rules:
                found.setdefault(metric.name, []).append(metric.value)
        judged = ((rule, values) for name, values in found.items() for rule in self._rules[name])
        measured = (change for rule, values in judged for change in self._measured(rule, values, packet))
        changes = [*measured, *(change for event in packet.events for change in self._happened(event, packet))]
        if self._patience.hear(packet):
            self._let_go(packet.training_run_id)
        return changes

    def pass_time(self) -> list[Change]:
        """Alerts that clear because it has been quiet, or because nothing was heard of their source any more."""
        now_ns = self._clock.monotonic_ns()
        due = [state for state in self._states.values() if state.due_ns <= now_ns]
        for state in due:
            del self._states[state.alert.key]
        return [Change(state.alert, state.value, False, _silence(state.alert)) for state in due if state.is_raised]

    def _measured(self, rule: Rule, values: list[float], packet: TelemetryPacket) -> Iterator[Change]:
        alert = _alert(rule, packet, rule.threshold)
        before = self._states.pop(alert.key, None) or _State(alert, 0)
        past = [value for value in values if rule.past(value, rule.threshold)]
        streak = before.streak + 1 if past else 0
        now = _State(
            alert,
            self._due_ns(alert),
            value=(past or values)[0],
            streak=streak,
            is_raised=streak >= rule.packets,
        )
        if streak:
            self._states[alert.key] = now
        if now.is_raised is not before.is_raised:
            yield Change(now.alert, now.value, now.is_raised)

    def _happened(self, event: Event, packet: TelemetryPacket) -> Iterator[Change]:
        rule = self._rule_of.get(event.name, CRITICAL_RULE)
        # What a run was told to do all the same, such as growing a dangerous blueprint, is told less gravely.
        if rule.severity == "critical" and event.level != CRITICAL:
            return
        alert = replace(_alert(rule, packet, 0.0), event=event.name)
        before = self._states.get(alert.key) or _State(alert, 0)
        now = replace(before, due_ns=self._due_ns(alert), value=before.value + _count(event), is_raised=True)
        self._states[alert.key] = now
        if not before.is_raised:
            yield Change(now.alert, now.value, True)

    def _let_go(self, run: str) -> None:
        """Nothing more will be measured of a run that has ended."""
        for key, state in self._states.items():
            if state.alert.run == run and not state.alert.event:
                self._states[key] = replace(state, due_ns=min(state.due_ns, self._due_ns(state.alert)))

    def _due_ns(self, alert: Alert) -> int:
        """When an alert clears that isn't heard of again."""
        patience_s = QUIET_S if alert.event else self._patience.seconds(alert.run)
        return self._clock.monotonic_ns() + round(patience_s * NS_PER_S)


def _alert(rule: Rule | EventRule, packet: TelemetryPacket, threshold: float) -> Alert:
    return Alert(
        rule=rule.name,
        source=packet.source,
        run=packet.training_run_id,
        event="",
        severity=rule.severity,
        routes=rule.routes,
        help=rule.help,
        threshold=threshold,
    )


def _silence(alert: Alert) -> str:
    if alert.event:
        return f"no {alert.event} for {QUIET_S:g} s"
    return f"{alert.source} tells of it no more"


def _count(event: Event) -> float:
    """How many events this one tells of."""
    counts = [attribute_value(attribute) for attribute in event.attributes if attribute.key == "count"]
    return float(counts[0]) if counts and isinstance(counts[0], int) else 1.0
