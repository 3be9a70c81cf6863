"""Learning rates in device memory, where a recorded optimiser reads them: a new rate needs no new graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


class Rates:
    """One 0-d float32 tensor for each group of an optimiser; outside a recording its groups hold plain numbers."""

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._values = [float(group["lr"]) for group in optimizer.param_groups]
        self._tensors: list[Tensor] = [
            torch.full((), value, dtype=torch.float32, device=device) for value in self._values
        ]

    def refresh(self) -> None:
        """Write the rates of now."""
        for index, group in enumerate(self._optimizer.param_groups):
            if group["lr"] != self._values[index]:
                self._values[index] = group["lr"]
                self._tensors[index].fill_(group["lr"])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The optimiser's groups hold the tensors inside."""
        groups = self._optimizer.param_groups
        before = [group["lr"] for group in groups]
        try:
            for group, tensor in zip(groups, self._tensors, strict=True):
                group["lr"] = tensor
            yield
        finally:
            for group, value in zip(groups, before, strict=True):
                group["lr"] = value
