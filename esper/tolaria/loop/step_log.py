"""What steps came to: results stay on the device until someone wants numbers, then one transfer serves many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.tolaria.record.observer import StepDone, TwinStep

MEASURED = ("accuracy", "gradient_norm", "conflict_rate")
"""What a step may tell beside its loss."""


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


@dataclass(frozen=True, slots=True)
class Row:
    """What a recorded step tells, in one piece on the device: one value for each name."""

    values: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replays:
    """What steps in a row came to that a graph replayed: nothing is taken apart before someone wants numbers."""

    rows: Tensor
    """One for each step, with one value for each name: [steps, names]."""
    names: tuple[str, ...]
    named: tuple[str, ...]
    """Those that are several losses, and cosines of their gradients."""
    pairs: int
    gradient_norm: Tensor | None
    """0-d, of the last step, where it was measured behind it."""
    parameter_norms: Mapping[nn.Parameter, Tensor]
    seed_norms: Mapping[str, Tensor]


Told = StepResult | Replays


@dataclass(slots=True)
class _Record:
    """Steps in a row, from `step` on."""

    step: int
    epoch: int
    result: Told
    rates: Sequence[float]
    step_ms: float
    """Of each."""


class Flushed(NamedTuple):
    """What was logged since the last flush: the main arm's steps, and apart from them the twin's."""

    steps: list[StepDone]
    twin_steps: list[TwinStep]


class StepLog:
    """Keeps results on the device until someone wants numbers: one transfer for many steps."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._twin_records: list[tuple[str, int, Told]] = []

    def add(self, step: int, epoch: int, result: Told, *, rate: float, step_ms: float) -> None:
        """Keep a step's result; `step` counts steps done, this one included."""
        self.add_row(step, epoch, result, rates=(rate,), step_ms=step_ms)

    def add_row(self, step: int, epoch: int, result: Told, *, rates: Sequence[float], step_ms: float) -> None:
        """Keep what steps of one epoch came to, in a row from `step` on; each has a rate of its own."""
        self._records.append(_Record(step, epoch, result, rates, step_ms))

    def add_twin(self, seed_id: str, step: int, result: Told) -> None:
        """Keep a step of the seed's twin; `step` counts its own."""
        self._twin_records.append((seed_id, step, result))

    def flush(self) -> Flushed:
        """The steps since the last flush as numbers; replayed ones of both arms come with one transfer."""
        records, self._records = self._records, []
        twins, self._twin_records = self._twin_records, []
        numbers = _numbers_of([*(record.result for record in records), *(result for _, _, result in twins)])
        done = [
            StepDone(
                step,
                record.epoch,
                found.loss,
                found.accuracy,
                found.gradient_norm,
                rate,
                found.conflict_rate,
                record.step_ms,
                record.result.pairs,
                found.named,
            )
            for record, row in zip(records, numbers, strict=False)
            for step, (found, rate) in enumerate(zip(row, record.rates, strict=True), record.step)
        ]
        twin_steps = [
            TwinStep(seed_id=seed_id, step=step, loss=found.loss)
            for (seed_id, step, _), row in zip(twins, numbers[len(records) :], strict=True)
            for found in row
        ]
        return Flushed(done, twin_steps)


class _Numbers(NamedTuple):
    loss: float
    accuracy: float | None
    gradient_norm: float | None
    conflict_rate: float | None
    named: dict[str, float]


def _numbers_of(results: Sequence[Told]) -> list[list[_Numbers]]:
    """Of each, in order: one for each of its steps."""
    replayed = _of_rows([result for result in results if isinstance(result, Replays)])
    eager = _of_values([result for result in results if isinstance(result, StepResult)])
    return [next(replayed) if isinstance(result, Replays) else [next(eager)] for result in results]


def _of_rows(results: Sequence[Replays]) -> Iterator[list[_Numbers]]:
    values: list[Tensor] = []
    for result in results:
        values.append(result.rows.flatten())
        if result.gradient_norm is not None:
            values.append(result.gradient_norm.reshape(1))
    told, first = torch.cat(values).tolist() if values else [], 0
    for result in results:
        (steps, width), names = result.rows.shape, result.names
        whole, first = told[first : first + steps * width], first + steps * width
        nothing = [None] * steps
        column = {name: whole[place::width] for place, name in enumerate(names)}
        norms = column.get("gradient_norm", nothing)
        if result.gradient_norm is not None:
            norms, first = [*norms[:-1], told[first]], first + 1
        named = [{name: column[name][step] for name in result.named} for step in range(steps)]
        rates = column.get("conflict_rate", nothing)
        yield list(map(_Numbers, column["loss"], column.get("accuracy", nothing), norms, rates, named))


def _of_values(results: Sequence[StepResult]) -> Iterator[_Numbers]:
    told = iter(_told_by(results))
    for result in results:
        loss = next(told)
        accuracy = None if result.accuracy is None else next(told)
        norm = None if result.gradient_norm is None else next(told)
        rate = None if result.conflict_rate is None else next(told)
        yield _Numbers(loss, accuracy, norm, rate, {name: next(told) for name in result.named})


def _told_by(results: Sequence[StepResult]) -> list[float]:
    """All values of all results, with one transfer; where losses are of a wider type, all become it, unchanged."""
    values: list[Tensor] = []
    for result in results:
        values.append(result.loss)
        for value in (result.accuracy, result.gradient_norm, result.conflict_rate, *result.named.values()):
            if value is not None:
                values.append(value.float())
    return torch.stack(values).tolist() if values else []
