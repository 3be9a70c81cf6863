"""One logit, several labels, shares of classes: told by the data or named, each with its loss, score and accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits, load_splits
from esper.tolaria.task.data.facts import described, doubts, largest_share
from esper.tolaria.task.data.source import LabelKind
from esper.tolaria.task.objective.agreement import agreed
from esper.tolaria.task.objective.losses import LossSettings
from esper.tolaria.task.objective.task import make_task
from esper.tolaria.task.prepare import prepare

HERE = "tests.unit.tolaria.loss_sources"
CONFIG = TrainConfig(model=f"{HERE}:net", min_samples=10, batch_size=16)
CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION
BITS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0, 0])
TAGS = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]] * 2)
SHARES = torch.tensor([[0.5, 0.25, 0.25], [1, 0, 0], [0.1, 0.1, 0.8], [0, 0.5, 0.5], [0.2, 0.6, 0.2]] * 2)


def splits(targets: Tensor, outputs: int, kind: LabelKind = LabelKind.ONE, ignore_index: int | None = None) -> Splits:
    part = Split(torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(0)), targets)
    sets = {"train": part, "judge": part, "test": part}
    return Splits(**sets, task=CLASSIFICATION, outputs=outputs, label_kind=kind, ignore_index=ignore_index)


def logits(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("targets", "outputs", "kind"),
    [
        (TAGS.float(), 3, LabelKind.MULTI_LABEL),
        (SHARES, 3, LabelKind.SOFT),
        (SHARES.half(), 3, LabelKind.SOFT),
        (BITS, 2, LabelKind.ONE),
        (BITS.float(), 2, LabelKind.ONE),
        # Labels of positions, as whole numbers and stored as others.
        (TAGS, 3, LabelKind.ONE),
        (TAGS.float(), 4, LabelKind.ONE),
    ],
)
def test_the_targets_tell_their_kind_where_they_can_mean_nothing_else(
    targets: Tensor, outputs: int, kind: LabelKind
) -> None:
    assert splits(targets, outputs).label_kind == kind


def test_two_classes_and_one_output_are_one_logit() -> None:
    for shape, model in (((10,), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))), ((10, 1), nn.Linear(3, 1))):
        data = agreed(CONFIG, model, splits(BITS, 2))
        assert (data.label_kind, data.outputs) == (LabelKind.BINARY, 1)
        assert data.train.targets.shape == shape
    # One output for two classes at each position.
    part = Split(torch.randn(10, 2, 4), torch.stack([BITS] * 4, 1))
    dense = Splits(train=part, judge=part, test=part, task=CLASSIFICATION, outputs=2)
    assert agreed(CONFIG, nn.Conv1d(2, 1, 1), dense).label_kind == LabelKind.BINARY
    assert agreed(CONFIG, nn.Conv1d(2, 2, 1), dense).label_kind == LabelKind.ONE


@pytest.mark.parametrize("hole", [None, -1])
@pytest.mark.parametrize("weights", [None, "3,0.5"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_logit_learns_by_the_cross_entropy_of_two_classes(
    hole: int | None, weights: str | None, smoothing: float
) -> None:
    targets = BITS if hole is None else BITS.where(torch.arange(10) != 3, -1)
    task = make_task(
        splits(targets, 1, LabelKind.BINARY, hole), LossSettings(class_weights=weights, label_smoothing=smoothing)
    )
    outputs = logits(10)
    # A logit and none is a pair of classes.
    pairs = torch.stack([torch.zeros_like(outputs), outputs], 1)
    two = make_task(splits(targets, 2, ignore_index=hole), LossSettings(class_weights=weights))
    total, norm = 0.0, 0.0
    for logit, label in zip(outputs, targets.tolist(), strict=True):
        if label == hole:
            continue
        weight = 1.0 if weights is None else (3.0, 0.5)[label]
        truth = label * (1 - smoothing) + smoothing / 2
        chance = 1 / (1 + (-logit).exp())
        total -= float(weight * (truth * chance.log() + (1 - truth) * (1 - chance).log()))
        norm += weight
    assert float(task.loss(outputs, targets)) == pytest.approx(total / norm, rel=1e-6)
    assert torch.allclose(task.scores(outputs, targets), two.scores(pairs, targets), atol=1e-6)
    assert float(task.accuracy(outputs, targets)) == float(two.accuracy(pairs, targets))
    assert float(task.weight(targets)) == pytest.approx(norm)


def test_several_labels_are_each_a_logit_and_a_sample_is_their_mean() -> None:
    task = make_task(splits(TAGS.float(), 3))
    outputs, targets = logits(10, 3), TAGS.double()
    chance = outputs.sigmoid()
    expected = -(targets * chance.log() + (1 - targets) * (1 - chance).log()).mean()
    assert float(task.loss(outputs, TAGS.float())) == pytest.approx(float(expected), rel=1e-12)
    assert torch.allclose(task.scores(outputs, TAGS.float()).double(), (2 * (chance - targets) ** 2).mean(1), atol=1e-6)
    right = ((outputs > 0) == (TAGS > 0)).double().mean()
    assert float(task.accuracy(outputs, TAGS.float(), torch.float64)) == pytest.approx(float(right))
    worst = task.scores((0.5 - TAGS) * 1e6, TAGS.float())
    assert torch.equal(worst, torch.full((10,), 2.0))


def test_labels_that_nobody_gave_count_for_nothing_among_several() -> None:
    given = TAGS.float().where(torch.arange(30).reshape(10, 3) % 4 != 0, -1)
    task = make_task(splits(given, 3, LabelKind.MULTI_LABEL, ignore_index=-1))
    outputs, counts = logits(10, 3), given >= 0
    each = torch.nn.functional.binary_cross_entropy_with_logits(outputs, given.double().clamp(min=0), reduction="none")
    assert float(task.loss(outputs, given)) == pytest.approx(float(each[counts].mean()), rel=1e-6)
    squares = 2 * (outputs.sigmoid() - given.double()) ** 2
    expected = [float(squares[row][counts[row]].mean()) for row in range(10)]
    assert task.scores(outputs, given).tolist() == pytest.approx(expected, rel=1e-5)


def test_shares_of_classes_learn_by_their_cross_entropy_and_are_judged_by_their_distance() -> None:
    for smoothing in (0.0, 0.3):
        task = make_task(splits(SHARES, 3), LossSettings(label_smoothing=smoothing))
        outputs, targets = logits(10, 3), SHARES.double()
        truth = targets * (1 - smoothing) + smoothing / 3
        expected = -(truth * outputs.log_softmax(1)).sum(1).mean()
        assert float(task.loss(outputs, SHARES)) == pytest.approx(float(expected), rel=1e-6)
        distance = (outputs.softmax(1) - targets).square().sum(1)
        assert torch.allclose(task.scores(outputs, SHARES).double(), distance, atol=1e-6)
    right = (outputs.argmax(1) == SHARES.argmax(1)).double().mean()
    assert float(task.accuracy(outputs, SHARES, torch.float64)) == pytest.approx(float(right))


def test_a_run_says_what_is_learned() -> None:
    assert described(splits(BITS, 1, LabelKind.BINARY)) == "binary, one output, smaller class 4"
    assert described(splits(TAGS.float(), 3)) == "multi_label, 3 labels, rarest 4"
    assert described(splits(SHARES, 3)) == "soft_labels, 3 classes, rarest 2.9"
    assert largest_share(splits(BITS, 1, LabelKind.BINARY)) == 0.6
    assert largest_share(splits(SHARES, 3)) is None
    never = TAGS.float() * torch.tensor([1.0, 0.0, 1.0])
    assert any("no training sample has: 1 of 3" in text for text in doubts(splits(never, 3), is_guessed=True))
    numbers = replace(splits(TAGS.float(), 3), task=TaskType.TASK_TYPE_REGRESSION, label_kind=LabelKind.ONE)
    assert any("--task multi_label" in text for text in doubts(numbers, is_guessed=True))


@pytest.mark.parametrize(
    ("setting", "targets", "kind", "outputs"),
    [
        ("binary", np.array([0, 1] * 30), LabelKind.BINARY, 1),
        ("multi_label", np.array([[0, 1, 1], [1, 0, 0]] * 30), LabelKind.MULTI_LABEL, 3),
        ("multi_label", np.array([[0.0, 1.0], [1.0, 1.0]] * 30), LabelKind.MULTI_LABEL, 2),
        ("soft_labels", np.array([[0.3, 0.7], [1.0, 0.0]] * 30), LabelKind.SOFT, 2),
        ("soft_labels", np.array([[0, 1], [1, 0]] * 30), LabelKind.SOFT, 2),
    ],
)
def test_files_are_read_as_the_setting_says(
    tmp_path: Path, setting: str, targets: np.ndarray, kind: LabelKind, outputs: int
) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(60, 4)), targets=targets)
    config = replace(CONFIG, data=str(tmp_path / "data.npz"), model="mlp", task=setting, min_samples=5)
    run = prepare(config)
    assert (run.splits.label_kind, run.splits.outputs) == (kind, outputs)
    assert run.manifest().task == CLASSIFICATION


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": "plain", "task": "binary"}, r"labels must lie in 0..1"),
        ({"data": "plain", "task": "multi_label"}, r"shape \(96,\)'.*multi_label wants a number for each"),
        ({"data": "tags", "task": "soft_labels"}, "shares of at least 0 that sum to 1"),
        ({"data": "tags", "class_weights": "balanced"}, "means nothing to several labels"),
        ({"data": "shares", "class_weights": "1,2,3"}, "means nothing to shares of classes"),
        ({"data": "shares", "ignore_index": 0}, "shares of classes have none"),
        ({"data": "binary", "task": "binary", "class_weights": "1,2,3"}, "has 3 numbers, the data has 2 classes"),
        ({"data": "tags", "model": "one_logit"}, r"multi_label expected \(2, 3\): a logit for each"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings: dict[str, str], says: str) -> None:
    places = {name: f"{HERE}:{value}" for name, value in settings.items() if name in ("data", "model")}
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, **{**settings, **places}))
    assert "\n" not in str(caught.value)


def test_outputs_that_are_said_to_be_two_are_no_single_logit() -> None:
    with pytest.raises(ConfigError, match="say outputs=1"):
        splits(BITS, 2, LabelKind.BINARY)
    with pytest.raises(ConfigError, match=r"a 0 or 1 for each label: \[samples, labels\]"):
        splits(TAGS, 2, LabelKind.MULTI_LABEL)
    assert load_splits(replace(CONFIG, data=f"{HERE}:binary", task="binary")).outputs == 1
