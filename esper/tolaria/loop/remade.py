"""A step that ran out of memory and is to be made again: what it had changed by then is put back.

A step that fails in its forward or backward pass has changed buffers at most, such as a BatchNorm's statistics; one
that fails inside the optimiser may have changed weights, and is not to be made again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from esper.kasmina.executor import TrainingArm

LIMIT_BYTES = 64 * 2**20


class Remade:
    """Watches one step after the other of one arm, and waits for nothing that the device does.

    All buffers are copied before each, up to a limit. Neither a BatchNorm's kernels nor fused optimisers count
    versions, which would tell for less what has changed.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._watching: RemovableHandle | None = None
        self._is_lost = False

    def begin(self, arm: TrainingArm) -> None:
        """Before a step."""
        self.end()
        self._watching = arm.optimizer.register_step_pre_hook(self._note_update)
        buffers = [buffer for module in arm.modules for buffer in module.buffers() if not buffer.is_inference()]
        self._is_lost = sum(buffer.nbytes for buffer in buffers) > self._limit_bytes
        self._buffers = [] if self._is_lost else [(buffer, buffer.detach().clone()) for buffer in buffers]

    def end(self) -> None:
        """After it."""
        self._buffers = []
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def restore(self) -> bool:
        """After one that failed: False if what it may have changed can't be put back."""
        with torch.no_grad():
            for buffer, content in self._buffers:
                buffer.copy_(content)
        self.end()
        return not self._is_lost

    def _note_update(self, *_: Any) -> None:
        self._is_lost = True
