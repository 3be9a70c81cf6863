"""Batches in their own order: near ones are remembered, and a loader that can goes on where it stood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from esper.core.errors import ConfigError
from esper.tolaria.task.feeds.sequential import SequentialFeeder


class Stream:
    """Ten batches, over and over."""

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((2,), number) for number in range(10))


class Stateful(Stream):
    """As torchdata's: its state is where it stands."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.at < 10:
            self.at += 1
            yield torch.full((2,), self.at - 1)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def numbers(feeder: SequentialFeeder, steps: range) -> list[int]:
    return [int(feeder.batch(step)[0]) for step in steps]


def test_a_step_near_by_can_be_asked_for_again_and_a_far_one_can_t():
    feeder = SequentialFeeder(Stream(), 10)
    assert numbers(feeder, range(2)) == [0, 1]
    assert numbers(feeder, range(13)) == [*range(10), 0, 1, 2]
    with pytest.raises(ConfigError, match="batch of step 3 is gone: this loader can't be replayed"):
        feeder.batch(3)


def test_a_stateful_loader_goes_on_where_it_stood():
    first = SequentialFeeder(Stateful(), 10)
    numbers(first, range(7))
    state = first.state_dict(7)
    again = SequentialFeeder(Stateful(), 10)
    assert again.load_state_dict(state, 7) == ""
    assert numbers(again, range(7, 12)) == [7, 8, 9, 0, 1]


def test_a_loader_without_a_state_says_that_it_starts_anew():
    feeder = SequentialFeeder(Stream(), 10)
    assert "from step 7 on its batches start anew" in feeder.load_state_dict({}, 7)
    assert numbers(feeder, range(7, 9)) == [0, 1]


def test_an_empty_loader_is_refused():
    with pytest.raises(ConfigError, match=r"list.*gives no batch"):
        SequentialFeeder([], 10).batch(0)


def test_a_sampler_that_wants_to_be_told_the_epoch_is_told() -> None:
    samples = list(range(8))

    def epoch_of(feeder: SequentialFeeder, number: int) -> list[int]:
        return [int(each) for step in (0, 1) for each in feeder.batch(2 * number + step)]

    def feeder() -> SequentialFeeder:
        sampler = DistributedSampler(samples, num_replicas=2, rank=0)  # type: ignore[arg-type]
        return SequentialFeeder(DataLoader(samples, batch_size=2, sampler=sampler), 2)  # type: ignore[arg-type]

    first = feeder()
    epochs = [epoch_of(first, number) for number in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    resumed = feeder()
    resumed.load_state_dict({}, 4)
    assert epoch_of(resumed, 2) == epochs[2]
