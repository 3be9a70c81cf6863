"""Batches of an indexed dataset can be had at any step, whatever draws them and wherever they are made."""

from __future__ import annotations

import gc
import multiprocessing
from multiprocessing.process import BaseProcess

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from esper.core.errors import ConfigError
from esper.tolaria.task.feeds.keyed import KeyedFeeder
from esper.tolaria.task.feeds.sequential import SequentialFeeder


class Noisy(Dataset[Tensor]):
    """Each sample is another whenever it is asked for."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Tensor:
        return torch.rand(3) + row


class Counting:
    """A sampler that is no function of its draws."""

    def __init__(self) -> None:
        self.calls = 0

    def __iter__(self):
        self.calls += 1
        return iter([self.calls % 20] * 20)

    def __len__(self) -> int:
        return 20


def test_any_step_is_the_same_again_in_any_order():
    first = KeyedFeeder(DataLoader(Noisy(), batch_size=6, shuffle=True), seed=3)
    assert first.steps_per_epoch == 4
    assert first.samples == 20
    straight = [first.batch(step) for step in range(12)]
    again = KeyedFeeder(DataLoader(Noisy(), batch_size=6, shuffle=True), seed=3)
    for step in (11, 2, 7, 0):
        assert torch.equal(again.batch(step), straight[step])
    assert not torch.equal(straight[0], straight[4])


@pytest.mark.parametrize("is_persistent", [False, True])
def test_workers_make_the_same_batches(is_persistent):
    here = KeyedFeeder(DataLoader(Noisy(), batch_size=6, shuffle=True), seed=3)
    loader = DataLoader(Noisy(), batch_size=6, shuffle=True, num_workers=2, persistent_workers=is_persistent)
    there = KeyedFeeder(loader, seed=3)
    for step in (0, 1, 2, 3, 4, 5, 9):
        assert torch.equal(there.batch(step), here.batch(step))


@pytest.mark.parametrize("make", [KeyedFeeder, SequentialFeeder])
def test_workers_end_with_the_feeder_also_where_it_is_garbage_in_a_circle(make, monkeypatch):
    """Told too late, each would be waited for."""
    waited = []
    join = BaseProcess.join
    told = lambda self, timeout=None: waited.append(join(self, timeout) or self.exitcode)  # noqa: E731
    monkeypatch.setattr(BaseProcess, "join", told)
    feeder = make(DataLoader(Noisy(), batch_size=6, num_workers=2), 3)
    feeder.batch(0)
    feeder.circle = feeder
    del feeder
    gc.collect()
    assert waited == [0, 0]


class Broken(Noisy):
    """Its tenth sample can't be made."""

    def __getitem__(self, row: int) -> Tensor:
        if row == 10:
            raise ValueError("no such row")
        return super().__getitem__(row)


@pytest.mark.parametrize("make", [KeyedFeeder, SequentialFeeder])
def test_workers_end_with_their_error_though_somebody_holds_it(make):
    feeder = make(DataLoader(Broken(), batch_size=6, num_workers=2), 4)
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="no such row") as held:
        list(map(feeder.batch, range(4)))
    assert held.value.__traceback__ is not None
    assert set(multiprocessing.active_children()) <= before


def test_an_epoch_holds_every_sample_once():
    feeder = KeyedFeeder(DataLoader(TensorDataset(torch.arange(20)), batch_size=6, shuffle=True), seed=1)
    rows = torch.cat([feeder.batch(step)[0] for step in range(4)])
    assert sorted(rows.tolist()) == list(range(20))


def test_samplers_draw_under_a_key_of_the_epoch():
    data = TensorDataset(torch.arange(20))

    def make() -> KeyedFeeder:
        sampler = WeightedRandomSampler([1.0] * 20, 20, generator=torch.Generator())
        return KeyedFeeder(DataLoader(data, batch_size=5, sampler=sampler), seed=2)

    first, again = make(), make()
    expected = [first.batch(step)[0] for step in range(8)]
    assert torch.equal(again.batch(6)[0], expected[6])
    assert first.keeps_order


def test_a_sampler_that_counts_by_itself_is_found():
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=5, sampler=Counting())
    assert not KeyedFeeder(loader, seed=2).keeps_order


def test_the_runs_own_draws_are_left_alone():
    feeder = KeyedFeeder(DataLoader(Noisy(), batch_size=6, shuffle=True), seed=3)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    feeder.batch(1)
    assert torch.equal(torch.rand(2), expected)


def test_loaders_without_a_batch_are_refused():
    with pytest.raises(ConfigError, match="gives single samples; give a batch_size"):
        KeyedFeeder(DataLoader(Noisy(), batch_size=None), seed=1)
    with pytest.raises(ConfigError, match="gives no batch"):
        KeyedFeeder(DataLoader(TensorDataset(torch.empty(0)), batch_size=2), seed=1)
