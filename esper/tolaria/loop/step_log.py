"""What steps came to: results stay on the device until someone wants numbers, then one transfer serves many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.tolaria.record.observer import StepDone, TwinStep


@dataclass(frozen=True, slots=True)
class StepResult:
    """0-d tensors on the device; None where a value was not measured."""

    loss: Tensor
    accuracy: Tensor | None
    gradient_norm: Tensor | None
    conflict_rate: Tensor | None
    parameter_norms: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)
    """Norms of the gradients that the step leaves behind, where `gradient_norm` was made of them."""
    named: Mapping[str, Tensor] = field(default_factory=dict)
    """Several losses, and cosines of their gradients, by name."""
    pairs: int = 0
    """Of sources that were held against each other."""
    seed_norms: Mapping[str, Tensor] = field(default_factory=dict)
    """Norms of the gradients of seeds that are to be told of them, before any clipping."""


@dataclass(slots=True)
class _Record:
    step: int
    epoch: int
    result: StepResult
    rate: float
    step_ms: float


class Flushed(NamedTuple):
    """What was logged since the last flush: the main arm's steps, and apart from them the twin's."""

    steps: list[StepDone]
    twin_steps: list[TwinStep]


class StepLog:
    """Keeps results on the device until someone wants numbers: one transfer for many steps."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._twin_records: list[tuple[str, int, Tensor]] = []

    def add(self, step: int, epoch: int, result: StepResult, *, rate: float, step_ms: float) -> None:
        """Keep a step's result; `step` counts steps done, this one included."""
        self._records.append(_Record(step, epoch, result, rate, step_ms))

    def add_twin(self, seed_id: str, step: int, result: StepResult) -> None:
        """Keep a step of the seed's twin; `step` counts its own."""
        self._twin_records.append((seed_id, step, result.loss))

    def flush(self) -> Flushed:
        """The steps since the last flush as numbers; the losses of both arms come with one transfer."""
        records, self._records = self._records, []
        twins, self._twin_records = self._twin_records, []
        kept = [record.result.loss for record in records] + [loss for _, _, loss in twins]
        numbers = torch.stack(kept).tolist() if kept else []
        losses, twin_losses = numbers[: len(records)], numbers[len(records) :]
        accuracies, norms, rates = (
            _numbers([getattr(record.result, name) for record in records])
            for name in ("accuracy", "gradient_norm", "conflict_rate")
        )
        done, told = [], iter(_numbers([value for record in records for value in record.result.named.values()]))
        for record, loss, accuracy, norm, conflicts in zip(records, losses, accuracies, norms, rates, strict=True):
            done.append(
                StepDone(
                    step=record.step,
                    epoch=record.epoch,
                    loss=loss,
                    accuracy=accuracy,
                    gradient_norm=norm,
                    learning_rate=record.rate,
                    conflict_rate=conflicts,
                    step_ms=record.step_ms,
                    pairs=record.result.pairs,
                    named={name: next(told) or 0.0 for name in record.result.named},
                )
            )
        twin_steps = [
            TwinStep(seed_id=seed_id, step=step, loss=loss)
            for (seed_id, step, _), loss in zip(twins, twin_losses, strict=True)
        ]
        return Flushed(done, twin_steps)


def _numbers(values: Sequence[Tensor | None]) -> list[float | None]:
    """Several 0-d tensors as numbers, with one transfer."""
    there = [value.float() for value in values if value is not None]
    numbers = iter(torch.stack(there).tolist() if there else [])
    return [None if value is None else next(numbers) for value in values]
