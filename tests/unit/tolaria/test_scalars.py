"""TensorBoard scalars: nothing is opened before the run has its directory, and values can be read back."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.tolaria.observer import EpochDone
from esper.tolaria.scalars import TensorBoardScalars


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
        )
    )
    scalars.on_finish({"steps": 18, "test_accuracy": 0.75})
    read = EventAccumulator(str(directory))
    read.Reload()
    assert read.Scalars("loss/judge")[0].value == 1.25
    assert read.Scalars("accuracy/test")[0].step == 18
    assert "accuracy/judge" not in read.Tags()["scalars"]
