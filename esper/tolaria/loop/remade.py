"""A step that ran out of memory and is to be made again: what it had changed by then is put back.

A step that fails in its forward or backward pass has changed buffers at most, such as a BatchNorm's statistics; one
that fails inside the optimiser has changed weights, and is not to be made again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from esper.kasmina.executor import TrainingArm


class Remade:
    """Watches one step after the other of one arm."""

    def __init__(self) -> None:
        self._calm = WeakIdKeyDictionary()
        self._parameters: list[tuple[Tensor, int]] = []
        self._buffers: list[tuple[Tensor, int, Tensor]] = []

    def begin(self, arm: TrainingArm) -> None:
        """Before a step: note versions, and copy the buffers that steps may change."""
        self._parameters = [(p, p._version) for module in arm.modules for p in module.parameters()]
        there = [buffer for module in arm.modules for buffer in module.buffers() if not buffer.is_inference()]
        self._buffers = [(b, b._version, b.detach().clone()) for b in there if b not in self._calm]

    def end(self) -> None:
        """After it: buffers that it left alone are not copied again."""
        for buffer, version, _ in self._buffers:
            if buffer._version == version:
                self._calm[buffer] = True
        self._parameters, self._buffers = [], []

    def restore(self) -> bool:
        """After one that failed: False if weights have changed."""
        if any(parameter._version != version for parameter, version in self._parameters):
            return False
        with torch.no_grad():
            for buffer, version, content in self._buffers:
                if buffer._version != version:
                    buffer.copy_(content)
        self._parameters, self._buffers = [], []
        return True
