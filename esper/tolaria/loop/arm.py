"""What a step needs of whatever it trains, and what it trains on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from esper.kasmina.executor.passes.batches import Batch as Batch


class Arm(Protocol):
    """What a step needs of a training arm."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def scaler(self) -> torch.amp.GradScaler | None: ...
