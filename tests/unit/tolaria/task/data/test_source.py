"""Sets that a source makes: plain data, whatever computed it, and advice with every refusal."""

from __future__ import annotations

import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.data.source import single_precision

CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION


def classified(labels: torch.Tensor, outputs: int) -> Splits:
    part = Split(torch.zeros(len(labels), 2), labels)
    return Splits(train=part, judge=part, test=part, task=CLASSIFICATION, outputs=outputs)


def test_samples_that_a_network_computed_carry_no_gradient_into_a_run() -> None:
    features = torch.nn.Linear(3, 2)(torch.randn(10, 3))
    assert features.requires_grad
    part = Split(features, features.sum(1))
    splits = Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_REGRESSION, outputs=1)
    for _, split in splits.named():
        assert not split.inputs.requires_grad
        assert not split.targets.requires_grad
    assert torch.equal(splits.train.inputs, features)


def test_samples_made_in_inference_mode_can_be_learned_from() -> None:
    with torch.inference_mode():
        inputs, labels = torch.randn(10, 3), torch.arange(10) % 2
    split = Split(inputs, labels)
    weight = torch.ones(3, requires_grad=True)
    (split.inputs @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, inputs.sum(0))


@pytest.mark.parametrize(
    ("labels", "outputs", "says"),
    [
        (torch.arange(10) % 2, 1, r"0..1': labels must lie in 0..0; if all are classes, say outputs=2"),
        (torch.arange(10).unsqueeze(1) % 2, 1, "say outputs=2"),
        (torch.arange(9) % 3 + 1, 3, r"1..3': labels must lie in 0..2; are they numbered from 1\? subtract 1"),
        (torch.arange(10) % 2 * 2 - 1, 2, "-1..1': labels must lie in 0..1; .* classes numbered from 0"),
        (torch.tensor([0, 1, 255]), 2, "without a label must be left out"),
    ],
)
def test_labels_out_of_range_come_with_advice(labels: torch.Tensor, outputs: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        classified(labels, outputs)


def test_a_number_too_large_for_float32_is_told_from_an_infinite_one() -> None:
    with pytest.raises(ConfigError, match=r"here: -1e.39': too large for float32"):
        single_precision("here", torch.tensor([0.0, -1e39], dtype=torch.float64))
    assert single_precision("here", torch.tensor([float("inf")], dtype=torch.float64)).isinf().all()


def test_documents_follow_their_samples_and_are_part_of_the_data() -> None:
    labels, documents = torch.arange(10) % 2, torch.arange(10) // 3
    split = Split(torch.zeros(10, 2), labels, documents)
    taken = split.take(torch.tensor([9, 0, 4]))
    assert taken.documents is not None
    assert taken.documents.tolist() == [3, 0, 1]
    assert (split.document_count, Split(split.inputs, labels).document_count) == (4, None)
    digests = set()
    for each in (None, documents, documents.flip(0)):
        part = Split(torch.zeros(10, 2), labels.to(torch.int32), each)
        data = Splits(train=part, judge=part, test=part, task=CLASSIFICATION, outputs=2)
        assert (data.judge.documents is None) is (each is None)
        digests.add(data.to(torch.device("cpu")).digest())
    assert len(digests) == 3


@pytest.mark.parametrize("documents", [torch.arange(9), torch.arange(10).float(), torch.arange(10).view(10, 1)])
def test_documents_that_name_none_for_each_sample_are_refused(documents: torch.Tensor) -> None:
    part = Split(torch.zeros(10, 2), torch.arange(10) % 2, documents)
    with pytest.raises(ConfigError, match="expected the whole number of a document for each of 10 rows"):
        Splits(train=part, judge=part, test=part, task=CLASSIFICATION, outputs=2)
