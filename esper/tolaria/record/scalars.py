"""TensorBoard scalars of a run.

Events wait for each other, a second at most: each crosses to the writer's thread, which costs a step more when they
cross one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard.writer import FileWriter

from esper.core.storage.files import named
from esper.tolaria.record.figures.gradients import Aggregation
from esper.tolaria.record.observer import (
    Boundary,
    EpochDone,
    Notice,
    Observer,
    RunStarted,
    StepDone,
    TwinStep,
    named_means,
)

WAIT_S = 1.0
# More than a second's events: a step that finds the queue full waits for the writer.
MAX_QUEUE = 10_000

Hook = Callable[[threading.ExceptHookArgs], object]


def _but_writers(hook: Hook) -> Hook:
    """A hook for threads that fail, without the writer's: what fails there is raised again where it is handed over."""

    def quiet(failed: threading.ExceptHookArgs) -> None:
        if type(failed.thread).__module__ != event_file_writer.__name__:
            hook(failed)

    return quiet


class TensorBoardScalars(Observer):
    """Observer that writes losses (the twin's apart), accuracies, alphas, gains and step times below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: FileWriter | None = None
        self._waiting: list[tuple[int, float, dict[str, float]]] = []
        self._written_s = time.monotonic()
        self._last_step = -1
        self._twin_steps: list[TwinStep] = []
        self._steps: list[StepDone] = []

    @property
    def _writer(self) -> FileWriter:
        """Opened with the first value: only then is the run's directory this run's own."""
        if self._opened is None:
            threading.excepthook = _but_writers(threading.excepthook)
            self._opened = FileWriter(str(self._directory), max_queue=MAX_QUEUE, flush_secs=5)
        return self._opened

    def _add(self, step: int, values: Mapping[str, float | None]) -> None:
        there = {tag: value for tag, value in values.items() if value is not None}
        self._waiting.append((step, time.time(), there))
        if time.monotonic() - self._written_s >= WAIT_S:
            self._write_out()

    def _write_out(self) -> None:
        """One event for all values of a step."""
        waiting, self._waiting = self._waiting, []
        self._written_s = time.monotonic()
        with named(self._directory):
            self._hand_over(waiting)

    def _hand_over(self, waiting: Sequence[tuple[int, float, dict[str, float]]]) -> None:
        for step, time_s, values in waiting:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            self._writer.add_summary(summary, step, time_s)

    def on_start(self, started: RunStarted) -> None:
        if started.is_resumed:
            self._go_back(started.step)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            if notice.name == "tolaria.rollback":
                self._go_back(notice.step)

    def _go_back(self, step: int) -> None:
        """Make readers drop what was written of later steps: they are made again."""
        self._write_out()
        self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step + 1)
        self._last_step = step
        self._twin_steps.clear()
        self._steps.clear()

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._steps.extend(done for done in steps if done.named)

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        self._twin_steps.extend(steps)

    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step == self._last_step:
            return  # the end of a run is told in several parts
        self._last_step = boundary.step
        if twin_steps := self._twin_steps:
            self._twin_steps = []
            mean = sum(done.loss for done in twin_steps) / len(twin_steps)
            self._add(twin_steps[-1].step, {"twin/loss": mean})
        steps, self._steps = self._steps, []
        metrics = boundary.packet.metrics
        values: dict[str, float | None] = {
            "loss/train": metrics.loss,
            "loss/train_smoothed": metrics.smoothed_loss,
            "learning_rate": metrics.learning_rate,
            "size/parameters": metrics.parameters,
            "time/step_ms": metrics.step_latency_ms if metrics.HasField("step_latency_ms") else None,
            "time/boundary_ms": boundary.hook_ms,
        }
        values |= {f"{name}/train": value for name, value in named_means(steps).items()}
        for seed in boundary.seeds:
            values |= {f"alpha/{seed.seed_id}": seed.alpha, f"gain/{seed.seed_id}": seed.gain}
        self._add(boundary.step, values)

    def on_epoch(self, done: EpochDone) -> None:
        values = {
            "loss/judge": done.validation_loss,
            "accuracy/judge": done.validation_accuracy,
            "accuracy/train": done.train_accuracy,
        }
        values |= {f"{name}/judge": value for name, value in done.validation_metrics.items()}
        if done.aggregation is not None:
            values |= _gradient_values(done.aggregation)
        self._add(done.step, values)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        values = {f"{name}/test": value for name, value in summary.get("test_metrics", {}).items()}
        self._add(summary["steps"], {"accuracy/test": summary.get("test_accuracy")} | values)
        self.close()

    def close(self) -> None:
        """Write what waits and close the file; a run that failed needs it as well."""
        self._write_out()
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _gradient_values(told: Aggregation) -> dict[str, float | None]:
    """How an epoch's gradients came together."""
    values = {"gradient/conflict_ratio": told.conflict_ratio}
    for seed in told.seeds:
        found = seed.gradient
        values[f"gradient/share/{found.seed_id}"] = found.share
        values[f"gradient/conflict_ratio/{found.seed_id}"] = found.conflict_ratio
    return values
