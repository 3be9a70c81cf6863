"""Alerts rise and clear as the drills ask, for each source on its own."""

from __future__ import annotations

import pytest

from esper.leyline import Metric, TelemetryPacket
from esper.nissa.alerts import Alerts
from esper.nissa.rules import RULES

BY_NAME = {rule.name: rule for rule in RULES}


def packet(metric: str, *values: float, source: str = "tolaria", run: str | None = None) -> TelemetryPacket:
    metrics = [Metric(name=metric, value=value) for value in values]
    return TelemetryPacket(source=source, training_run_id=run, metrics=metrics)


def raised(alerts: Alerts, *packets: TelemetryPacket) -> list[tuple[str, bool]]:
    return [(change.rule.name, change.is_raised) for each in packets for change in alerts.judge(each)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_rises_after_its_packets_and_clears_with_the_first_good_one(rule: object) -> None:
    rule = BY_NAME[rule.name]
    bad, good = (
        (rule.threshold + 1, rule.threshold - 1) if rule.past(1, 0) else (rule.threshold - 1, rule.threshold + 1)
    )
    alerts = Alerts([rule])
    assert raised(alerts, *[packet(rule.metric, bad)] * (rule.packets - 1)) == []
    assert raised(alerts, packet(rule.metric, bad)) == [(rule.name, True)]
    assert raised(alerts, *[packet(rule.metric, bad)] * 3) == []
    assert alerts.active == [(rule.name, "tolaria")]
    assert raised(alerts, packet(rule.metric, good)) == [(rule.name, False)]
    assert alerts.active == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_threshold_itself_is_not_past_it(rule: object) -> None:
    rule = BY_NAME[rule.name]
    assert raised(Alerts([rule]), *[packet(rule.metric, rule.threshold)] * 5) == []


def test_a_packet_without_the_metric_says_nothing_about_the_rule() -> None:
    alerts = Alerts()
    bad, other = packet("tolaria.training.latency_ms", 400.0), packet("tolaria.training.loss", 0.1)
    assert raised(alerts, bad, other, bad, other, bad) == [("training_latency_high", True)]
    assert raised(alerts, other) == []


def test_sources_and_runs_are_judged_apart() -> None:
    alerts = Alerts()
    packets = [packet("tolaria.training.latency_ms", 400.0, run=run) for run in ("a", "b", "a", "b")]
    assert raised(alerts, *packets) == []
    assert raised(alerts, packets[0]) == [("training_latency_high", True)]


def test_the_worst_series_of_a_packet_counts() -> None:
    alerts = Alerts()
    mixed = packet("oona.queue.depth", 0.0, 5000.0, 3.0, source="oona")
    (change,) = [change for each in (mixed, mixed) for change in alerts.judge(each)]
    assert (change.rule.name, change.value) == ("oona_queue_depth", 5000.0)
