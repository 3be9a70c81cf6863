"""Steps between packets: more where steps are short and many, by settings alone, and never too few for a judgement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.executor.judge.macs import MacCount
from esper.leyline import SlotKind, SlotSpec
from esper.tolaria.config import USUAL_PACKET_STEPS, TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task import pace
from esper.tolaria.task.pace import LEAST_PACKETS, MOST_PACKET_STEPS, SHORT_STEP_MACS, paced, packet_steps
from esper.tolaria.task.prepare import prepare
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, Recorder, run

BY_RULE = TrainConfig()


@given(st.integers(1, 10**7), st.none() | st.integers(0, 10**12))
def test_a_run_has_as_many_packets_as_its_judgements_need_or_the_usual_number(steps: int, macs: int | None) -> None:
    found = packet_steps(BY_RULE, steps, macs, has_blocks=False)
    assert USUAL_PACKET_STEPS <= found <= MOST_PACKET_STEPS
    assert found == USUAL_PACKET_STEPS or steps >= LEAST_PACKETS * found
    assert packet_steps(replace(BY_RULE, evaluate_every_steps=7), steps, macs, has_blocks=False) == 7


@pytest.mark.parametrize(
    ("steps", "macs", "has_blocks", "expected"),
    [
        (2_160, 96_000, False, 10),  # the documented example
        (4_500, 96_000, False, 22),
        (100_000, SHORT_STEP_MACS, False, 50),
        (100_000, SHORT_STEP_MACS + 1, False, 10),
        (100_000, None, False, 10),
        (100_000, 96_000, True, 10),
    ],
)
def test_short_steps_of_long_runs_are_told_of_in_larger_packets(
    steps: int, macs: int | None, has_blocks: bool, expected: int
) -> None:
    assert packet_steps(BY_RULE, steps, macs, has_blocks=has_blocks) == expected


def test_a_prepared_run_has_it_decided() -> None:
    config = TrainConfig(samples=600, hidden=(5,), grow="never", steps=6_000)
    assert (config.evaluate_every_steps, config.packet_steps) == (None, 10)
    assert prepare(config).config.evaluate_every_steps == 30
    assert prepare(replace(config, hidden=(1024, 1024), samples=300)).config.packet_steps == 10


@pytest.mark.parametrize(
    ("kind", "uncounted", "expected"),
    [
        (SlotKind.SLOT_KIND_SPAN_LINEAR, "", 30),
        (SlotKind.SLOT_KIND_STACK, "", 10),
        (SlotKind.SLOT_KIND_SPAN_LINEAR, "an operator that nobody counts", 10),
    ],
)
def test_a_network_with_blocks_or_of_unknown_cost_keeps_the_usual_number(
    kind: SlotKind, uncounted: str, expected: int
) -> None:
    macs = MacCount(forward=500, training=1_500)
    executor: Any = SimpleNamespace(uncounted=uncounted, macs=macs, slots=[SlotSpec(kind=kind)])
    assert paced(TrainConfig(), 6_000, executor).evaluate_every_steps == expected


def test_a_run_by_the_rule_grows_and_one_that_is_extended_is_paced_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST_PACKETS", 4)
    config, store = replace(CONFIG, evaluate_every_steps=None), CheckpointStore(tmp_path, keep=2)
    first, longer = Recorder(), Recorder()
    run(config, ScriptedControl(KEPT), observer=first, store=store)
    assert sorted({boundary.step for boundary in first.boundaries}) == [12, 24, 36, 48]
    summary = run(replace(config, epochs=16), observer=longer, store=store, resume=True)
    assert summary["steps"] == 96
    assert sorted({boundary.step for boundary in longer.boundaries}) == [72, 96]
