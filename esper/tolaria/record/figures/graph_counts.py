"""What became of the steps of a run with CUDA graphs: replayed, recorded first, or made eagerly and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from esper.core.counted import counted


@dataclass(slots=True)
class GraphCounts:
    """Of both arms' steps."""

    replays: int = 0
    """Steps that a graph made, the one that it was captured for included."""
    measured_replays: int = 0
    """Those of them that also measured seeds."""
    capture_ms: list[float] = field(default_factory=list)
    """What each capture took on the training thread, in order."""
    eager: Counter[str] = field(default_factory=Counter)
    """Steps made without a graph, by reason."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """Times that a network was given up on, by reason; it is tried anew when it has changed."""
    steps_optimizer: bool = True
    """Whether the optimiser's step is part of the last graph."""
    pool_bytes: int = 0
    """The most memory that graphs have held for themselves."""

    @property
    def captures(self) -> int:
        """Graphs made."""
        return len(self.capture_ms)

    def as_entry(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "captures": self.captures,
            "replays": self.replays,
            "measured_replays": self.measured_replays,
            "eager": dict(sorted(self.eager.items())),
            "fallbacks": dict(sorted(self.fallbacks.items())),
            "first_capture_ms": self.capture_ms[0] if self.capture_ms else None,
            "longest_capture_ms": max(self.capture_ms, default=None),
            "optimizer": "in the graph" if self.steps_optimizer else "eager",
            "pool_bytes": self.pool_bytes,
        }

    def in_words(self) -> str:
        """As a line."""
        eager = ", ".join(f"{count} {reason}" for reason, count in sorted(self.eager.items()))
        fallen = ", ".join(f"{count} {reason}" for reason, count in sorted(self.fallbacks.items()))
        line = f"graphs: {self.captures} captured, {counted(self.replays, 'step')} replayed"
        return f"{line}, eager: {eager or 'none'}; fallbacks: {fallen or 'none'}"
