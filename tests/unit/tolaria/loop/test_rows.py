"""Steps that are replayed in a row: as each by itself, and next to no Python between two replays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import mode
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.graphs.graphs import WARM_UP_STEPS, Graphs
from esper.tolaria.loop.step_log import Replays, StepLog
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loop.recording import RecordingBackend
from tests.unit.tolaria.loop.test_graphs import PLAIN, Run, check_alike
from tests.unit.tolaria.test_trainer import Recorder

MOST_CALLS = 16
"""From one replay to the next: a cosine's rate, whether it is another than before, and the launch."""


class CountingBackend(RecordingBackend):
    """Its graphs do nothing but note how many functions Python had called by then."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.noted: list[int] = []

    def capture(self, call: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Any:
        graph = super().capture(call, generators)
        graph.replay = lambda: self.noted.append(self.calls)
        return graph

    def count(self, frame: object, event: str, argument: object) -> None:
        self.calls += event in ("call", "c_call")


def test_next_to_nothing_is_called_between_two_replays() -> None:
    config, backend = replace(PLAIN, schedule="cosine", evaluate_every_steps=24, epochs=8), CountingBackend()
    trainer = Trainer(prepare(config), lambda _: NullControl(), Recorder(), steps=partial(ArmSteps, backend=backend))
    before = sys.getprofile()
    sys.setprofile(backend.count)
    try:
        trainer.train()
    finally:
        sys.setprofile(before)
    assert len(backend.noted) == trainer.step - WARM_UP_STEPS
    between = [later - earlier for earlier, later in zip(backend.noted, backend.noted[1:], strict=False)]
    assert mode(between) <= MOST_CALLS


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """Of the run that is made."""
    seen: list[range] = []
    plain = Graphs.row

    def row(self: Graphs, batch: Any, steps: range, **options: Any) -> Any:
        seen.append(steps)
        return plain(self, batch, steps, **options)

    monkeypatch.setattr(Graphs, "row", row)
    return seen


def test_a_row_ends_where_somebody_looks(rows: list[range]) -> None:
    """Epochs of six steps, the last of them smaller; boundaries after every four."""
    config = replace(PLAIN, samples=570)
    check_alike(Run(config, RecordingBackend()), Run(config))
    assert config.evaluate_every_steps == 4
    assert [(steps.start, steps.stop) for steps in rows] == [
        *((4, 5), (6, 8), (8, 11)),
        *((12, 16), (16, 17), (18, 20), (20, 23)),
    ]


def test_a_batch_that_is_passed_over_is_no_part_of_a_row(rows: list[range], monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Trainer.begin

    def passing_over(self: Trainer, *, resume: bool = False) -> None:
        self._session.progress.history.passed_over = [9, 14]
        begin(self, resume=resume)

    monkeypatch.setattr(Trainer, "begin", passing_over)
    config = replace(PLAIN, evaluate_every_steps=24)
    check_alike(Run(config, RecordingBackend()), Run(config))
    assert all(step not in steps for step in (9, 14) for steps in rows)
    assert sum(map(len, rows)) > 12


def test_a_row_is_told_step_by_step() -> None:
    log = StepLog()
    rows = torch.tensor([[1.0, 0.5, 3.0], [2.0, 0.25, 4.0]])
    told = Replays(
        rows=rows,
        names=("loss", "accuracy", "loss a"),
        named=("loss a",),
        pairs=1,
        gradient_norm=torch.tensor(7.0),
        parameter_norms={},
        seed_norms={},
    )
    log.add_row(11, 2, told, rates=[0.1, 0.2], step_ms=0.5)
    log.add_twin("s1", 12, replace(told, rows=rows[:1], gradient_norm=None))
    found = log.flush()
    first, second = found.steps
    assert (first.step, first.epoch, first.loss, first.accuracy, first.learning_rate) == (11, 2, 1.0, 0.5, 0.1)
    assert (second.step, second.loss, second.accuracy, second.learning_rate) == (12, 2.0, 0.25, 0.2)
    assert (first.gradient_norm, second.gradient_norm) == (None, 7.0)
    assert (first.named, second.named, first.step_ms, first.pairs) == ({"loss a": 3.0}, {"loss a": 4.0}, 0.5, 1)
    assert [(twin.step, twin.loss) for twin in found.twin_steps] == [(12, 1.0)]
