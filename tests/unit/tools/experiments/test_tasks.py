"""Tasks of the experiments: the same for a seed, labels that say nothing, and data that change half-way."""

from __future__ import annotations

import pytest
import torch

from esper.tolaria.task.data.digits import Digits
from tests.unit.tools.experiments.loading import load

tasks = load("tasks")


@pytest.mark.parametrize("name", ["hastie", "photos", "clusters", "waves", "pairs", "random_labels", "random_clusters"])
def test_a_task_is_the_same_for_a_seed_and_another_split_for_another(name: str) -> None:
    source = getattr(tasks, name)
    one, same, other = source.splits(1), source.splits(1), source.splits(2)
    assert len(one.judge) >= 300
    assert torch.equal(one.train.inputs, same.train.inputs)
    assert torch.equal(one.test.targets, same.test.targets)
    assert not torch.equal(one.train.inputs, other.train.inputs)


def test_random_labels_say_nothing_of_the_digits() -> None:
    right, drawn = Digits().splits(1), tasks.random_labels.splits(1)
    assert torch.equal(right.train.inputs, drawn.train.inputs)
    agreement = (right.train.targets == drawn.train.targets).double().mean()
    assert 0.05 < float(agreement) < 0.15


def test_the_second_half_of_the_classes_comes_half_way() -> None:
    train = Digits().splits(1).train
    first = torch.nonzero(train.targets < tasks.FIRST_CLASSES).flatten()
    batches = tasks.Shifting(train, first, seed=1, change=2, batch_size=64)
    epochs = [torch.cat([targets for _, targets in batches]) for _ in range(4)]
    assert [len(epoch) for epoch in epochs] == [len(train)] * 4
    assert [int(epoch.max()) for epoch in epochs] == [4, 4, 9, 9]
    assert torch.equal(epochs[3].sort().values, train.targets.sort().values)
    assert len(list(batches)) == len(batches)


def test_of_a_pair_the_greater_digit_is_told_and_no_set_shows_an_image_of_another() -> None:
    found, digits = tasks.pairs.splits(1), Digits().splits(1)
    assert found.train.inputs.shape[1:] == (1, 8, 16)
    assert 0.4 < found.judge.targets.float().mean() < 0.6
    images = {name: {image.numpy().tobytes() for image in getattr(digits, name).inputs} for name in ("train", "test")}
    shown = {half.contiguous().numpy().tobytes() for half in torch.cat(found.test.inputs.split(8, dim=-1))}
    assert shown <= images["test"]
    assert not shown & (images["train"] - images["test"])
