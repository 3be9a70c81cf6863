"""Packets in flight: results come in order, exactly lag packets later, and survive a checkpoint."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.executor import Collected
from esper.leyline import SystemStatePacket
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.record.packet_result import PacketResult
from tests.unit.tolaria.scripted_control import ScriptedControl


def hand_over(pipeline: Pipeline, *, want_state: bool = False) -> None:
    packet = SystemStatePacket(packet_index=pipeline.next_packet, step=pipeline.next_packet)
    pipeline.hand_over(packet, Collected(), want_state=want_state)


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=12))
def test_each_result_is_executed_lag_packets_later_whatever_was_saved_in_between(lag: int, saves: list[bool]) -> None:
    pipeline, executed = Pipeline(ScriptedControl(), lag), []
    for is_saved in saves:
        if pipeline.is_due:
            executed.append((pipeline.next_packet, pipeline.take().packet_index))
        hand_over(pipeline, want_state=is_saved)
        if is_saved:
            results, states = pipeline.settle()
            assert states is not None
            restored = [PacketResult.from_bytes(result.to_bytes()) for result in results]
            pipeline = Pipeline(ScriptedControl(), lag, pipeline.next_packet, restored)
    assert executed == [(packet, packet - lag) for packet in range(lag, len(saves))]


def test_without_lag_a_result_is_due_at_once() -> None:
    pipeline = Pipeline(ScriptedControl(), 0)
    assert not pipeline.is_due
    hand_over(pipeline, want_state=True)
    assert pipeline.is_due
    assert pipeline.take().packet_index == 0
    results, states = pipeline.settle()
    assert results == ()
    assert states is not None


def test_states_that_the_services_could_not_give_are_none() -> None:
    pipeline = Pipeline(ScriptedControl(has_states=lambda step: False), 1)
    hand_over(pipeline, want_state=True)
    assert pipeline.settle()[1] is None
