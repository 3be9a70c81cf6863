from __future__ import annotations

import pytest

from esper.core.clock import ManualClock, nanoseconds
from esper.core.messages.validation import violations
from esper.core.telemetry import EventSpec, MetricSpec, attribute_value, build_packet, event, metric
from esper.leyline import Attribute, MessagePriority, TelemetryLevel, TraceContext

LATENCY = MetricSpec("tolaria.training.latency_ms", "ms", "Time of a step.", ("phase",))
REJECTED = EventSpec(
    "command_rejected", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "A command was refused.", ("reason", "count")
)
CLOCK = ManualClock()


def test_a_measurement_carries_its_declared_name_and_unit() -> None:
    measured = metric(LATENCY, 1.5, phase="forward")
    assert (measured.name, measured.unit, measured.value) == ("tolaria.training.latency_ms", "ms", 1.5)
    assert [(a.key, a.text) for a in measured.attributes] == [("phase", "forward")]


def test_an_undeclared_attribute_is_an_error() -> None:
    with pytest.raises(ValueError, match="phaze"):
        metric(LATENCY, 1.5, phaze="forward")


@pytest.mark.parametrize("value", ["text", 1.5, 7, True, False, 0, ""])
def test_an_attribute_keeps_value_and_type(value: str | float | int | bool) -> None:
    happened = event(REJECTED, CLOCK, reason=value)
    got = attribute_value(happened.attributes[0])
    assert got == value
    assert type(got) is type(value)


def test_an_attribute_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="no value"):
        attribute_value(Attribute(key="a"))


def test_a_packet_is_valid_stamped_and_as_urgent_as_its_worst_event() -> None:
    packet = build_packet(
        "kasmina",
        CLOCK,
        metrics=[metric(LATENCY, 1)],
        events=iter([event(REJECTED, CLOCK, "refused", reason="x")]),
        run="r",
        step=0,
        trace=TraceContext(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
    )
    assert violations(packet) == []
    assert packet.priority == MessagePriority.MESSAGE_PRIORITY_CRITICAL
    assert len(packet.events) == 1
    assert nanoseconds(packet.time) == CLOCK.now_ns()
    assert packet.HasField("step")


def test_what_a_packet_is_not_told_stays_absent() -> None:
    packet = build_packet("kasmina", CLOCK)
    assert violations(packet) == []
    assert not packet.HasField("step")
    assert not packet.HasField("training_run_id")
    assert not packet.HasField("trace")


def test_no_two_packets_share_an_id() -> None:
    assert build_packet("kasmina", CLOCK).packet_id != build_packet("kasmina", CLOCK).packet_id
