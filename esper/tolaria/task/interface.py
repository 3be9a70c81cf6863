"""What a network takes and gives, without a byte of the data: enough to build it again and to show it inputs.

It stands in every checkpoint, so that a network can be exported where its data is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from esper.core.enums import short_name
from esper.core.errors import DependencyViolationError
from esper.kasmina.executor.passes.batches import Batch, called
from esper.leyline import TaskType
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.inputs.normalize import Scaling
from esper.tolaria.task.randomness import generator

PROBE_ROWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """Shapes are those of one sample; `low` and `high` bound inputs that are whole numbers."""

    sample_shape: tuple[int, ...]
    """As the network takes it."""
    source_shape: tuple[int, ...]
    """As the data source gives it."""
    dtype: str
    low: int | None
    high: int | None
    outputs: int
    task: str
    mean: tuple[float, ...] | None = None
    """Of each feature or channel of `source_shape`, where inputs are normalised."""
    deviation: tuple[float, ...] | None = None
    transform: str | None = None
    """What made the inputs of those that the data source gives, before they are normalised."""

    def to_state(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Interface:
        """Read back what `to_state` gave."""
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in state.items()}
        return cls(**values)

    def inputs(self, rows: int) -> Tensor:
        """Inputs that nobody has seen: [rows, *sample_shape], always the same for a number of rows."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        shape, draws = (rows, *self.sample_shape), generator(0, "shown inputs", rows)
        if self.low is None or self.high is None:
            return torch.randn(shape, generator=draws).to(dtype)
        return torch.randint(self.low, self.high + 1, shape, generator=draws).to(dtype)

    def scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of each value of a sample, as the network takes it; None where inputs stay as they are."""
        if self.mean is None or self.deviation is None:
            return None
        parts = Scaling(mean=self.mean, deviation=self.deviation).of_sample(self.source_shape)
        mean, deviation = (part.reshape(self.sample_shape).to(getattr(torch, self.dtype)) for part in parts)
        return mean, deviation

    def normalized(self, inputs: Tensor) -> Tensor:
        """Inputs as the network itself takes them."""
        scale = self.scale()
        return inputs if scale is None else (inputs - scale[0]) / scale[1]

    def described(self) -> str:
        """Inputs in words, e.g. "float32 [rows, 64] (samples of 1 x 8 x 8, reshaped)"."""
        text = f"{self.dtype} [{', '.join(map(str, ('rows', *self.sample_shape)))}]"
        if self.low is not None:
            text += f", whole numbers {self.low} to {self.high}"
        if self.source_shape != self.sample_shape:
            text += f" (samples of {' x '.join(map(str, self.source_shape))}, reshaped)"
        return text if self.transform is None else f"{text} as {self.transform} gives them"


def interface_of(
    given: Splits, fitted: Splits, scaling: Scaling | None = None, transform: str | None = None
) -> Interface:
    """Of the data as it came and as the network takes it."""
    inputs = fitted.train.inputs
    is_counted = not (inputs.is_floating_point() or inputs.is_complex())
    lows = [int(split.inputs.min()) for _, split in fitted.named()] if is_counted else []
    highs = [int(split.inputs.max()) for _, split in fitted.named()] if is_counted else []
    return Interface(
        sample_shape=fitted.sample_shape,
        source_shape=given.sample_shape,
        dtype=str(inputs.dtype).removeprefix("torch."),
        low=min(lows, default=None),
        high=max(highs, default=None),
        outputs=fitted.outputs,
        task=short_name(TaskType, fitted.task),
        mean=None if scaling is None else scaling.mean,
        deviation=None if scaling is None else scaling.deviation,
        transform=transform,
    )


class Shown:
    """The task of a network that is only looked at: inputs to show it, nothing to train or to judge it by."""

    def __init__(self, interface: Interface) -> None:
        self.type: TaskType = TaskType.Value(f"TASK_TYPE_{interface.task}")  # type: ignore[assignment]
        self.judge_documents = None
        self._inputs = interface.inputs(PROBE_ROWS)

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs."""
        return called(model, inputs)

    def probe_inputs(self) -> Tensor:
        """A few inputs, always the same."""
        return self._inputs

    def judge_batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        self._refuse()

    def over_judging(self, measure: Callable[[Batch], Tensor]) -> list[Tensor]:
        self._refuse()

    def over_judging_rows(self, measure: Callable[[Batch], Tensor], rows: Tensor) -> list[Tensor]:
        self._refuse()

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        self._refuse()

    def scores(self, outputs: Any, targets: Tensor) -> Tensor:
        self._refuse()

    def clipped_scores(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DependencyViolationError("tolaria", "data", "targets", "a network without its data can only be looked at")
