"""Batches that are fetched ahead are those that were asked for, whatever is asked for in which order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.feeds.carrier import SLOTS, Carrier, FetchingAhead, carrier_for
from esper.tolaria.task.feeds.feed import FedLoader
from esper.tolaria.task.feeds.loader import make_loader
from esper.tolaria.task.feeds.sequential import SequentialFeeder
from tests.unit.tolaria.task.feeds.lanes import HostLane
from tests.unit.tolaria.task.feeds.test_sequential import Stateful

CPU = torch.device("cpu")
STEPS = st.integers(0, 6)


def made(step: int) -> tuple[Tensor, dict[str, Tensor | str]]:
    return torch.full((2,), step), {"targets": torch.full((2,), -step), "name": f"batch {step}"}


@given(st.lists(st.tuples(st.sampled_from(["bring", "ahead", "forget"]), STEPS)))
def test_whatever_was_fetched_before_a_step_s_batch_is_its_own(calls: list[tuple[str, int]]) -> None:
    lane = HostLane()
    carrier = FetchingAhead(CPU, lane)
    for name, step in calls:
        if name == "bring":
            inputs, rest = carrier.bring(step, made)
            assert inputs.tolist() == [step, step]
            assert rest["name"] == f"batch {step}"
        elif name == "ahead":
            carrier.ahead(step)
        else:
            carrier.forget()
        assert len(carrier._under_way) <= SLOTS


def test_steps_in_a_row_are_each_made_once_and_sent_before_they_are_asked_for() -> None:
    lane, asked = HostLane(), list[int]()

    def counted(step: int) -> Tensor:
        asked.append(step)
        return torch.tensor([step])

    carrier = FetchingAhead(CPU, lane)
    for step in range(5):
        assert lane.sent == lane.received + (step > 0)
        carrier.bring(step, counted)
        carrier.ahead(step + 1)
    assert asked == [0, 1, 2, 3, 4, 5]


def test_a_twin_that_makes_up_for_its_steps_leaves_the_main_arm_s_next_batch_under_way() -> None:
    lane = HostLane()
    carrier = FetchingAhead(CPU, lane)
    for step in range(8):
        carrier.bring(step, made)
        carrier.ahead(step + 1)
    for step in range(3, 7):
        carrier.bring(step, made)
        carrier.ahead(step + 1)
    sent = lane.sent
    carrier.bring(8, made)
    assert lane.sent == sent


def test_the_device_waits_while_a_batch_is_made_or_copied_and_it_has_nothing_else_to_do() -> None:
    lane = HostLane(copy_ms=2.0)

    def slow(step: int) -> Tensor:
        lane.now_ms += 5.0  # nothing was left to compute meanwhile
        return torch.tensor([step])

    carrier = FetchingAhead(CPU, lane)
    carrier.bring(0, slow)
    assert carrier.times is not None
    assert (carrier.times.wait_ms(), carrier.times.copy_ms()) == (5.0, 2.0)
    carrier.ahead(1)
    lane.now_ms += 100.0  # the step before it computes
    carrier.bring(1, slow)
    assert carrier.times.wait_ms() == 5.0
    carrier.ahead(2)
    carrier.bring(2, slow)
    assert carrier.times.copy_ms() == 2.0


def test_a_loader_s_position_does_not_count_the_batch_that_is_on_its_way() -> None:
    def loader() -> FedLoader:
        return FedLoader(SequentialFeeder(Stateful(), 10), lambda batch: (batch, batch), FetchingAhead(CPU, HostLane()))

    def numbers(batches: FedLoader, steps: range) -> list[int]:
        found = []
        for step in steps:
            found.append(int(batches.batch(step)[0][0]))
            batches._carrier.ahead(step + 1)
        return found

    first, again = loader(), loader()
    assert numbers(first, range(7)) == list(range(7))
    again.batch(0), again._carrier.ahead(1)
    assert again.load_state_dict(first.state_dict(7), 7) == ""
    assert numbers(again, range(7, 12)) == [7, 8, 9, 0, 1] == numbers(first, range(7, 12))


def test_without_a_cuda_device_it_is_refused_by_one_line() -> None:
    with pytest.raises(ConfigError, match=r"gpu_prefetch.*needs a CUDA device, got device cpu; leave it out"):
        carrier_for(TrainConfig(gpu_prefetch=True), CPU)
    assert type(carrier_for(TrainConfig(), CPU)) is Carrier


def test_data_that_is_on_the_device_already_is_refused() -> None:
    split = Split(torch.arange(23.0).unsqueeze(1), torch.arange(23))
    sets = Splits(train=split, judge=split, test=split, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=23)
    with pytest.raises(ConfigError, match="has nothing to fetch: digits is on the device; leave it out"):
        make_loader(TrainConfig(gpu_prefetch=True, batch_size=5), sets, FetchingAhead(CPU, HostLane()))
