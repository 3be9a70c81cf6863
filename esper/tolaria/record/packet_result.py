"""What one packet caused: the decision on it, the outcomes of its commands, Kasmina's directives.

A result is a value; it can be written into a checkpoint and read back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.leyline import (
    AdvanceResponse,
    CommandOutcome,
    Decision,
    GateEvidence,
    GrowthState,
    RunStateBlob,
    SeedDirective,
    SeedState,
    StageTransition,
)

TIMEOUT = "timeout"
"""What the cause of a missed deadline ends with; before it stands whose deadline it was."""
# The second half of a cause such as "tamiyo_unavailable", in words for people.
REASONS = {
    "unavailable": "can't be reached",
    "refused": "refused a call",
    "invalid": "gave an answer that can't be used",
    "broken": "broke off",
}
BROKEN_OFF = "the control worker_broken"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStates:
    """State of both services after a packet, for a checkpoint."""

    kasmina: RunStateBlob
    tamiyo: RunStateBlob


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """How the services were to talk to since the last result."""

    missed: tuple[str, ...] = ()
    """Services whose deadline was missed, once for each miss."""
    last_ms: Mapping[str, float] = field(default_factory=dict)
    """Time of each service's last call, 0 where it missed its deadline, milliseconds."""
    breakers: Mapping[str, int] = field(default_factory=dict)
    """Each service's breaker, as the number in CircuitState."""
    worker: Mapping[str, int] = field(default_factory=dict)
    """The control worker's calls since the run was opened, by what became of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketResult:
    """What packet `packet_index` caused; `failure` says why a part of it is missing, `cause` in one word."""

    packet_index: int
    directives: tuple[SeedDirective, ...] = ()
    outcomes: tuple[CommandOutcome, ...] = ()
    transitions: tuple[StageTransition, ...] = ()
    gates: tuple[GateEvidence, ...] = ()
    seeds: tuple[SeedState, ...] | None = None
    growth: GrowthState | None = None
    decision: Decision | None = None
    failure: str | None = None
    cause: str | None = None
    states: RunStates | None = field(default=None, compare=False)
    calls: Calls | None = field(default=None, compare=False)

    @property
    def reason(self) -> str | None:
        """The failure in a few words, the same for each failure of its kind; `failure` has the details."""
        service, _, kind = (self.cause or "").rpartition("_")
        if kind == TIMEOUT:
            return f"{service or 'an answer'} missed its deadline"
        return f"{service} {REASONS[kind]}" if kind in REASONS else self.failure

    @property
    def is_timeout(self) -> bool:
        """Whether a deadline was missed."""
        return (self.cause or "").endswith(TIMEOUT)

    @property
    def is_invalid(self) -> bool:
        """Whether a service's answer was refused."""
        return (self.cause or "").endswith("_invalid")

    def to_bytes(self) -> bytes:
        """Serialize everything but the service states, which a checkpoint keeps apart."""
        decision = self.decision
        answer = AdvanceResponse(
            directives=self.directives,
            outcomes=self.outcomes,
            transitions=self.transitions,
            gates=self.gates,
            seeds=self.seeds or (),
            growth=self.growth,
        )
        return json.dumps(
            {
                "packet_index": self.packet_index,
                "answer": answer.SerializeToString(deterministic=True).hex(),
                "has_seeds": self.seeds is not None,
                "decision": None if decision is None else decision.SerializeToString(deterministic=True).hex(),
                "failure": self.failure,
                "cause": self.cause,
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> PacketResult:
        """Read back what `to_bytes` wrote."""
        fields = json.loads(data)
        answer = AdvanceResponse.FromString(bytes.fromhex(fields["answer"]))
        decision = fields["decision"]
        return cls(
            packet_index=fields["packet_index"],
            directives=tuple(answer.directives),
            outcomes=tuple(answer.outcomes),
            transitions=tuple(answer.transitions),
            gates=tuple(answer.gates),
            seeds=tuple(answer.seeds) if fields["has_seeds"] else None,
            growth=answer.growth if answer.HasField("growth") else None,
            decision=None if decision is None else Decision.FromString(bytes.fromhex(decision)),
            failure=fields["failure"],
            cause=fields["cause"],
        )


def merged(late: PacketResult, now: PacketResult) -> PacketResult:
    """Join a late result's consequences with the next packet's: the older ones first, the newer states win."""
    return PacketResult(
        packet_index=now.packet_index,
        directives=late.directives + now.directives,
        outcomes=late.outcomes + now.outcomes,
        transitions=late.transitions + now.transitions,
        gates=late.gates + now.gates,
        seeds=now.seeds if now.seeds is not None else late.seeds,
        growth=now.growth if now.growth is not None else late.growth,
        decision=now.decision,
        failure=now.failure,
        cause=now.cause,
        states=now.states,
        calls=now.calls,
    )
