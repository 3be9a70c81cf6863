"""What a script hands over as objects, where the settings would name it: network, data, optimiser, schedule, loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.feeds.feed import Feed


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Each part that is None is made as the settings say."""

    model: nn.Module | None = None
    splits: Callable[[TrainConfig], Splits] | None = None
    """Sets that are held in memory."""
    feed: Feed | None = None
    """Batches that somebody else makes; in place of `splits`."""
    optimizer: Any = None
    """An optimiser over the model's parameters, or what makes one of them."""
    scheduler: Any = None
    """One of torch's over that optimiser, or what makes one of it; a step is its unit."""
    loss: Callable[..., Any] | None = None
    metric: Callable[..., Any] | None = None


NOTHING = Given()
