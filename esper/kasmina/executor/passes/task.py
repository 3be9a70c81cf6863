"""What the executor must know of the task that the host learns; the trainer gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from esper.kasmina.executor.passes.batches import Batch, called
from esper.leyline import TaskType


class Task(Protocol):
    """Losses, bounded scores, and data that serve growth alone."""

    @property
    def type(self) -> TaskType:
        """Kind of task; a language model's seeds must not look ahead."""

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs."""
        return called(model, inputs)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean training loss of a batch."""

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """One bounded score for each sample, lower is better: [n]."""

    def clipped_scores(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """The same scores, and the share of each sample's tokens whose loss was clipped: [n], [n]."""

    @property
    def judge_documents(self) -> Tensor | None:
        """The document that each judging sample is of, on the CPU: [n]; None where samples are independent."""

    def judge_batches(self) -> Iterable[Batch]:
        """The judging data in a fixed order, on the model's device."""

    def over_judging(self, measure: Callable[[Batch], Tensor]) -> list[Tensor]:
        """What `measure` makes of each judging batch, in order: float64 [any] each; processes may share the batches."""

    def over_judging_rows(self, measure: Callable[[Batch], Tensor], rows: Tensor) -> list[Tensor]:
        """The same of the named rows alone [n]; asked only where there are documents, scored in parts."""

    def probe_inputs(self) -> Any:
        """A small batch that shows shapes and checks grafts, on the model's device."""
