"""A step that ran out of memory and is to be made again: what it had changed by then is put back.

A step that fails in its forward or backward pass has changed buffers at most, such as a BatchNorm's statistics; one
that fails inside the optimiser may have changed weights, and is not to be made again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from esper.kasmina.executor import TrainingArm


class Remade:
    """Watches one step after the other of one arm."""

    def __init__(self) -> None:
        self._calm = WeakIdKeyDictionary()
        self._restless = WeakIdKeyDictionary()
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._watching: RemovableHandle | None = None
        self._has_updated = False

    def begin(self, arm: TrainingArm) -> None:
        """Before a step: copy the buffers that steps change; after a first one it is known which these are.

        Neither a BatchNorm's kernels nor fused optimisers count versions, which would tell it for less.
        """
        self.end(is_whole=False)
        self._has_updated = False
        self._watching = arm.optimizer.register_step_pre_hook(self._note_update)
        buffers = [buffer for module in arm.modules for buffer in module.buffers() if not buffer.is_inference()]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in buffers if buffer not in self._calm]

    def end(self, *, is_whole: bool = True) -> None:
        """After it: buffers that it left alone are not copied again."""
        for buffer, content in self._buffers if is_whole else ():
            if buffer not in self._restless:
                known = self._calm if torch.equal(buffer, content) else self._restless
                known[buffer] = True
        self._buffers = []
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def restore(self) -> bool:
        """After one that failed: False if weights may have changed."""
        with torch.no_grad():
            for buffer, content in self._buffers:
                buffer.copy_(content)
        self.end(is_whole=False)
        return not self._has_updated

    def _note_update(self, *_: Any) -> None:
        self._has_updated = True
