"""Small data for every kind of loss: three clouds of points with their labels, in whatever form a task wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits

ROWS = {"train": 96, "judge": 60, "test": 40}
CLASSES, VALUES, TOKENS = 3, 6, 5
CLASSIFICATION, LANGUAGE_MODEL = TaskType.TASK_TYPE_CLASSIFICATION, TaskType.TASK_TYPE_LANGUAGE_MODEL
REGRESSION = TaskType.TASK_TYPE_REGRESSION
Draw = Callable[[Tensor, torch.Generator], Split]


class Clouds:
    """A source whose sets are made from labels by a function."""

    def __init__(self, make: Draw, task: TaskType = CLASSIFICATION, outputs: int = CLASSES, **more: Any) -> None:
        self._make, self._task, self._outputs, self._more = make, task, outputs, more

    def splits(self, seed: int) -> Splits:
        draw = torch.Generator().manual_seed(seed)
        sets = {
            name: self._make(torch.randint(0, CLASSES, (rows,), generator=draw), draw) for name, rows in ROWS.items()
        }
        return Splits(
            train=sets["train"],
            judge=sets["judge"],
            test=sets["test"],
            task=self._task,
            outputs=self._outputs,
            **self._more,
        )


def points(labels: Tensor, draw: torch.Generator) -> Tensor:
    """A noisy point near the corner of each label."""
    corners = torch.eye(VALUES)[:CLASSES]
    return corners[labels] + 0.7 * torch.randn(len(labels), VALUES, generator=draw)


def holed(labels: Tensor, draw: torch.Generator, hole: int = -100) -> Tensor:
    """The labels, a quarter of them replaced by one that says nothing."""
    return labels.where(torch.rand(labels.shape, generator=draw) > 0.25, hole)


def _sequences(labels: Tensor, draw: torch.Generator) -> Split:
    tokens = (labels[:, None] + torch.arange(TOKENS + 1)) % CLASSES + 1
    lengths = torch.randint(0, TOKENS, (len(labels), 1), generator=draw)
    targets = tokens[:, 1:].where(torch.arange(TOKENS) < lengths, 0)
    return Split(tokens[:, :-1], targets)


plain = Clouds(lambda labels, draw: Split(points(labels, draw), labels))
gaps = Clouds(lambda labels, draw: Split(points(labels, draw), holed(labels, draw)))
binary = Clouds(lambda labels, draw: Split(points(labels, draw), (labels > 0).long()), outputs=2)
binary_gaps = Clouds(lambda labels, draw: Split(points(labels, draw), holed((labels > 0).long(), draw, -1)), outputs=2)
tags = Clouds(lambda labels, draw: Split(points(labels, draw), (labels[:, None] <= torch.arange(CLASSES)).float()))
shares = Clouds(lambda labels, draw: Split(points(labels, draw), 0.7 * torch.eye(CLASSES)[labels] + 0.1))


def _images(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Two channels of noise; the first is brighter where a class is."""
    images = torch.randn(len(labels), 2, 5, 4, generator=draw)
    images[:, 0] += labels[:, None, None]
    return images


def _masks(labels: Tensor, draw: torch.Generator) -> Split:
    images = _images(labels, draw)
    masks = (images[:, 0] > 0.5).long() + (images[:, 1] > 0.5)
    return Split(images, holed(masks, draw, 255))


def _depths(labels: Tensor, draw: torch.Generator) -> Split:
    images = _images(labels, draw)
    return Split(images, torch.stack([images.sum(1), 2 * images[:, 1] - 1], 1))


masks = Clouds(_masks)
depths = Clouds(_depths, REGRESSION, 2 * 5 * 4)
amounts = Clouds(
    lambda labels, draw: Split(points(labels, draw), labels[:, None] * torch.tensor([1.0, -2.0])), REGRESSION, 2
)
amount = Clouds(lambda labels, draw: Split(points(labels, draw), labels.float() - 1), REGRESSION, 1)
padded = Clouds(_sequences, LANGUAGE_MODEL, CLASSES + 1)


def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a quantile: what lies above costs nine times what lies below."""
    error = targets - outputs
    return torch.maximum(0.9 * error, -0.1 * error).mean(1)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which sure samples count less."""
    nats = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return (1 - (-nats).exp()) ** 2 * nats


def several(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Two losses that want different things of one network."""
    nats = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return {"nats": nats, "size": 0.3 * (outputs - 2).square().mean(1)}


def opposed(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Three losses, of which two are at odds."""
    return {**several(outputs, targets), "smallness": 0.5 * (outputs + 3).square().mean(1)}


def fickle(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Other losses for a batch of other size."""
    found = several(outputs, targets)
    return found if len(targets) > 60 else {"nats": found["nats"], "weight": found["size"]}


def sometimes(outputs: Tensor, targets: Tensor) -> Any:
    """Several losses, or one."""
    return several(outputs, targets) if len(targets) > 60 else focal(outputs, targets)


def nameless(outputs: Tensor, targets: Tensor) -> dict[Any, Tensor]:
    """Numbers for names."""
    return dict(enumerate(several(outputs, targets).values()))


def reduced(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """One of its losses is a mean already."""
    return {**several(outputs, targets), "size": outputs.square().mean()}


def half_detached(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """One of its losses has no gradient."""
    return {**several(outputs, targets), "size": outputs.detach().square().mean(1)}


def of_sequences(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a sequence's tokens."""
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none").mean(1)


def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """Two outputs for one amount, its mean and the logarithm of its deviation; may fall below 0."""
    mean, deviation = outputs.unbind(1)
    return ((targets - mean) / deviation.exp()).square() / 2 + deviation


def scalar(outputs: Tensor, targets: Tensor) -> Tensor:
    """What most losses give, and none of ours may."""
    return nn.functional.cross_entropy(outputs, targets)


def mixed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Every target against every output."""
    return (targets.reshape(1, -1) - outputs.reshape(-1, 1)).square().mean(1)


def column(outputs: Tensor, targets: Tensor) -> Tensor:
    """A dimension too many."""
    return focal(outputs, targets).unsqueeze(1)


def broken(outputs: Tensor, targets: Tensor) -> Tensor:
    """Infinite for one class."""
    return focal(outputs, targets) / (targets != 1)


def detached(outputs: Tensor, targets: Tensor) -> Tensor:
    """Without a way back."""
    return focal(outputs.detach(), targets)


def number(outputs: Tensor, targets: Tensor) -> float:
    """No tensor."""
    return float(focal(outputs, targets).detach().mean())


def misfit(outputs: Tensor, targets: Tensor) -> Tensor:
    """Fails for every network."""
    return outputs.reshape(7, 13)


def nothing(outputs: Tensor, targets: Tensor) -> Tensor:
    """Nothing to learn."""
    return 0 * focal(outputs, targets)


def macro_recall(outputs: Tensor, targets: Tensor) -> Tensor:
    """A figure that no mean over samples gives."""
    right = outputs.argmax(1) == targets
    return torch.stack([right[targets == label].double().mean() for label in range(CLASSES)]).mean()


NOTHING = 3


def net(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two layers that can be widened."""
    return nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), nn.Linear(8, outputs))


def one_logit(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Of one value for a sample, whatever is asked for."""
    return nn.Sequential(*net(shape, 1), nn.Flatten(0))


def dense(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A value of each kind for each pixel; of the regression, two kinds."""
    kinds = outputs if outputs == CLASSES else 2
    return nn.Sequential(nn.Conv2d(shape[0], 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, kinds, 1))


def two(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two values for a sample, whatever is asked for."""
    return net(shape, 2)


class Decoder(nn.Module):
    """Token by token, with a layer that can be widened."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(outputs, 8)
        self.hidden, self.act, self.head = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.act(self.hidden(self.embed(tokens))))
        return logits


def decoder(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """For the padded sequences."""
    return Decoder(outputs)
