from __future__ import annotations

import pytest

from esper.core.clock import ManualClock
from esper.core.messages.validation import violations
from esper.leyline import GateVerdict, MessagePriority, TelemetryLevel
from esper.tamiyo.deciding.decide import Verdict
from esper.tamiyo.metrics import EVENTS, METRICS
from esper.tamiyo.telemetry import Teller, Told, conditions
from tests.unit.tamiyo.builders import ALWAYS, RUN, Simulation, first_state, judged, packet, seed_state, spec
from tests.unit.tamiyo.conftest import KeptTelemetry
from tests.unit.tamiyo.deciding.test_decide import decided

DECLARED = {spec.name: spec for spec in (*METRICS, *EVENTS)}


def told(verdict: Verdict, index: int = 1, known: frozenset[str] = frozenset()) -> Told:
    return Told(
        run_id=RUN,
        generation=1,
        packet_index=index,
        verdict=verdict,
        previous_loss=0.6,
        known=known,
        latency_ms=1.5,
        trace=None,
    )


@pytest.fixture
def kept() -> KeptTelemetry:
    return KeptTelemetry()


@pytest.fixture
def teller(kept: KeptTelemetry) -> Teller:
    return Teller(kept, ManualClock(), every_packets=10)


async def test_a_flood_of_refusals_is_told_in_few_packets_and_counted_to_the_last(kept: KeptTelemetry) -> None:
    clock = ManualClock()
    teller = Teller(kept, clock, every_packets=10)
    for _ in range(50):
        teller.refusal("OpenRun", "invalid_signature", None)
    clock.advance(2)
    teller.refusal("OpenRun", "invalid_signature", None)
    counts = [
        next((attribute.integer for attribute in item.attributes if attribute.key == "count"), 1)
        for sent in kept.packets
        for item in sent.events
    ]
    assert sorted(counts) == [1, 1, 1, 1, 1, 1, 45]
    assert teller.rejected == sum(counts)


def test_everything_that_is_sent_is_valid_and_declared(kept: KeptTelemetry, teller: Teller) -> None:
    for place, verdict in enumerate(Simulation(run_spec=spec(ALWAYS)).run()):
        teller.decision(told(verdict, place), list)
    teller.refusal("m", "r", RUN)
    assert kept.packets
    for sent in kept.packets:
        assert violations(sent) == []
        for item in (*sent.metrics, *sent.events):
            assert {attribute.key for attribute in item.attributes} <= set(DECLARED[item.name].attributes)


def test_a_command_is_told_at_once_with_what_it_does_and_why(kept: KeptTelemetry, teller: Teller) -> None:
    teller.decision(told(decided(packet(500))), list)
    (sent,) = kept.packets
    (issued,) = sent.events
    found = {attribute.key: attribute.text for attribute in issued.attributes}
    assert (issued.name, found["action"], found["seed_id"], found["reason"]) == (
        "command_issued",
        "germinate",
        "s1",
        "forced",
    )
    values = {metric.name: metric.value for metric in sent.metrics}
    assert values["tamiyo.loss_delta"] == pytest.approx(-0.1)
    assert values["tamiyo.inference.latency_ms"] == values["tamiyo.gnn.inference.latency_ms"] == 1.5
    assert values["tamiyo.blueprint.risk"] > 0
    assert values["tamiyo.commands_total"] == 1


def test_decisions_without_events_are_told_every_tenth_time(kept: KeptTelemetry, teller: Teller) -> None:
    quiet = decided(packet(500, seeds=[seed_state()]))
    for index in range(1, 21):
        teller.decision(told(quiet, index), list)
    assert len(kept.packets) == 2
    assert teller.decisions == 20


def test_a_finding_has_its_own_level_and_a_critical_one_its_priority(kept: KeptTelemetry, teller: Teller) -> None:
    verdict = decided(packet(500, loss=float("nan")))
    teller.decision(told(verdict), list)
    (sent,) = kept.packets
    assert sent.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    levels = {event.name: event.level for event in sent.events}
    assert levels["loss_non_finite"] == TelemetryLevel.TELEMETRY_LEVEL_CRITICAL
    assert levels["conservative_entered"] == TelemetryLevel.TELEMETRY_LEVEL_WARNING


def test_what_lasts_is_told_once(kept: KeptTelemetry, teller: Teller) -> None:
    first = decided(packet(500, loss=0.9), first_state())
    noisy = packet(510)
    noisy.metrics.gradient_conflict_rate = 0.9
    verdict = decided(noisy, first.state)
    assert conditions(verdict) == {"gradient_conflict"}
    teller.decision(told(verdict, known=conditions(verdict)), list)
    assert "grad_conflict_high" not in kept.events
    teller.decision(told(verdict), list)
    assert "grad_conflict_high" in kept.events


def test_a_verdict_on_a_seed_is_told_too(kept: KeptTelemetry, teller: Teller) -> None:
    teller.decision(told(decided(packet(500, seeds=[judged(GateVerdict.GATE_VERDICT_FAIL)]))), list)
    assert kept.events == ["command_issued"]
