"""TensorBoard scalars: nothing is opened before the run has its directory, and values can be read back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from esper.tolaria.record.figures.gradients import SeedTold
from esper.tolaria.record.observer import EpochDone, Notice, TwinStep
from esper.tolaria.record.scalars import TensorBoardScalars
from tests.unit.tolaria.observed import boundary, started
from tests.unit.tolaria.record.figures.test_gradients import aggregation, gradient


def test_values_can_be_read_back(tmp_path: Path) -> None:
    directory = tmp_path / "tensorboard"
    scalars = TensorBoardScalars(directory)
    assert not directory.exists()
    scalars.on_epoch(
        EpochDone(
            epoch=1,
            step=18,
            train_loss=1.0,
            train_accuracy=0.5,
            validation_loss=1.25,
            validation_accuracy=None,
            duration_s=1.0,
            validation_metrics={"R2": 0.5},
            aggregation=aggregation(SeedTold(gradient=gradient(conflict_ratio=None), stage="", share_delta=None)),
        )
    )
    scalars.on_finish({"steps": 18, "test_accuracy": 0.75, "test_metrics": {"R2": 0.25}})
    read = EventAccumulator(str(directory))
    read.Reload()
    assert read.Scalars("loss/judge")[0].value == 1.25
    assert read.Scalars("accuracy/test")[0].step == 18
    assert [read.Scalars(f"R2/{name}")[0].value for name in ("judge", "test")] == [0.5, 0.25]
    assert "accuracy/judge" not in read.Tags()["scalars"]
    assert read.Scalars("gradient/conflict_ratio")[0].value == pytest.approx(0.4)
    assert read.Scalars("gradient/share/s1")[0].value == 0.25
    assert "gradient/conflict_ratio/s1" not in read.Tags()["scalars"]


def steps(directory: Path) -> list[int]:
    read = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    read.Reload()
    return [value.step for value in read.Scalars("loss/train_smoothed")]


def test_a_resumed_run_shows_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files are read in the order of their names; within one second those end with this counter, where 10 is before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    killed, resumed = TensorBoardScalars(tmp_path), TensorBoardScalars(tmp_path)
    killed.on_start(started())
    for step in (10, 20, 30, 40):
        killed.on_boundary(boundary(step))
    killed.close()
    resumed.on_start(started(step=20, is_resumed=True))
    for step in (28, 30, 40, 40, 40):
        resumed.on_boundary(boundary(step))
    resumed.close()
    assert steps(tmp_path) == [10, 20, 28, 30, 40]


def test_a_rollback_takes_the_undone_steps_with_it(tmp_path: Path) -> None:
    scalars = TensorBoardScalars(tmp_path)
    for step in (10, 20, 30):
        scalars.on_boundary(boundary(step))
    scalars.on_events([Notice(step=10, name="tolaria.rollback", level="ERROR", message="back to step 10")])
    for step in (30, 40):
        scalars.on_boundary(boundary(step))
    scalars.close()
    assert steps(tmp_path) == [10, 30, 40]


def test_a_writer_that_fails_says_where_and_leaves_no_traceback_of_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def full(writer: object, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_file_writer.RecordWriter, "write", full)
    scalars = TensorBoardScalars(tmp_path)
    scalars.on_boundary(boundary(10))

    def write_on() -> None:
        while True:
            scalars._add(20, {"loss": 1.0})
            scalars._write_out()

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_on()
    assert caught.value.filename == str(tmp_path)
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "No space" not in told


def twin_losses(directory: Path) -> list[tuple[int, float]]:
    read = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    read.Reload()
    return [(value.step, value.value) for value in read.Scalars("twin/loss")]


def test_the_twins_loss_is_a_series_of_its_own_and_a_rollback_takes_it_along(tmp_path: Path) -> None:
    scalars = TensorBoardScalars(tmp_path)
    scalars.on_boundary(boundary(10))
    for step in (20, 30):
        scalars.on_twin_steps([TwinStep(seed_id="s1", step=step - back, loss=float(step + back)) for back in (1, 0)])
        scalars.on_boundary(boundary(step))
    scalars.on_twin_steps([TwinStep(seed_id="s1", step=31, loss=1e9)])
    scalars.on_events([Notice(step=20, name="tolaria.rollback", level="ERROR", message="back to step 20")])
    scalars.on_boundary(boundary(30))
    scalars.on_twin_steps([TwinStep(seed_id="s1", step=40, loss=4.0)])
    scalars.on_boundary(boundary(40))
    scalars.close()
    assert twin_losses(tmp_path) == [(20, 20.5), (40, 4.0)]
    assert steps(tmp_path) == [10, 20, 30, 40]
