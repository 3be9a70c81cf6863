"""Batches by step: every sample once an epoch, in an order of (seed, epoch) alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.feeds.carrier import Carrier
from esper.tolaria.task.feeds.loader import Loader, StreamLoader, make_loader

SPLIT = Split(torch.arange(23.0).unsqueeze(1), torch.arange(23))


def test_an_epoch_holds_every_sample_once_and_its_last_batch_is_short() -> None:
    loader = Loader(SPLIT, 5, seed=1)
    assert loader.steps_per_epoch == 5
    epoch = [loader.batch(step)[1] for step in range(5)]
    assert [len(targets) for targets in epoch] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(epoch).tolist()) == list(range(23))


def test_a_batch_depends_on_seed_and_step_alone_not_on_what_was_asked_before() -> None:
    in_order = Loader(SPLIT, 5, seed=1)
    batches = [in_order.batch(step)[1] for step in range(20)]
    fresh = Loader(SPLIT, 5, seed=1)
    for step in (17, 3, 12):
        assert torch.equal(fresh.batch(step)[1], batches[step])
    assert not torch.equal(Loader(SPLIT, 5, seed=2).batch(0)[1], batches[0])
    assert not torch.equal(batches[0], batches[5])


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(22, [23]), (11, [11, 12]), (21, [21, 2]), (1, [1] * 23), (23, [23])]
)
def test_a_single_sample_that_is_left_over_joins_the_batch_before_it(batch_size: int, sizes: list[int]) -> None:
    loader = Loader(SPLIT, batch_size, seed=1)
    epoch = [loader.batch(step)[1] for step in range(loader.steps_per_epoch)]
    assert [len(targets) for targets in epoch] == sizes
    assert sorted(torch.cat(epoch).tolist()) == list(range(23))


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        Loader(SPLIT, 24, seed=1)


class Counting:
    """A stream of numbers drawn at random."""

    def __len__(self) -> int:
        return 1000

    def draw(self, count: int, draw: torch.Generator) -> Split:
        rows = torch.randint(1000, (count, 1), generator=draw)
        return Split(rows, rows + 1)

    def digest(self) -> str:
        return "counting"


def stream_loader(seed: int = 1) -> StreamLoader:
    return StreamLoader(Counting(), 5, seed, steps_per_epoch=7, carrier=Carrier(torch.device("cpu")))


def test_a_batch_of_a_stream_depends_on_seed_and_step_alone() -> None:
    in_order = stream_loader()
    batches = [in_order.batch(step)[1] for step in range(20)]
    fresh = stream_loader()
    for step in (17, 3, 12):
        assert torch.equal(fresh.batch(step)[1], batches[step])
    assert not torch.equal(stream_loader(seed=2).batch(0)[1], batches[0])
    assert len({tuple(batch.flatten().tolist()) for batch in batches}) == 20


def test_the_loader_is_made_for_what_the_data_is() -> None:
    sets = Splits(train=SPLIT, judge=SPLIT, test=SPLIT, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=23)
    carrier = Carrier(torch.device("cpu"))
    assert make_loader(TrainConfig(batch_size=5), sets, carrier).steps_per_epoch == 5
    drawn = replace(sets, stream=Counting())
    assert make_loader(TrainConfig(batch_size=5, steps_per_epoch=7), drawn, carrier).steps_per_epoch == 7
    assert make_loader(TrainConfig(batch_size=5), drawn, carrier).steps_per_epoch == 100
    with pytest.raises(ConfigError, match="has epochs of its own"):
        make_loader(TrainConfig(batch_size=5, steps_per_epoch=7), sets, carrier)
