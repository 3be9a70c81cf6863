"""What steps came to, as numbers: each with what it measured itself, and one transfer for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from esper.tolaria.loop.step_log import StepLog, StepResult


def logged(*results: StepResult) -> StepLog:
    log = StepLog()
    for step, result in enumerate(results, 1):
        log.add(step, 0, result, rate=0.1, step_ms=1.0)
    return log


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def test_each_step_tells_what_it_measured_itself() -> None:
    named = {"loss a": scalar(5.0), "loss b": scalar(6.0)}
    first, second, third = (
        logged(
            StepResult(scalar(1.0), scalar(0.5), None, None),
            StepResult(scalar(2.0), None, scalar(3.0), scalar(0.25), named=named),
            StepResult(scalar(4.0), None, None, None),
        )
        .flush()
        .steps
    )
    assert (first.loss, first.accuracy, first.gradient_norm, first.conflict_rate) == (1.0, 0.5, None, None)
    assert (second.loss, second.accuracy, second.gradient_norm, second.conflict_rate) == (2.0, None, 3.0, 0.25)
    assert second.named == {"loss a": 5.0, "loss b": 6.0}
    assert (third.loss, third.accuracy, third.named) == (4.0, None, {})


def test_a_loss_of_a_wider_type_keeps_its_digits_and_leaves_the_others_theirs() -> None:
    exact = 0.1
    (done,) = logged(StepResult(scalar(exact, torch.float64), scalar(exact, torch.float64), None, None)).flush().steps
    assert done.loss == exact
    assert done.accuracy == scalar(exact).item() != exact


def test_steps_and_their_twins_are_read_with_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    tolist = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        transfers.append(tensor.numel())
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", counted)
    log = logged(*(StepResult(scalar(1.0), scalar(0.5), scalar(2.0), scalar(0.0)) for _ in range(5)))
    log.add_twin("s1", 1, StepResult(scalar(7.0), None, None, None))
    found = log.flush()
    assert transfers == [5 * 4 + 1]
    assert [done.loss for done in found.twin_steps] == [7.0]


def test_a_log_without_steps_reads_nothing() -> None:
    assert logged().flush() == ([], [])
