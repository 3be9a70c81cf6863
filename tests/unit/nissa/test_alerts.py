"""Alerts rise and clear as the drills ask, for each source on its own."""

from __future__ import annotations

import pytest

from esper.core.clock import ManualClock
from esper.leyline import Attribute, Event, Metric, TelemetryLevel, TelemetryPacket
from esper.nissa.alerts import Alerts
from esper.nissa.patience import ENDED_S, SILENT_S
from esper.nissa.rules import EVENT_RULES, QUIET_S, RULES

BY_NAME = {rule.name: rule for rule in RULES}


def packet(metric: str, *values: float, source: str = "tolaria", run: str | None = None) -> TelemetryPacket:
    metrics = [Metric(name=metric, value=value) for value in values]
    return TelemetryPacket(source=source, training_run_id=run, metrics=metrics)


def raised(alerts: Alerts, *packets: TelemetryPacket) -> list[tuple[str, bool]]:
    return [(change.alert.rule, change.is_raised) for each in packets for change in alerts.judge(each)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_rises_after_its_packets_and_clears_with_the_first_good_one(rule: object) -> None:
    rule = BY_NAME[rule.name]
    bad, good = (
        (rule.threshold + 1, rule.threshold - 1) if rule.past(1, 0) else (rule.threshold - 1, rule.threshold + 1)
    )
    alerts = Alerts(ManualClock(), [rule])
    assert raised(alerts, *[packet(rule.metric, bad)] * (rule.packets - 1)) == []
    assert raised(alerts, packet(rule.metric, bad)) == [(rule.name, True)]
    assert raised(alerts, *[packet(rule.metric, bad)] * 3) == []
    assert [(alert.rule, alert.source) for alert in alerts.standing] == [(rule.name, "tolaria")]
    assert raised(alerts, packet(rule.metric, good)) == [(rule.name, False)]
    assert alerts.standing == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_threshold_itself_is_not_past_it(rule: object) -> None:
    rule = BY_NAME[rule.name]
    assert raised(Alerts(ManualClock(), [rule]), *[packet(rule.metric, rule.threshold)] * 5) == []


def test_a_packet_without_the_metric_says_nothing_about_the_rule() -> None:
    alerts = Alerts(ManualClock())
    bad, other = packet("tolaria.training.latency_ms", 400.0), packet("tolaria.training.loss", 0.1)
    assert raised(alerts, bad, other, bad, other, bad) == [("training_latency_high", True)]
    assert raised(alerts, other) == []


def test_sources_and_runs_are_judged_apart() -> None:
    alerts = Alerts(ManualClock())
    packets = [packet("tolaria.training.latency_ms", 400.0, run=run) for run in ("a", "b", "a", "b")]
    assert raised(alerts, *packets) == []
    assert raised(alerts, packets[0]) == [("training_latency_high", True)]


def test_the_worst_series_of_a_packet_counts() -> None:
    alerts = Alerts(ManualClock())
    mixed = packet("oona.queue.depth", 0.0, 5000.0, 3.0, source="oona")
    (change,) = [change for each in (mixed, mixed) for change in alerts.judge(each)]
    assert (change.alert.rule, change.value) == ("oona_queue_depth", 5000.0)


CRITICAL, INFO = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, TelemetryLevel.TELEMETRY_LEVEL_INFO


def happening(name: str, level: int = CRITICAL, count: int | None = None, run: str = "r1") -> TelemetryPacket:
    attributes = [] if count is None else [Attribute(key="count", integer=count)]
    events = [Event(name=name, level=level, attributes=attributes)]
    return TelemetryPacket(source="kasmina", training_run_id=run, events=events)


@pytest.mark.parametrize("rule", EVENT_RULES, ids=lambda rule: rule.name)
def test_an_event_raises_its_alert_once_and_it_clears_when_it_has_been_quiet(rule: object) -> None:
    rule = next(each for each in EVENT_RULES if each is rule)
    clock = ManualClock()
    alerts = Alerts(clock)
    level = CRITICAL if rule.severity == "critical" else INFO
    (name,) = rule.events
    assert raised(alerts, *[happening(name, level)] * 3) == [(rule.name, True)]
    clock.advance(QUIET_S - 1)
    assert raised(alerts, happening(name, level)) == []
    clock.advance(QUIET_S - 1)
    assert alerts.pass_time() == []
    clock.advance(1)
    (change,) = alerts.pass_time()
    assert (change.alert.rule, change.is_raised, change.value) == (rule.name, False, 4.0)
    assert change.why == f"no {name} for 300 s"
    assert alerts.pass_time() == []


def test_a_critical_event_without_a_rule_of_its_own_raises_an_alert_that_names_it() -> None:
    alerts = Alerts(ManualClock())
    assert raised(alerts, happening("reset_incomplete")) == [("critical_event", True)]
    assert raised(alerts, happening("replay_diverged")) == [("critical_event", True)]
    assert [alert.event for alert in alerts.standing] == ["replay_diverged", "reset_incomplete"]
    assert raised(alerts, happening("run_opened", INFO)) == []


def test_an_event_that_was_told_less_gravely_raises_no_grave_alert() -> None:
    alerts = Alerts(ManualClock())
    warning = TelemetryLevel.TELEMETRY_LEVEL_WARNING
    assert raised(alerts, happening("bsds_hazard_critical", warning), happening("bsds_hazard_high", warning)) == [
        ("tamiyo_bsds_high", True)
    ]
    assert raised(alerts, happening("bsds_hazard_critical")) == [("tamiyo_bsds_critical", True)]


def test_an_event_that_tells_of_many_counts_as_many() -> None:
    (change,) = Alerts(ManualClock()).judge(happening("command_rejected", count=40))
    assert change.value == 40.0


def test_an_alert_of_a_source_that_falls_silent_clears_and_says_why() -> None:
    clock = ManualClock()
    alerts = Alerts(clock)
    breaker = packet("tolaria.breaker.state", 2.0, run="r1")
    assert raised(alerts, breaker) == [("breaker_open", True)]
    clock.advance(SILENT_S - 1)
    assert (raised(alerts, breaker), alerts.pass_time()) == ([], [])
    clock.advance(SILENT_S)
    (change,) = alerts.pass_time()
    assert (change.is_raised, change.why) == (False, "tolaria tells of it no more")


def test_what_was_measured_of_a_run_clears_soon_after_its_end_and_of_others_does_not() -> None:
    clock = ManualClock()
    alerts = Alerts(clock)
    assert raised(alerts, *[packet("tolaria.breaker.state", 2.0, run=run) for run in ("r1", "r2")])
    assert raised(alerts, happening("tolaria.run_finished", INFO, run="r1")) == []
    clock.advance(ENDED_S)
    assert [(change.alert.run, change.is_raised) for change in alerts.pass_time()] == [("r1", False)]
    assert [alert.run for alert in alerts.standing] == ["r2"]


def test_a_run_that_goes_on_after_its_end_is_believed_for_long_again() -> None:
    clock = ManualClock()
    alerts = Alerts(clock)
    raised(alerts, happening("tolaria.run_finished", INFO), happening("tolaria.run_started", INFO))
    assert raised(alerts, packet("tolaria.breaker.state", 2.0, run="r1")) == [("breaker_open", True)]
    clock.advance(ENDED_S)
    assert alerts.pass_time() == []


def test_alerts_of_an_earlier_process_are_not_told_again_and_clear_as_if_it_had_gone_on() -> None:
    clock = ManualClock()
    before = Alerts(clock)
    bad, good = (packet("kasmina.isolation.violations", value, run="r1") for value in (1.0, 0.0))
    assert raised(before, bad, happening("command_rejected"))
    after = Alerts(clock)
    after.restore(before.standing)
    assert after.standing == before.standing
    assert raised(after, bad, happening("command_rejected")) == []
    assert raised(after, good) == [("kasmina_isolation_violation", False)]
    clock.advance(QUIET_S)
    assert [change.alert.rule for change in after.pass_time()] == ["commands_rejected"]
