"""Samples in two sets are counted; whatever their shape and type, equal inputs are equal and others are not."""

from __future__ import annotations

import pytest
import torch

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.overlap import overlaps


def splits(train: torch.Tensor, judge: torch.Tensor, test: torch.Tensor) -> Splits:
    sets = {
        name: Split(inputs, torch.arange(len(inputs)) % 2)
        for name, inputs in (("train", train), ("judge", judge), ("test", test))
    }
    return Splits(**sets, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("at_once", [1, 64, 2**24])
def test_samples_in_two_sets_are_counted(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, at_once: int) -> None:
    monkeypatch.setattr("esper.tolaria.task.data.overlap.BYTES_AT_ONCE", at_once)
    bits = torch.arange(128).unsqueeze(1) >> torch.arange(8) & 1
    rows = bits.to(dtype).reshape(128, 2, 4)
    assert overlaps(splits(rows[:60], rows[60:90], rows[90:])) == []
    assert overlaps(splits(rows[:60], rows[50:90], rows[[3, 3, 70, 100]])) == [
        "10 of 40 judge samples also stand in train",
        "2 of 4 test samples also stand in train",
        "1 of 4 test samples also stand in judge",
    ]


def test_samples_without_a_dimension_of_their_own_are_compared_too() -> None:
    assert overlaps(splits(torch.arange(9.0), torch.arange(8.0, 12.0), torch.tensor([20.0]))) == [
        "1 of 4 judge samples also stand in train"
    ]


def test_views_are_compared_by_their_values() -> None:
    rows = torch.randn(4, 30).T
    assert overlaps(splits(rows[:10], rows[10:20], rows[5:6].expand(7, 4))) == [
        "7 of 7 test samples also stand in train"
    ]
