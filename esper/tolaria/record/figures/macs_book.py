"""What a run has cost in multiply-accumulates, by what it was spent on. Growth pays for its twins and its judging."""

from __future__ import annotations

from dataclasses import dataclass, fields

from esper.kasmina.executor.judge.macs import MacCount


@dataclass(slots=True)
class MacsBook:
    """Training multiply-accumulates so far."""

    main: int = 0
    """Steps of the network itself, grafted seeds included."""
    twin: int = 0
    """Steps of never-grafted twins."""
    side: int = 0
    """Incubation, probes and judging passes."""
    undone: int = 0
    """Work that a rollback threw away."""

    @property
    def total(self) -> int:
        """Everything."""
        return self.main + self.twin + self.side + self.undone

    def step(self, samples: int, main: MacCount, twin: MacCount) -> None:
        """Book one step over so many samples; a twin that isn't there costs nothing."""
        self.main += samples * main.training
        self.twin += samples * twin.training

    def state_dict(self) -> dict[str, int]:
        """The entries."""
        return {name: getattr(self, name) for name in ENTRIES}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from saved entries."""
        for name, value in state.items():
            setattr(self, name, int(value))


# At every boundary: a recursive copy of whole numbers would cost more than all the booking.
ENTRIES = tuple(entry.name for entry in fields(MacsBook))
