"""What changes while a run trains, apart from weights: position, signals, costs, history. Saved as plain values."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

from esper.tolaria.record.divergence import Divergence
from esper.tolaria.record.figures.best import Best
from esper.tolaria.record.figures.gradients import GradientWatch
from esper.tolaria.record.figures.macs_book import MacsBook
from esper.tolaria.record.growth_reason import GrowthReason
from esper.tolaria.record.history import History
from esper.tolaria.record.mode import RunMode
from esper.tolaria.record.observer import StepDone
from esper.tolaria.record.signals import Signals


@dataclass(slots=True)
class EpochMeter:
    """Sums over an epoch's steps and boundaries."""

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    boundaries: int = 0
    hook_ms: float = 0.0
    """Own work at boundaries, without waiting and directives."""
    surgeries: int = 0
    """Steps with several sources."""
    conflict_rates: float = 0.0
    conflicts: float = 0.0

    def add(self, done: StepDone) -> None:
        """Take one more step."""
        self.steps += 1
        self.loss += done.loss
        self.accuracy += done.accuracy or 0.0
        if done.conflict_rate is not None:
            self.surgeries += 1
            self.conflict_rates += done.conflict_rate
            self.conflicts += done.conflict_rate * done.pairs

    def add_boundary(self, hook_ms: float) -> None:
        """Take one more boundary."""
        self.boundaries += 1
        self.hook_ms += hook_ms


@dataclass(slots=True)
class Progress:
    """The run's mutable state beside the executor's."""

    signals: Signals
    step: int = 0
    generation: int = 1
    macs: MacsBook = field(default_factory=MacsBook)
    history: History = field(default_factory=History)
    mode: RunMode = field(default_factory=RunMode)
    reason: GrowthReason = field(default_factory=GrowthReason)
    meter: EpochMeter = field(default_factory=EpochMeter)
    best: Best = field(default_factory=Best)
    divergence: Divergence = field(default_factory=Divergence)
    gradients: GradientWatch = field(default_factory=GradientWatch)
    steady_step: int = 0
    """Last boundary at which the loss was not about to diverge."""

    @property
    def proven_step(self) -> int:
        """Newest state whose weights have given a loss that could be used."""
        return self.signals.loss.count - 1

    def note_loss(self, done: StepDone) -> None:
        """Take one more step's figures."""
        self.signals.add(done)
        self.divergence.note(self.signals.loss)
        self.meter.add(done)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "step": self.step,
            "generation": self.generation,
            "signals": self.signals.state_dict(),
            "macs": self.macs.state_dict(),
            "history": self.history.state_dict(),
            "mode": self.mode.state_dict(),
            "reason": self.reason.state_dict(),
            "best": self.best.state_dict(),
            "divergence": self.divergence.state_dict(),
            "steady_step": self.steady_step,
            "meter": list(astuple(self.meter)),
            "gradients": self.gradients.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the generation is for the opener to choose."""
        self.step = int(state["step"])
        self.signals.load_state_dict(state["signals"])
        self.macs.load_state_dict(state["macs"])
        self.history = History.from_state(state["history"])
        self.mode.load_state_dict(state["mode"])
        self.reason.load_state_dict(state["reason"])
        self.best = Best.from_state(state.get("best", {}))
        self.divergence = Divergence(**state.get("divergence", {}))
        self.steady_step = int(state.get("steady_step", 0))
        self.meter = EpochMeter(*state["meter"])
        self.gradients = GradientWatch(**state.get("gradients", {}))
