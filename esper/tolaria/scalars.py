"""TensorBoard scalars of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from esper.tolaria.observer import Boundary, CheckpointWritten, EpochDone, Notice, RunStarted, StepDone


class TensorBoardScalars:
    """Observer that writes losses, accuracies, alphas, gains and step times below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._writer = SummaryWriter(str(directory), flush_secs=5)

    def _add(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(name, value, step)

    def on_start(self, started: RunStarted) -> None:
        """Nothing: scalars begin with the first boundary."""

    def on_step(self, done: StepDone) -> None:
        """Nothing: one point a boundary is enough."""

    def on_boundary(self, boundary: Boundary) -> None:
        metrics, step = boundary.packet.metrics, boundary.step
        self._add("loss/train", metrics.loss, step)
        self._add("loss/train_smoothed", metrics.smoothed_loss, step)
        self._add("learning_rate", metrics.learning_rate, step)
        self._add("size/parameters", metrics.parameters, step)
        self._add("time/step_ms", metrics.step_latency_ms if metrics.HasField("step_latency_ms") else None, step)
        self._add("time/boundary_ms", boundary.hook_ms, step)
        for seed in boundary.seeds:
            self._add(f"alpha/{seed.seed_id}", seed.alpha, step)
            self._add(f"gain/{seed.seed_id}", seed.gain, step)

    def on_events(self, notices: Sequence[Notice]) -> None:
        """Nothing: events stand in events.jsonl."""

    def on_epoch(self, done: EpochDone) -> None:
        self._add("loss/judge", done.validation_loss, done.step)
        self._add("accuracy/judge", done.validation_accuracy, done.step)
        self._add("accuracy/train", done.train_accuracy, done.step)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        """Nothing: checkpoints are no scalars."""

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._add("accuracy/test", summary.get("test_accuracy"), summary["steps"])
        self._writer.close()
