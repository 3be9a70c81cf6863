"""What the executor must know of the task that the host learns; the trainer gives it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

from esper.leyline import TaskType


class Task(Protocol):
    """Losses, bounded scores, and data that serve growth alone."""

    @property
    def type(self) -> TaskType:
        """Kind of task; a language model's seeds must not look ahead."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Mean training loss of a batch."""

    def scores(self, outputs: Any, targets: Tensor) -> Tensor:
        """One bounded score for each sample, lower is better: [n]."""

    def clipped_scores(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same scores, and the share of each sample's tokens whose loss was clipped: [n], [n]."""

    @property
    def judge_documents(self) -> Tensor | None:
        """The document that each judging sample is of, on the CPU: [n]; None where samples are independent."""

    def judge_batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The judging data in a fixed order, on the model's device."""

    def probe_inputs(self) -> Tensor:
        """A small batch that shows shapes and checks grafts, on the model's device."""
