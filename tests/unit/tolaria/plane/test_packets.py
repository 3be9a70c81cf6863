"""Packets: valid by the contracts, with deterministic signals and nothing invented where nothing was measured."""

from __future__ import annotations

from dataclasses import replace

from esper.core.messages.validation import violations
from esper.core.training_metrics import MEASURED
from esper.tolaria.config import TrainConfig
from tests.unit.tolaria.scripted_control import ScriptedControl, germination
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, SLOT, run


def test_every_packet_of_a_growing_run_is_valid() -> None:
    control = ScriptedControl(KEPT)
    run(CONFIG, control)
    assert [problem for packet in control.packets for problem in violations(packet)] == []
    assert [packet.packet_index for packet in control.packets] == list(range(len(control.packets)))


def test_two_runs_with_one_seed_send_the_same_packets_but_for_measured_times() -> None:
    controls = [ScriptedControl(KEPT), ScriptedControl(KEPT)]
    for control in controls:
        run(CONFIG, control)
        for packet in control.packets:
            for name in MEASURED:
                packet.metrics.ClearField(name)
            packet.ClearField("trace")
            packet.ClearField("hardware")
    assert controls[0].packets == controls[1].packets


def test_a_graft_shows_in_the_networks_size_and_cost() -> None:
    control = ScriptedControl({4: germination("s1", SLOT)})
    run(replace(CONFIG, epochs=3), control)
    before, after = control.packets[0].metrics, control.packets[1].metrics
    assert after.parameters > before.parameters
    assert after.forward_macs > before.forward_macs
    assert after.training_macs > before.training_macs


def test_what_was_not_measured_is_absent() -> None:
    control = ScriptedControl()
    config = TrainConfig(samples=600, hidden=(5,), epochs=1, grow="never", optimizer="sgd", evaluate_every_steps=100)
    run(config, control)
    metrics = control.packets[0].metrics
    for name in ("gradient_norm", "gradient_conflict_rate", "tamiyo_latency_ms"):
        assert not metrics.HasField(name)
    assert metrics.momentum == 0.9
