"""What a run's summary needs of its past: seeds, commands, failures. Part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper.core.enums import short_name
from esper.core.growth import no_growth
from esper.kasmina.executor.collected import MemoryNote
from esper.kasmina.executor.twin import ENDED
from esper.leyline import (
    CommandOutcome,
    CoverageSummary,
    GateEvidence,
    GrowthState,
    PolicyMetadata,
    RejectionReason,
    SeedState,
)
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.record.stack_judgement import with_look

OPERATOR = "operator:"
_ACCEPTED = "accepted"


@dataclass(slots=True)
class History:
    """Seeds and growth as Kasmina last told, every command with its outcome, every cause of doubt."""

    seeds: dict[str, SeedState] = field(default_factory=dict)
    growth: GrowthState = field(default_factory=no_growth)
    commands: dict[str, list[str]] = field(default_factory=dict)
    """By command id, what became of it: nothing yet, one outcome, or several where it was sent more than once."""
    timeouts: int = 0
    failures: int = 0
    causes: list[str] = field(default_factory=list)
    rollbacks: int = 0
    slowdowns: int = 0
    """Rollbacks that lowered the learning rate."""
    failed_steps: list[int] = field(default_factory=list)
    """Steps whose loss could not be used, as often as they were tried."""
    passed_over: list[int] = field(default_factory=list)
    """Steps that are made with an earlier batch than their own."""
    policy: str | None = None
    """Id and version of the policy that decides."""
    policy_digest: str | None = None
    """What pins it: equal digests decide alike."""
    inputs: str | None = None
    """What its decisions rest on."""
    twins: list[dict[str, Any]] = field(default_factory=list)
    """For each twin how it made its steps and why, with predicted, free and measured bytes; refused ones too."""
    unjudged: list[str] = field(default_factory=list)
    """Seeds that were in the network when growth ended, without a judgement and without a twin to go back to."""
    unfolded: dict[str, str] = field(default_factory=dict)
    """Why a kept seed stays a module beside its layers, by seed."""
    looks: dict[str, list[GateEvidence]] = field(default_factory=dict)
    """Looks of a stack's judge by seed, in order."""

    def note_memory(self, note: MemoryNote) -> None:
        """What was decided or measured of a twin; measured is the last one of its seed."""
        told = {"step": note.step, "mode": note.mode, "why": note.why, **note.figures}
        known = [twin for twin in self.twins if twin["seed_id"] == note.seed_id]
        if note.mode == ENDED and known:
            known[-1] |= {"ended_step": note.step, **note.figures}
        elif known and note.mode != ENDED:
            # The same twin under another mode: what it began with stands beside what became of it.
            known[-1] |= {"became": note.mode, "became_step": note.step, "became_why": note.why}
        else:
            self.twins.append({"seed_id": note.seed_id, **told})

    def note(self, result: PacketResult) -> None:
        """Take one packet's result."""
        if result.decision is not None:
            self._note_policy(result.decision.metadata.policy)
            self._note_inputs(result.decision.metadata.coverage)
            for command_id in result.decision.command_ids:
                self.commands.setdefault(command_id, [])
        for outcome in result.outcomes:
            self._note_outcome(outcome)
        for look in (gate for gate in result.gates if gate.HasField("stack")):
            self.looks[look.seed_id] = with_look(self.looks.get(look.seed_id, ()), look)
        if result.seeds is not None:
            self.seeds = {seed.seed_id: seed for seed in result.seeds}
        if result.growth is not None:
            self.growth = result.growth
        if result.failure is not None:
            self.failures += 1
            self.timeouts += result.is_timeout
            self.doubt(result.reason or result.failure)

    def _note_outcome(self, outcome: CommandOutcome) -> None:
        name = _ACCEPTED if outcome.accepted else short_name(RejectionReason, outcome.rejection).lower()
        fates = self.commands.setdefault(outcome.command_id, [])
        if name not in fates:
            fates.append(name)
        if outcome.accepted and outcome.issued_by.startswith(OPERATOR):
            self.doubt(f"{outcome.issued_by} gave command {outcome.command_id}")

    def _note_policy(self, policy: PolicyMetadata) -> None:
        now = f"{policy.policy_id} {policy.version}"
        if self.policy not in (None, now):
            self.doubt(f"policy {self.policy} gave way to {now}")
        self.policy = now

    def _note_inputs(self, coverage: CoverageSummary) -> None:
        if self.inputs not in (None, coverage.provenance):
            self.doubt(f"decisions rested on the inputs {self.inputs}, now they rest on {coverage.provenance}")
        self.inputs = coverage.provenance

    def pin_policy(self, digest: str | None) -> None:
        """The run is opened, or opened again, under this policy."""
        if self.policy_digest not in (None, digest):
            self.doubt(f"the policy changed: its digest was {self.policy_digest}, now it is {digest}")
        self.policy_digest = digest

    def doubt(self, cause: str) -> None:
        """Note why the run can't be reproduced from its seed. Raises ValueError for no words: nobody could tell it."""
        if not cause.strip():
            raise ValueError("a doubt of a run needs a cause in words")
        if cause not in self.causes:
            self.causes.append(cause)

    def command_counts(self) -> dict[str, Any]:
        """Commands issued, accepted and rejected by reason."""
        outcomes = [name for fates in self.commands.values() for name in fates]
        pending = sum(not fates for fates in self.commands.values())
        reasons = sorted(set(outcomes) - {_ACCEPTED})
        return {
            "issued": len(outcomes) + pending,
            "accepted": outcomes.count(_ACCEPTED),
            "rejected": {reason: outcomes.count(reason) for reason in reasons},
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seeds": [seed.SerializeToString(deterministic=True).hex() for seed in self.seeds.values()],
            "growth": self.growth.SerializeToString(deterministic=True).hex(),
            "commands": {command_id: list(fates) for command_id, fates in self.commands.items()},
            "timeouts": self.timeouts,
            "failures": self.failures,
            "causes": list(self.causes),
            "rollbacks": self.rollbacks,
            "slowdowns": self.slowdowns,
            "failed_steps": list(self.failed_steps),
            "passed_over": list(self.passed_over),
            "policy": self.policy,
            "policy_digest": self.policy_digest,
            "inputs": self.inputs,
            "unjudged": list(self.unjudged),
            "unfolded": dict(self.unfolded),
            "twins": [dict(twin) for twin in self.twins],
            "looks": [
                look.SerializeToString(deterministic=True).hex() for found in self.looks.values() for look in found
            ],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Read back what `state_dict` gave."""
        seeds = [SeedState.FromString(bytes.fromhex(text)) for text in state["seeds"]]
        looks: dict[str, list[GateEvidence]] = {}
        for look in (GateEvidence.FromString(bytes.fromhex(text)) for text in state.get("looks", ())):
            looks.setdefault(look.seed_id, []).append(look)
        return cls(
            seeds={seed.seed_id: seed for seed in seeds},
            growth=GrowthState.FromString(bytes.fromhex(state["growth"])),
            commands={command_id: list(fates) for command_id, fates in state["commands"].items()},
            timeouts=state["timeouts"],
            failures=state["failures"],
            causes=list(state["causes"]),
            rollbacks=state["rollbacks"],
            slowdowns=state.get("slowdowns", 0),
            failed_steps=list(state.get("failed_steps", ())),
            passed_over=list(state.get("passed_over", ())),
            policy=state["policy"],
            policy_digest=state["policy_digest"],
            inputs=state.get("inputs"),
            unjudged=list(state.get("unjudged", ())),
            unfolded=dict(state.get("unfolded", {})),
            twins=[dict(twin) for twin in state.get("twins", ())],
            looks=looks,
        )
