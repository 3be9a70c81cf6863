"""A loss that a model returns itself is told by sample, as its logits and labels say or one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.feeds.model_loss import IGNORED, model_loss

TOKENS, CLASSES, ROWS, LENGTH = 11, 4, 6, 7


class Host(nn.Module):
    """Returns whatever loss it is given, beside its logits."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Any], outputs: int, *, is_pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.out = nn.Embedding(TOKENS, 5), nn.Linear(5, outputs)
        self._loss, self._is_pooled = loss, is_pooled

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Any]:
        hidden = self.embed(input_ids)
        logits = self.out(hidden.mean(1) if self._is_pooled else hidden)
        return {"loss": self._loss(logits, labels), "logits": logits}


def batch(*shape: int, classes: int = TOKENS) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(0, classes, shape, generator=draw)
    if len(shape) == 2:
        for row in range(ROWS):
            labels[row, 2 + row // 2 :] = IGNORED
    whole = {"input_ids": torch.randint(0, TOKENS, (ROWS, LENGTH), generator=draw), "labels": labels}
    return whole, whole


def shifted(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def each_position(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def each_class(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def of_its_own(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.logsumexp(-1) - 1).square().mean()


LANGUAGE, OTHER = TaskType.TASK_TYPE_LANGUAGE_MODEL, TaskType.TASK_TYPE_REGRESSION


@pytest.mark.parametrize(
    ("loss", "kind", "told"), [(shifted, LANGUAGE, "next tokens"), (each_position, OTHER, "positions")]
)
def test_losses_of_sequences_leave_out_what_is_padded(loss, kind, told):
    host, (inputs, targets) = Host(loss, TOKENS), batch(ROWS, LENGTH)
    found = model_loss(host, (inputs, targets))
    assert (found.type, found.is_by_sample) == (kind, False)
    assert told in found.told
    each = found.each(host(**inputs), targets)
    for row in range(ROWS):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        assert torch.isclose(each[row], host(**one)["loss"], atol=1e-6)


def test_a_class_of_each_sample_is_told_by_cross_entropy():
    host = Host(each_class, CLASSES, is_pooled=True)
    inputs, targets = batch(ROWS, classes=CLASSES)
    found = model_loss(host, (inputs, targets))
    assert "cross-entropy" in found.told
    assert torch.isclose(found.each(host(**inputs), targets).mean(), host(**inputs)["loss"])


def test_a_loss_that_is_no_mean_of_these_is_had_by_passing_samples_one_by_one():
    found = model_loss(Host(of_its_own, TOKENS), batch(ROWS, LENGTH))
    assert found.is_by_sample
    assert "sample by sample" in found.told


def test_a_model_without_a_loss_is_told_what_to_give():
    with pytest.raises(ConfigError, match=r"loss = 'Host': gives dict without a loss: give loss="):
        model_loss(Host(lambda logits, labels: None, TOKENS), batch(ROWS, LENGTH))
