"""Labels that count for nothing, smoothed labels, weighed classes: losses, scores and units agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.task.data import Split, Splits, load_splits
from esper.tolaria.task.data.facts import described, doubts, largest_share
from esper.tolaria.task.data.posing import counted
from esper.tolaria.task.objective.losses import LossSettings
from esper.tolaria.task.objective.task import evaluate, make_task
from esper.tolaria.task.prepare import prepare

CLASSES, HOLE = 3, -100
HERE = "tests.unit.tolaria.loss_sources"
PADDED = {"data": f"{HERE}:padded", "model": f"{HERE}:decoder", "ignore_index": 0}
AMOUNTS = {"data": f"{HERE}:plain", "task": "regression", "ignore_index": None}
CONFIG = TrainConfig(data=f"{HERE}:gaps", model=f"{HERE}:net", min_samples=10, batch_size=16, ignore_index=HOLE)


def labelled(shape: tuple[int, ...], *, hole: int | None, task: TaskType = TaskType.TASK_TYPE_CLASSIFICATION) -> Splits:
    """The same labels in every set; the first sample has none that counts."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, shape, generator=draw)
    if hole is not None:
        labels = labels.where(torch.rand(shape, generator=draw) > 0.3, hole)
        labels[0] = hole
    part = Split(torch.randn(len(labels), 4, generator=draw), labels)
    return Splits(train=part, judge=part, test=part, task=task, outputs=CLASSES, ignore_index=hole)


def outputs_for(targets: Tensor, *, last: bool = False) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    outputs = torch.randn(*targets.shape, CLASSES, generator=draw, dtype=torch.float64)
    return outputs if last else outputs.movedim(-1, 1)


def reference(outputs: Tensor, targets: Tensor, weights: Tensor, smoothing: float, hole: int | None) -> Tensor:
    """The mean by the book, label by label, in double precision: sums over what counts."""
    rows, labels = outputs.movedim(1, -1).reshape(-1, CLASSES), targets.flatten()
    total, norm = rows.new_zeros(()), rows.new_zeros(())
    for row, label in zip(rows, labels.tolist(), strict=True):
        if label == hole:
            continue
        logs = row - row.exp().sum().log()
        truth = torch.full((CLASSES,), smoothing / CLASSES, dtype=torch.float64)
        truth[label] += 1 - smoothing
        total, norm = total - (weights.double() * truth * logs).sum(), norm + weights[label]
    return total / norm


@pytest.mark.parametrize("shape", [(12,), (12, 4), (6, 3, 2)])
@pytest.mark.parametrize("hole", [None, HOLE, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, "1,2,0.5"])
def test_the_loss_is_that_of_the_book(
    shape: tuple[int, ...], hole: int | None, smoothing: float, weights: str | None
) -> None:
    data = labelled(shape, hole=hole)
    task = make_task(data, LossSettings(label_smoothing=smoothing, class_weights=weights))
    targets = data.judge.targets
    outputs = outputs_for(targets)
    expected = reference(outputs, targets, torch.tensor([1, 2, 0.5] if weights else [1, 1, 1]), smoothing, hole)
    assert float(task.loss(outputs, targets)) == pytest.approx(float(expected), rel=1e-12)


def test_what_does_not_count_changes_neither_loss_nor_score_nor_accuracy_of_a_language_model() -> None:
    data = labelled((12, 5), hole=HOLE, task=TaskType.TASK_TYPE_LANGUAGE_MODEL)
    task, targets = make_task(data), data.judge.targets
    outputs = outputs_for(targets, last=True)
    counts = targets != HOLE
    nats = -outputs.float().log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    scores, clipped = task.clipped_scores(outputs, targets)
    for row in range(1, 12):
        each = nats[row][counts[row]]
        assert float(scores[row]) == pytest.approx(float(each.clamp(max=2 * np.log(3)).mean()), rel=1e-6)
        assert float(clipped[row]) == pytest.approx(float((each > 2 * np.log(3)).float().mean()))
    assert float(task.loss(outputs, targets)) == pytest.approx(float(nats[counts].mean()), rel=1e-6)
    right = (outputs.argmax(-1) == targets)[counts].float().mean()
    assert float(task.accuracy(outputs, targets)) == pytest.approx(float(right))


def test_the_score_of_a_sample_is_the_mean_over_its_positions_that_count() -> None:
    data = labelled((12, 4), hole=HOLE)
    task, targets = make_task(data), data.judge.targets
    outputs = outputs_for(targets)
    probabilities = outputs.softmax(1).movedim(1, -1)
    for row, score in list(enumerate(task.scores(outputs, targets).tolist()))[1:]:
        each = [
            float((probabilities[row, place] - torch.eye(CLASSES)[label]).square().sum())
            for place, label in enumerate(targets[row].tolist())
            if label != HOLE
        ]
        assert score == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_weights_of_classes_weigh_scores_in_shares_of_their_mean_and_smoothing_leaves_them_alone() -> None:
    data = labelled((40,), hole=None)
    targets = data.judge.targets
    outputs = outputs_for(targets)
    plain = make_task(data).scores(outputs, targets)
    weights = torch.tensor([1.0, 2.0, 0.5])[targets]
    weighed = make_task(data, LossSettings(class_weights="1,2,0.5")).scores(outputs, targets)
    assert torch.allclose(weighed, plain * weights / weights.mean(), rtol=1e-6)
    assert torch.equal(make_task(data, LossSettings(label_smoothing=0.3)).scores(outputs, targets), plain)


def test_balanced_classes_weigh_the_same_together() -> None:
    data = labelled((40,), hole=HOLE)
    weight = make_task(data, LossSettings(class_weights="balanced")).weight
    counts = data.train.targets[data.train.targets >= 0]
    of_each = [float(weight(counts[counts == label])) for label in range(CLASSES)]
    assert of_each == pytest.approx([len(counts) / CLASSES] * CLASSES, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_nothing_counts_the_loss_is_zero_and_so_is_every_gradient(smoothing: float) -> None:
    task = make_task(labelled((12,), hole=HOLE), LossSettings(label_smoothing=smoothing))
    outputs = torch.randn(4, CLASSES, requires_grad=True)
    loss = task.loss(outputs, torch.full((4,), HOLE))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(outputs.grad, torch.zeros(4, CLASSES))


@pytest.mark.parametrize("pcgrad", [False, True])
@pytest.mark.parametrize("weights", [None, "1,2,0.5"])
def test_microbatches_add_up_to_the_batch_whatever_counts_in_each(weights: str | None, pcgrad: bool) -> None:
    results = []
    for accumulate in (1, 7 if not pcgrad else 2):
        config = replace(
            CONFIG, accumulate=accumulate, pcgrad=pcgrad and accumulate > 1, class_weights=weights, grow="never"
        )
        run = prepare(config)
        arm = run.executor.arm
        arm.model.double()
        inputs, targets = run.loader.batch(0)
        targets[:3] = HOLE
        groups = Groups(host=list(arm.model.parameters()))
        stepper = Stepper(run.task, config, torch.device("cpu"))
        results.append(stepper.run(arm, (inputs.double(), targets), 0, groups, measures_norm=True))
    whole, parts = results
    assert float(parts.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert float(parts.accuracy) == pytest.approx(float(whole.accuracy), rel=1e-6)
    if not pcgrad or not float(parts.conflict_rate):
        assert float(parts.gradient_norm) == pytest.approx(float(whole.gradient_norm), rel=1e-6)


def test_an_evaluation_counts_labels_not_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(replace(CONFIG, class_weights="1,2,0.5", grow="never"))
    split = run.splits.judge
    whole = evaluate(run.executor.arm, run.task, split)
    monkeypatch.setattr("esper.tolaria.task.objective.task.JUDGE_BATCH", 7)
    assert len(list(run.task.judge_batches())) > 5
    parts = evaluate(run.executor.arm, run.task, split)
    assert parts == pytest.approx(whole, rel=1e-6)


def test_a_sample_without_a_label_that_counts_is_no_unit() -> None:
    given = labelled((12, 2), hole=HOLE)
    documents = torch.arange(12)
    given = given.mapped(lambda split: replace(split, documents=documents))
    kept = counted(given, None)
    empty = [row for row in range(12) if bool((given.judge.targets[row] == HOLE).all())]
    assert 0 in empty
    assert kept.judge.documents.tolist() == [row for row in range(12) if row not in empty]
    assert kept.left_out == 3 * len(empty)
    told = f"left out because no target of theirs counts: {kept.left_out}"
    assert any(told in text for text in doubts(kept, is_guessed=False))


def test_classes_are_counted_without_the_labels_that_do_not_count() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2 + [HOLE] * 20)
    part = Split(torch.zeros(30, 2), labels)
    kind = TaskType.TASK_TYPE_CLASSIFICATION
    data = Splits(train=part, judge=part, test=part, task=kind, outputs=3, ignore_index=HOLE)
    assert "3 classes, smallest 2" in described(data)
    assert largest_share(data) == 0.5


def test_the_setting_reaches_a_source_that_does_not_know_it_and_a_file(tmp_path: Path) -> None:
    of_module = load_splits(CONFIG)
    assert of_module.ignore_index == HOLE
    assert of_module.left_out > 0
    labels = np.array([0, 1, 2, 255] * 30)
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(120, 4)), targets=labels)
    of_file = load_splits(TrainConfig(data=str(tmp_path / "data.npz"), ignore_index=255))
    assert (of_file.outputs, of_file.left_out) == (3, 30)
    assert sum(of_file.sizes.values()) == 90


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ignore_index": None}, "--ignore-index=-100 if that means no label"),
        ({"class_weights": "1,2"}, "has 2 numbers, the data has 3 classes"),
        ({"class_weights": "1,2,0"}, "a positive number for each class"),
        ({"class_weights": "heavy"}, "say balanced, or a positive number"),
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
        ({**PADDED, "class_weights": "balanced"}, "means nothing to a language model"),
        ({"data": f"{HERE}:plain", "task": "regression"}, "names a label, and a regression has none"),
        ({**AMOUNTS, "label_smoothing": 0.1}, "means nothing to a regression"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_in_one_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, **settings))
    assert "\n" not in str(caught.value)


def test_a_balance_of_classes_without_samples_is_refused() -> None:
    part = Split(torch.zeros(4, 2), torch.tensor([0, 0, 2, 2]))
    data = Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=3)
    with pytest.raises(ConfigError, match="class 1 has no training sample"):
        make_task(data, LossSettings(class_weights="balanced"))
