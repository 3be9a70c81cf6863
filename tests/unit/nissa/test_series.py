"""Measurements become series that Prometheus can scrape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from esper.core.clock import ManualClock
from esper.leyline import Attribute, Event, Metric, TelemetryPacket
from esper.nissa.patience import ENDED_S, SILENT_S, Patience
from esper.nissa.series import MOST_OVERTAKEN_NS, LatestValues, prometheus_name


def measured(name: str, value: float, **attributes: str) -> Metric:
    return Metric(
        name=name, value=value, attributes=[Attribute(key=key, text=text) for key, text in attributes.items()]
    )


def scraped(series: LatestValues) -> list[str]:
    registry = CollectorRegistry()
    registry.register(series)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kasmina.seed.alpha", "kasmina_seed_alpha"),
        ("tamiyo.gnn.feature_coverage", "tamiyo_gnn_feature_coverage"),
        ("kasmina.command_verifier.rejections_total", "kasmina_command_verifier_rejections_total"),
    ],
)
def test_names_keep_their_words(name: str, expected: str) -> None:
    assert prometheus_name(name) == expected


def test_the_latest_value_of_each_series_is_shown() -> None:
    series = LatestValues()
    series.put(measured("kasmina.seed.alpha", 0.25, seed_id="s1"), "kasmina", "r1")
    series.put(measured("kasmina.seed.alpha", 0.5, seed_id="s1"), "kasmina", "r1")
    series.put(measured("kasmina.seed.alpha", 1.0, seed_id="s2"), "kasmina", "r1")
    assert scraped(series) == [
        'kasmina_seed_alpha{run="r1",seed_id="s1",source="kasmina"} 0.5',
        'kasmina_seed_alpha{run="r1",seed_id="s2",source="kasmina"} 1.0',
    ]


def test_an_older_measurement_that_urgent_news_overtook_changes_nothing() -> None:
    series = LatestValues()
    series.put(measured("tolaria.rollback.deadline_exceeded_total", 2.0), "tolaria", "r1", measured_ns=20)
    series.put(measured("tolaria.rollback.deadline_exceeded_total", 0.0), "tolaria", "r1", measured_ns=10)
    assert 'tolaria_rollback_deadline_exceeded_total{run="r1",source="tolaria"} 2.0' in scraped(series)
    series.put(measured("tolaria.rollback.deadline_exceeded_total", 3.0), "tolaria", "r1", measured_ns=20)
    assert 'tolaria_rollback_deadline_exceeded_total{run="r1",source="tolaria"} 3.0' in scraped(series)


def test_a_source_whose_clock_was_set_back_is_heard_all_the_same() -> None:
    series = LatestValues()
    for value, measured_ns in ((2.0, 10**12), (3.0, 10**12 - MOST_OVERTAKEN_NS)):
        series.put(measured("a.b", value), "x", measured_ns=measured_ns)
    assert scraped(series) == ['a_b{run="",source="x"} 3.0']


def test_gauges_of_a_source_that_falls_silent_go_and_its_counters_stay() -> None:
    clock = ManualClock()
    series = LatestValues(clock=clock)
    for run in ("r1", "r2"):
        series.put(measured("tolaria.breaker.state", 2.0), "tolaria", run)
        series.put(measured("tolaria.timeout.total", 1.0), "tolaria", run)
    clock.advance(SILENT_S - 1)
    series.put(measured("tolaria.training.loss", 0.5), "tolaria", "r2")
    clock.advance(1)
    assert scraped(series) == [
        'tolaria_timeout_total{run="r1",source="tolaria"} 1.0',
        'tolaria_timeout_total{run="r2",source="tolaria"} 1.0',
        'tolaria_breaker_state{run="r2",source="tolaria"} 2.0',
        'tolaria_training_loss{run="r2",source="tolaria"} 0.5',
    ]


def test_gauges_of_a_run_go_soon_after_its_end_once_they_have_been_scraped() -> None:
    clock = ManualClock()
    patience = Patience()
    series = LatestValues(clock=clock, patience=patience)
    for source, run in (("tolaria", "r1"), ("kasmina", "r1"), ("weatherlight", "")):
        series.put(measured("a.b", 2.0), source, run)
    assert patience.hear(TelemetryPacket(training_run_id="r1", events=[Event(name="tolaria.run_finished")]))
    series.end("r1")
    series.put(measured("a.b", 2.0), "kasmina", "r1")  # a last word, after the end
    assert len(scraped(series)) == 3
    clock.advance(ENDED_S)
    assert scraped(series) == ['a_b{run="",source="weatherlight"} 2.0']


def test_a_running_total_is_a_counter() -> None:
    series = LatestValues()
    series.put(measured("oona.publish_total", 7.0), "oona")
    registry = CollectorRegistry()
    registry.register(series)
    assert "# TYPE oona_publish_total counter" in generate_latest(registry).decode()
    assert registry.get_sample_value("oona_publish_total", {"source": "oona", "run": ""}) == 7.0


def test_series_of_one_metric_may_have_different_labels() -> None:
    series = LatestValues()
    series.put(measured("a.b", 1.0), "x")
    series.put(measured("a.b", 2.0, lane="normal"), "x")
    assert scraped(series) == ['a_b{lane="",run="",source="x"} 1.0', 'a_b{lane="normal",run="",source="x"} 2.0']


@pytest.mark.parametrize("name", ["tolaria.epochs.total", "tolaria.timeout.total", "tamiyo.field_reports.total"])
def test_a_total_is_a_counter_however_its_name_is_written(name: str) -> None:
    series = LatestValues()
    series.put(measured(name, 3.0), "x")
    (family,) = series.collect()
    assert (family.type, [sample.name for sample in family.samples]) == ("counter", [name.replace(".", "_")])


@given(st.lists(st.integers(0, 20), max_size=100))
def test_the_number_of_series_is_bounded_and_the_most_recent_stay(numbers: list[int]) -> None:
    series = LatestValues(max_series=5)
    for number in numbers:
        series.put(measured(f"m{number}", float(number)), "x")
    recent = list(dict.fromkeys(reversed(numbers)))[:5]
    assert sorted(scraped(series)) == sorted(f'm{number}{{run="",source="x"}} {float(number)}' for number in recent)
    assert series.evicted == len(series_entered(numbers)) - len(recent)


def series_entered(numbers: list[int]) -> list[int]:
    """Every time that a number was new among the five most recent ones."""
    entered, present = [], []
    for number in numbers:
        if number in present:
            present.remove(number)
        else:
            entered.append(number)
        present = [*present, number][-5:]
    return entered
