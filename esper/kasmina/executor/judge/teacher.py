"""A teacher: a trained network from which incubating seeds learn beside the task (Hinton 2015, arXiv 1503.02531).

Only shadow passes ask it. The host is frozen there, so what a seed learns from it is what the host alone lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.digest import digest_of
from esper.kasmina.executor.passes.batches import logits_in
from esper.kasmina.executor.passes.task import Task
from esper.leyline import TaskType

TEMPERATURE = 2.0
SHARE = 0.5
"""Of the teacher in an incubating seed's loss; the task has the rest."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network in eval mode, on the host's device, whose logits have the host's shape."""

    module: nn.Module

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.module.state_dict().items() if isinstance(value, Tensor)}

    @property
    def digest(self) -> str:
        """SHA-256 over its weights and buffers."""
        return digest_of(self.tensors)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def logits(self, task: Task, inputs: Any) -> Tensor:
        """What it says of a batch, without gradients."""
        with torch.no_grad():
            found = logits_in(task.forward(self.module, inputs))
        if not isinstance(found, Tensor):
            raise GraftFailed(f"the teacher gives {type(found).__name__}, expected logits")
        return found

    def divergence(self, task: Task, inputs: Any, outputs: Any) -> Tensor:
        """Kullback-Leibler divergence of the outputs from the teacher's, both softened, times the temperature squared.

        Mean over samples, and over their positions where they have any; float32 and 0-d.
        """
        student = logits_in(outputs)
        classes = -1 if task.type == TaskType.TASK_TYPE_LANGUAGE_MODEL else 1
        taught, said = (
            (logits.float() / TEMPERATURE).log_softmax(classes).movedim(classes, -1).flatten(0, -2)
            for logits in (self.logits(task, inputs), student)
        )
        return F.kl_div(said, taught, reduction="batchmean", log_target=True) * TEMPERATURE**2
