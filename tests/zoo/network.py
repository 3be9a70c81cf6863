"""One network of the zoo: how it is built, what it is shown, and the random task that it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.feeds.model_loss import IGNORED

CLASSES, TOKENS = 5, 30
LEAST_TOKENS = 5
"""Of a padded text."""
COUNTS = (64, 16, 16)
"""Samples to learn from, to judge on, and to test on."""
LABELS, TEXT, VALUES = (
    TaskType.TASK_TYPE_CLASSIFICATION,
    TaskType.TASK_TYPE_LANGUAGE_MODEL,
    TaskType.TASK_TYPE_REGRESSION,
)


class Samples(Dataset[dict[str, Tensor]]):
    """Samples as tokenisers and image processors give them, a mapping each."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self._columns.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A row of the zoo; also the source of its data, with the sets that it learns from."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of one sample: numbers, or tokens where `reads_tokens`."""
    task: TaskType = LABELS
    reads_tokens: bool = False
    dtype: torch.dtype = torch.float32
    family: str = ""
    has_transformers: bool = False
    """Whether it is one of Hugging Face's."""
    fed: str = ""
    """What its batches call its inputs, where they are mappings with labels and its own loss is learned."""

    def model(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """The network with weights from torch's generator, as a model's factory is called."""
        return self.build()

    def splits(self, seed: int) -> Splits:
        """Small disjoint sets of random samples, with targets that can be learnt."""
        draw = torch.Generator().manual_seed(seed)
        teacher = torch.Generator().manual_seed(seed + 1)
        rows = self._inputs(sum(COUNTS), draw)
        parts = zip(rows.split(COUNTS), self._targets(rows, teacher).split(COUNTS), strict=True)  # type: ignore[no-untyped-call]
        train, judge, test = (Split(*part) for part in parts)
        outputs = {LABELS: CLASSES, TEXT: TOKENS, VALUES: prod(self.shape)}[self.task]
        return Splits(train=train, judge=judge, test=test, task=self.task, outputs=outputs)

    def datasets(self, seed: int) -> dict[str, Samples]:
        """The same sets of mappings, texts padded to one length."""
        splits = self.splits(seed)
        return {name: Samples(self._columns(split)) for name, split in splits.named()}

    def _columns(self, split: Split) -> dict[str, Tensor]:
        inputs, labels = split.inputs, split.targets
        if self.task == TEXT:
            inputs = labels = _counted_up(inputs)
        if not self.reads_tokens:
            return {self.fed: inputs, "labels": labels}
        length = inputs.shape[1]
        lengths = LEAST_TOKENS + torch.arange(len(inputs)) % (length - LEAST_TOKENS + 1)
        mask = torch.arange(length) < lengths[:, None]
        labels = labels.where(mask, IGNORED) if labels.ndim == inputs.ndim else labels
        return {self.fed: inputs, "attention_mask": mask.long(), "labels": labels}

    def _inputs(self, rows: int, draw: torch.Generator) -> Tensor:
        if self.reads_tokens:
            return torch.randint(0, TOKENS, (rows, *self.shape), generator=draw)
        return torch.randn(rows, *self.shape, generator=draw).to(self.dtype)

    def _targets(self, inputs: Tensor, draw: torch.Generator) -> Tensor:
        if self.task == TEXT:
            return (7 * inputs + 3) % TOKENS
        if self.task == VALUES:
            return inputs.float().tanh()
        if self.reads_tokens:
            return inputs[:, 0] % CLASSES
        weights = torch.randn(inputs[0].numel(), CLASSES, generator=draw)
        return (inputs.flatten(1).float() @ weights).argmax(1)


def _counted_up(tokens: Tensor) -> Tensor:
    """Texts in which each token tells the next."""
    columns = [tokens[:, 0]]
    while len(columns) < tokens.shape[1]:
        columns.append((7 * columns[-1] + 3) % TOKENS)
    return torch.stack(columns, 1)


def of_family(family: str, networks: list[Network], **fields: Any) -> list[Network]:
    """The networks as those of a family."""
    return [replace(network, family=family, **fields) for network in networks]
