"""The end of a run: the last figures told are those of the network that is left, and whatever differs is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.kasmina.executor import Collected, SeedExecutor
from esper.leyline import SeedStage, SystemStatePacket
from esper.tolaria.record.ending import summary as module
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.objective.task import Evaluation
from tests.unit.tolaria.scripted_control import (
    ScriptedControl,
    germination,
    growth_of,
    judgement,
    keep,
    told_seeds,
)
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, SLOT, KilledError, Recorder, run

LAST = 48
GRAFTED = {28: germination("s1", SLOT)}


def without_twin(script: dict[int, Any]) -> dict[int, Any]:
    """The same orders of a run that judges by muting."""
    return {
        step: [order for order in orders if not order.directive_id.endswith("SNAPSHOT_TWIN")]
        for step, orders in script.items()
    }


def agree(recorder: Recorder, summary: dict[str, Any]) -> bool:
    told = recorder.epochs[-1]
    return bool(
        (told.validation_loss, told.validation_accuracy) == (summary["val_loss"], summary["val_accuracy"])
        and summary["contradictions"] == []
    )


@pytest.mark.parametrize("script", [{}, KEPT, GRAFTED, without_twin(GRAFTED), without_twin(KEPT | {36: []})])
def test_the_last_validation_is_that_of_the_network_that_is_left(script: dict[int, Any]) -> None:
    recorder = Recorder()
    summary = run(CONFIG, ScriptedControl(script), observer=recorder)
    assert agree(recorder, summary)
    assert len(recorder.epochs) == CONFIG.epochs
    assert recorder.epochs[-1].step == LAST


def test_so_it_is_after_a_kill_between_the_end_of_growth_and_the_summary(tmp_path: Path) -> None:
    class KilledAtTheEnd(Recorder):
        def on_epoch(self, done: Any) -> None:
            super().on_epoch(done)
            if done.step == LAST:
                raise KilledError

    script, store, recorder = without_twin(GRAFTED), CheckpointStore(tmp_path, keep=2), Recorder()
    whole = run(CONFIG, ScriptedControl(script))
    with pytest.raises(KilledError):
        run(CONFIG, ScriptedControl(script), observer=KilledAtTheEnd(), store=store)
    resumed = run(CONFIG, ScriptedControl(script), observer=recorder, store=store, resume=True)
    assert agree(recorder, resumed)
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert [seed["fate"] for seed in resumed["seeds"]] == ["stays unjudged"]


def test_a_seed_without_a_judgement_and_without_a_twin_stays_and_is_told() -> None:
    recorder = Recorder()
    summary = run(CONFIG, ScriptedControl(without_twin(GRAFTED)), observer=recorder)
    assert summary["growth"]["kept"] == 0
    assert summary["final_parameters"] > summary["host_parameters"]
    assert [seed["fate"] for seed in summary["seeds"]] == ["stays unjudged"]
    assert [notice.message for notice in recorder.notices if notice.name == "tolaria.seed_unjudged"] == [
        "seed s1 was not judged in time and has no twin to go back to: it stays in the network"
    ]


class Deciding(ScriptedControl):
    """Decides on the judgement of the last step when that has come to it, one packet later."""

    has_decided = False

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        seen = [observation for earlier in self.collected for observation in earlier.observations]
        super().hand_over(packet, collected, want_state=want_state, is_last=is_last)
        if not self.has_decided and any(observation.HasField("judgement") for observation in seen):
            self.has_decided = True
            self.told = told_seeds(self.told, [*self.script[12], *keep("s1")], collected.reports)
            self.script = {12: [*self.script[12], *keep("s1")]}
            answer = self.results[packet.packet_index]
            self.results[packet.packet_index] = replace(
                answer, directives=tuple(keep("s1")), seeds=self.told, growth=growth_of(self.told)
            )


GRAFTED_AND_JUDGED = {12: [*germination("s1", SLOT), judgement("s1", LAST)]}


@pytest.mark.parametrize("lag", [{"lag": 1}, {"lag": 3}, {"control": "sync"}])
def test_a_seed_that_is_judged_at_the_very_end_is_kept_before_growth_ends(lag: dict[str, Any]) -> None:
    recorder, control = Recorder(), Deciding(GRAFTED_AND_JUDGED)
    summary = run(replace(CONFIG, **lag), control, observer=recorder)
    assert summary["growth"]["kept"] == 1
    assert summary["final_widths"] == [13, 5]
    assert agree(recorder, summary)
    assert not [notice for notice in recorder.notices if notice.name == "tolaria.directives_late"]


class Lying(ScriptedControl):
    """Tells of a seed what is not so."""

    def __init__(self, told: dict[str, Any], counted: int | None = None) -> None:
        super().__init__(KEPT)
        self._lie, self._counted = told, counted

    def take(self, packet_index: int) -> PacketResult:
        result = super().take(packet_index)
        for seed in result.seeds or ():
            for name, value in self._lie.items():
                setattr(seed, name, value)
        if self._counted is not None and result.growth is not None:
            result.growth.kept = self._counted
        return result


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (Lying({}, counted=2), "2 seeds are counted as kept, 1 are told as permanent"),
        (Lying({"stage": SeedStage.SEED_STAGE_CULLED}, counted=0), f"slot {SLOT} holds 1 permanent seeds, 0 are told"),
        (Lying({"slot_id": "elsewhere"}), "slot elsewhere holds 0 permanent seeds"),
        (Lying({"parameters": 7}), "parameters, the host and the kept seeds have"),
    ],
)
def test_what_the_record_says_and_the_network_does_not_is_an_error(control: ScriptedControl, words: str) -> None:
    recorder = Recorder()
    summary = run(CONFIG, control, observer=recorder)
    assert any(words in found for found in summary["contradictions"])
    assert not summary["reproducible"]
    assert words in summary["reproducible_cause"]
    assert {notice.level for notice in recorder.notices if notice.name == "tolaria.contradiction"} == {"ERROR"}


def test_a_network_that_changed_after_its_last_validation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was when the end of growth tore out what had been kept."""

    def worse(arm: Any, task: Any, split: Any) -> Evaluation:
        told = module_evaluated(arm, task, split)
        return replace(told, loss=told.loss + 1.0)

    module_evaluated = module.evaluated
    monkeypatch.setattr(module, "evaluated", worse)
    assert "the last validation gave loss" in run(CONFIG)["contradictions"][0]


@pytest.mark.parametrize(("factor", "is_told"), [(1.001, False), (1.1, True)])
def test_where_sums_may_take_any_order_two_evaluations_need_not_agree_in_every_bit(
    monkeypatch: pytest.MonkeyPatch, factor: float, is_told: bool
) -> None:
    def other(arm: Any, task: Any, split: Any) -> Evaluation:
        told = module_evaluated(arm, task, split)
        return replace(told, loss=told.loss * factor)

    module_evaluated = module.evaluated
    monkeypatch.setattr(module, "evaluated", other)
    assert bool(run(replace(CONFIG, deterministic=False))["contradictions"]) == is_told


def test_a_seed_that_nobody_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeedExecutor, "finish", lambda self, step: ())
    summary = run(CONFIG, ScriptedControl(without_twin(GRAFTED)))
    assert "the network holds seeds that nobody kept: s1" in summary["contradictions"]


def test_an_interrupted_run_is_in_the_middle_of_things_and_contradicts_nothing(tmp_path: Path) -> None:
    summary = run(
        CONFIG,
        ScriptedControl(GRAFTED),
        store=CheckpointStore(tmp_path, keep=2),
        observer=(recorder := Recorder()),
        should_stop=lambda: len(recorder.steps) >= 36,
    )
    assert not summary["finished"]
    assert summary["contradictions"] == []
