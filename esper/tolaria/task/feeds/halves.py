"""What of a loader's batch a model takes, and what its loss is computed from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from esper.kasmina.executor.passes.batches import Batch, leaves
from esper.leyline import TaskType

TOKENS_DIMS = 2


def halves_for(model: nn.Module, batch: Any) -> Batch:
    """Inputs and targets: a pair's two, of a mapping what the forward takes and all of it, else the batch twice."""
    if isinstance(batch, Mapping):
        return _taken_by(model, batch), batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, batch


def is_pair(batch: Any) -> bool:
    """Whether a batch is a tensor of samples with a tensor of targets."""
    is_two = isinstance(batch, (tuple, list)) and len(batch) == 2
    return is_two and all(isinstance(part, Tensor) and part.ndim > 0 for part in batch)


def task_told_by(inputs: Any) -> TaskType:
    """A language model where rows of whole numbers go in, so that no seed looks ahead; else a regression of losses."""
    first = next(leaves(inputs), None)
    is_text = first is not None and first.ndim == TOKENS_DIMS and not first.is_floating_point()
    return TaskType.TASK_TYPE_LANGUAGE_MODEL if is_text else TaskType.TASK_TYPE_REGRESSION


def _taken_by(model: nn.Module, batch: Mapping[Any, Any]) -> Any:
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_any or not any(name in parameters for name in batch):
        return batch
    return {name: value for name, value in batch.items() if name in parameters}
