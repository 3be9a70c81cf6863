"""TensorBoard scalars: what can be read back from the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.kasmina.executor import Collected
from esper.leyline import SystemStatePacket, TrainingMetrics
from esper.tolaria.observer import Boundary, EpochDone, SeedView
from esper.tolaria.scalars import TensorBoardScalars


def boundary(step: int, *, gain: float | None) -> Boundary:
    seed = SeedView(
        seed_id="s1",
        slot_id="a-b",
        blueprint_id="span.linear",
        stage="BLENDING",
        alpha=0.5,
        gain=gain,
        gain_standard_error=None,
    )
    metrics = TrainingMetrics(loss=1.0 / step, smoothed_loss=2.0, learning_rate=0.1, parameters=7)
    return Boundary(
        step=step,
        epoch=0,
        packet=SystemStatePacket(step=step, metrics=metrics),
        collected=Collected(),
        result=None,
        seeds=[seed],
        mode="normal",
        wait_ms=0.0,
        apply_ms=0.0,
        hook_ms=3.0,
    )


def test_every_boundary_and_epoch_is_a_point_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    scalars = TensorBoardScalars(tmp_path)
    scalars.on_boundary(boundary(10, gain=None))
    scalars.on_boundary(boundary(20, gain=0.25))
    scalars.on_epoch(
        EpochDone(
            epoch=1,
            step=20,
            train_loss=1.0,
            train_accuracy=None,
            validation_loss=0.5,
            validation_accuracy=0.75,
            duration_s=1.0,
        )
    )
    scalars.on_finish({"steps": 20, "test_accuracy": 0.5})
    found = EventAccumulator(str(tmp_path)).Reload()

    def points(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in found.Scalars(tag)]

    assert points("loss/train") == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert points("alpha/s1") == [(10, 0.5), (20, 0.5)]
    assert points("gain/s1") == [(20, 0.25)]
    assert points("accuracy/judge") == [(20, 0.75)]
    assert points("accuracy/test") == [(20, 0.5)]
    assert "accuracy/train" not in found.Tags()["scalars"]
