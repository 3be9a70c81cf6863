"""Going back under a real plane: its services follow, registry and executor agree, and a missed deadline is its L4."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import RollbackLate
from esper.kasmina.executor import SeedExecutor
from esper.leyline import EmergencyLevel, SystemMode
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.step import Stepper
from esper.tolaria.record.course.reading import read_events
from esper.tolaria.record.observer import Boundary
from esper.tolaria.recovery.checkpoint import CheckpointStore
from tests.integration.emergencies.test_one_emergency import Plane, Run, config, reached, serving

ENDED = {"FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "DORMANT", "TERMINATED"}
BREAKS_AT = 70
# A restore that a loaded machine makes late is as good as any, but it halts the plane.
PATIENCE = {"rollback_fast_deadline_s": 60.0, "rollback_full_deadline_s": 60.0}


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with serving(tmp_path, monkeypatch) as services:
        yield services


class Breaking:
    """Loses the weights of the grown network in the first step from `BREAKS_AT` on that has a twin beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        self.executors: list[SeedExecutor] = []
        run, init = Stepper.run, SeedExecutor.__init__

        def breaking(stepper: Stepper, arm: Any, batch: Any, step: int, *rest: Any, **options: Any) -> Any:
            is_main = bool(self.executors) and arm is self.executors[-1].arm
            if self.at is None and step >= BREAKS_AT and is_main and self.executors[-1].is_twin_live:
                self.at = step
                next(iter(arm.model.parameters())).data.fill_(math.nan)
            return run(stepper, arm, batch, step, *rest, **options)

        def noted(executor: SeedExecutor, *arguments: Any, **options: Any) -> None:
            init(executor, *arguments, **options)
            self.executors.append(executor)

        monkeypatch.setattr(Stepper, "run", breaking)
        monkeypatch.setattr(SeedExecutor, "__init__", noted)


class Compared(Run):
    """A run that compares, at each boundary, the seeds of Kasmina's registry with those of its executor."""

    def __init__(self, settings: TrainConfig) -> None:
        self.differences: list[tuple[int, set[str], set[str]]] = []
        self.seen = 0
        super().__init__(settings, hold_at=math.inf)

    def on_boundary(self, boundary: Boundary) -> None:
        super().on_boundary(boundary)
        told = {seed.seed_id for seed in boundary.seeds if seed.stage not in ENDED}
        there = {observed.seed_id for observed in boundary.collected.observations}
        self.seen += bool(there)
        if told != there:
            self.differences.append((boundary.step, told, there))


@pytest.mark.parametrize("every", [15, 0], ids=["memory", "disk"])
def test_a_run_that_breaks_beside_a_twin_goes_back_and_its_registry_follows(
    services: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    breaking = Breaking(monkeypatch)
    settings = config(
        services,
        tmp_path / "one",
        epochs=40,
        on_nonfinite="rollback",
        snapshot_every_steps=every,
        checkpoint_every_epochs=0 if every else 2,
        **PATIENCE,
    )
    run = Compared(settings)
    summary = run.end()
    assert breaking.at is not None
    assert (summary["finished"], summary["rollbacks"]) == (True, 1)
    assert summary["growth"]["judged"] > 0
    (told,) = [event for event in read_events(tmp_path / "one") if event.get("name") == "tolaria.rollback"]
    assert f"from {'memory' if every else 'disk'} in" in told["detail"]
    assert run.seen
    assert not run.differences
    assert {boundary.packet.generation for boundary in run.boundaries} == {1, 2}


def test_a_rollback_that_misses_its_deadline_halts_the_plane_and_its_run_can_be_resumed(
    services: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking, newest, is_over = Breaking(monkeypatch), CheckpointStore.newest, threading.Event()
    other = Run(config(services, tmp_path / "two", epochs=200)).held()
    settings = {"epochs": 40, "on_nonfinite": "rollback", "snapshot_every_steps": 0, "checkpoint_every_epochs": 2}

    def hanging(store: CheckpointStore, *arguments: Any, **options: Any) -> Any:
        is_over.wait(30.0)
        return newest(store, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "newest", hanging)
        late = Run(config(services, tmp_path / "one", rollback_full_deadline_s=0.05, **settings), hold_at=math.inf)
        with pytest.raises(RollbackLate, match="from disk"):
            late.end()
    is_over.set()
    reached(lambda: services.mode().mode == SystemMode.SYSTEM_MODE_EMERGENCY)
    (signal,) = services.mode().open_emergencies
    assert signal.level == EmergencyLevel.EMERGENCY_LEVEL_L4_HALT
    assert (signal.cause, signal.training_run_id, signal.origin) == ("rollback_deadline_triggered", "one", "tolaria")
    assert "its deadline is 50 ms" in signal.detail
    assert other.end()["stop_reason"].startswith("halted: emergency")
    assert services.acknowledge() == 1
    resumed = Run(config(services, tmp_path / "one", **settings, **PATIENCE), resume=True, hold_at=math.inf).end()
    assert resumed["finished"]
    assert breaking.at is not None
