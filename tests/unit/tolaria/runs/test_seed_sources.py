"""Whole runs whose gradient is split by seeds: exact, measured without a trace, and warned of where seeds conflict."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.tolaria.config import TrainConfig
from esper.tolaria.record.course.events import EventLog
from esper.tolaria.record.observer import Boundary, EpochDone, Observers
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loop.waiting import no_reads, watch_steps
from tests.unit.tolaria.scripted_control import ScriptedControl, cull, fetch_artifact, germination, judgement, keep
from tests.unit.tolaria.test_trainer import CONFIG as SMALL
from tests.unit.tolaria.test_trainer import KilledError, Recorder, run

PAST, THROUGH = "span_linear:fc1-fc2", "residual_linear:act1-act1"
"""A slot that reads the data, with nothing of the host before it, and one that reads what fc1 has made."""
CONFIG = replace(SMALL, optimizer="sgd", lr=0.05)
SURGERY: dict[str, Any] = {"pcgrad": True, "surgery": "seeds"}


def grown(slot: str, end: Any) -> dict[int, Any]:
    blueprint = "span.linear" if slot == PAST else "residual.linear"
    return {4: [*germination("s1", slot, blueprint), judgement("s1", 32)], 36: end("s1")}


@cache
def never(config: TrainConfig) -> str:
    return str(run(config)["weights_digest"])


@cache
def kept(config: TrainConfig, slot: str) -> str:
    return str(run(config, ScriptedControl(grown(slot, keep)))["weights_digest"])


@pytest.mark.parametrize("weights", [pytest.param("equal", marks=pytest.mark.slow), "stage"])
def test_surgery_between_seeds_changes_the_grown_arm_alone(weights: str) -> None:
    config = replace(CONFIG, seed_weights=weights, **SURGERY)
    culled = run(config, ScriptedControl(grown(THROUGH, cull)))
    assert culled["weights_digest"] == never(config) == never(CONFIG)
    assert kept(config, THROUGH) != kept(CONFIG, THROUGH)


@pytest.mark.slow
def test_a_killed_run_with_surgery_between_seeds_resumes_to_the_same_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, accumulate=2, seed_weights="stage", **SURGERY)
    store, script = CheckpointStore(tmp_path, keep=2), grown(THROUGH, keep)
    with pytest.raises(KilledError):
        run(config, ScriptedControl(script), observer=Recorder(23), store=store)
    resumed = run(config, ScriptedControl(script), store=store, resume=True)
    assert resumed["weights_digest"] == kept(config, THROUGH)


@pytest.mark.parametrize("slot", [pytest.param(PAST, marks=pytest.mark.slow), THROUGH])
def test_to_measure_seeds_leaves_no_trace_in_the_weights(slot: str) -> None:
    assert kept(replace(CONFIG, seed_conflicts=True), slot) == kept(CONFIG, slot)


def test_no_step_reads_what_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_steps(monkeypatch, no_reads, first=0)
    run(replace(CONFIG, seed_conflicts=True, clip_norm=0.5), ScriptedControl(grown(THROUGH, keep)))
    assert sum(has_twin for _, has_twin in seen) > 10


class Telling(Recorder):
    """Observer of a run whose seed is made to work against its host, or not."""

    def __init__(self, *, against: bool) -> None:
        super().__init__()
        self.against = against
        self.executor: Any = None

    def on_boundary(self, boundary: Boundary) -> None:
        super().on_boundary(boundary)
        for graft in self.executor.arm.grafts if self.against else ():
            with torch.no_grad():
                self._turn(graft.module)

    @staticmethod
    def _turn(module: torch.nn.Module) -> None:
        """The seed gives back what the host's own path gave, negated: whatever lies before hears the opposite."""
        down, up = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
        down.weight.copy_(torch.eye(*down.weight.shape))
        up.weight.copy_(-2.0 * torch.eye(*up.weight.shape))


def told(slot: str, *, against: bool, log: EventLog | None = None, **settings: Any) -> Telling:
    config = replace(CONFIG, evaluate_every_steps=2, seed_conflicts=True, **settings)
    observer = Telling(against=against)
    prepared = prepare(config, fetch_artifact)
    observer.executor = prepared.executor
    control = ScriptedControl(grown(slot, keep))
    everyone = Observers(observer, log) if log is not None else observer
    Trainer(prepared, lambda opening: control, everyone).train()
    return observer


def names_of(observer: Telling) -> list[str]:
    return [notice.name for notice in observer.notices]


def seeds_of(epochs: list[EpochDone]) -> list[Any]:
    return [seed for done in epochs if done.aggregation for seed in done.aggregation.seeds]


def test_a_seed_that_works_against_its_host_is_told_once_and_a_calm_one_is_not(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        against = told(THROUGH, against=True, log=log)
    warned = [notice for notice in against.notices if notice.name == "seed_conflict_high"]
    assert len(warned) == 1
    assert warned[0].facts["seed_id"] == "s1"
    assert warned[0].facts["conflict_ratio"] >= 0.5
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["seed_id"] for event in events if event["kind"] == "gradient"] == ["s1"]
    calm = told(PAST, against=False)
    assert "seed_conflict_high" not in names_of(calm)
    assert seeds_of(calm.epochs)
    assert all(seed.gradient.conflict_ratio == 0.0 for seed in seeds_of(calm.epochs))
