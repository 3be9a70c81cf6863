"""What a run's summary needs of its past: seeds, commands, failures. Part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper.core.enums import short_name
from esper.leyline import GrowthState, RejectionReason, SeedState
from esper.tolaria.null_control import no_growth
from esper.tolaria.packet_result import TIMEOUT, PacketResult

_PENDING = "pending"
_ACCEPTED = "accepted"


@dataclass(slots=True)
class History:
    """Seeds and growth as Kasmina last told, every command with its outcome, every cause of doubt."""

    seeds: dict[str, SeedState] = field(default_factory=dict)
    growth: GrowthState = field(default_factory=no_growth)
    commands: dict[str, str] = field(default_factory=dict)
    timeouts: int = 0
    failures: int = 0
    causes: list[str] = field(default_factory=list)
    rollbacks: int = 0

    def note(self, result: PacketResult) -> None:
        """Take one packet's result."""
        if result.decision is not None:
            for command_id in result.decision.command_ids:
                self.commands.setdefault(command_id, _PENDING)
        for outcome in result.outcomes:
            name = short_name(RejectionReason, outcome.rejection).lower()
            self.commands[outcome.command_id] = _ACCEPTED if outcome.accepted else name
        if result.seeds is not None:
            self.seeds = {seed.seed_id: seed for seed in result.seeds}
        if result.growth is not None:
            self.growth = result.growth
        if result.failure is not None:
            self.failures += 1
            self.timeouts += result.cause == TIMEOUT
            self.doubt(result.reason or result.failure)

    def doubt(self, cause: str) -> None:
        """Note why the run can't be reproduced from its seed."""
        if cause not in self.causes:
            self.causes.append(cause)

    def command_counts(self) -> dict[str, Any]:
        """Commands issued, accepted and rejected by reason."""
        outcomes = list(self.commands.values())
        reasons = sorted(set(outcomes) - {_PENDING, _ACCEPTED})
        return {
            "issued": len(outcomes),
            "accepted": outcomes.count(_ACCEPTED),
            "rejected": {reason: outcomes.count(reason) for reason in reasons},
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seeds": [seed.SerializeToString(deterministic=True).hex() for seed in self.seeds.values()],
            "growth": self.growth.SerializeToString(deterministic=True).hex(),
            "commands": dict(self.commands),
            "timeouts": self.timeouts,
            "failures": self.failures,
            "causes": list(self.causes),
            "rollbacks": self.rollbacks,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Read back what `state_dict` gave."""
        seeds = [SeedState.FromString(bytes.fromhex(text)) for text in state["seeds"]]
        return cls(
            seeds={seed.seed_id: seed for seed in seeds},
            growth=GrowthState.FromString(bytes.fromhex(state["growth"])),
            commands=dict(state["commands"]),
            timeouts=state["timeouts"],
            failures=state["failures"],
            causes=list(state["causes"]),
            rollbacks=state["rollbacks"],
        )
