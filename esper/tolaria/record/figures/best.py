"""The best epoch of a run by its validation loss, and how long none has gained; part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any


@dataclass(slots=True)
class Best:
    """Epochs in which a judgement is in flight are none of these: what they measure may be undone."""

    loss: float = inf
    accuracy: float | None = None
    epoch: int = 0
    step: int = 0
    gained_loss: float = inf
    """Of the last epoch that gained enough to begin the waiting anew."""
    idle_epochs: int = 0
    """Epochs since then."""
    network: dict[str, Any] | None = None
    """The network of then, where it is kept."""

    @property
    def is_there(self) -> bool:
        """Whether any epoch counted."""
        return self.epoch > 0

    def note(self, loss: float, accuracy: float | None, *, epoch: int, step: int, min_delta: float) -> bool:
        """Take one more epoch; whether it is the best."""
        has_gained = loss < self.gained_loss - min_delta
        self.idle_epochs = 0 if has_gained else self.idle_epochs + 1
        if has_gained:
            self.gained_loss = loss
        if not loss < self.loss:
            return False
        self.loss, self.accuracy, self.epoch, self.step = loss, accuracy, epoch, step
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and the network's tensors."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Best:
        """Read back what `state_dict` gave."""
        return cls(**state)
