"""A turn: one unit of work on a run, against a working copy of its state.

Handlers read and change the copy through here and leave behind what follows: directives, stage moves, gate
evidence, notices for telemetry. Nothing takes effect until the caller stores the copy; a turn that is refused is
simply dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.core.telemetry import AttributeValue, EventSpec
from esper.kasmina.control.stages import lifecycle
from esper.kasmina.control.stages.gates import SeedTraits
from esper.leyline import (
    Blueprint,
    DirectiveKind,
    GateEvidence,
    GateVerdict,
    HealthStatus,
    IncubationMode,
    JudgeMode,
    KasminaRunSpec,
    KasminaRunState,
    LifeSettings,
    RejectionReason,
    SeedDirective,
    SeedGate,
    SeedRecord,
    SeedStage,
    SlotSignal,
    SlotSpec,
    StageTransition,
)
from esper.urza.catalog import Catalog, is_stack
from esper.urza.cost import SPAN_KINDS


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command doesn't act: the reason, and in words what arrived, what was expected, what to do."""

    reason: RejectionReason
    detail: str


def unknown_seed(seed_id: str) -> Refusal:
    """A command names a seed that isn't there."""
    detail = f"no seed {seed_id!r} in this run; ListSeeds names them"
    return Refusal(RejectionReason.REJECTION_REASON_UNKNOWN_SEED, detail)


@dataclass(frozen=True, slots=True)
class Notice:
    """An event to tell, once the turn is stored."""

    spec: EventSpec
    message: str
    attributes: Mapping[str, AttributeValue]


@dataclass(slots=True, kw_only=True)
class Turn:
    """Working copy and consequences."""

    spec: KasminaRunSpec
    state: KasminaRunState
    catalog: Catalog
    step: int
    breakers: tuple[str, ...] = ()
    artifact_problem: str | None = None
    plane: str | None = None
    """Why the plane allows no new seed now; None where it does."""
    directives: list[SeedDirective] = field(default_factory=list)
    transitions: list[StageTransition] = field(default_factory=list)
    gates: list[GateEvidence] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def life(self) -> LifeSettings:
        return self.spec.life

    @property
    def has_twins(self) -> bool:
        """Whether this run judges against twins."""
        return self.life.judge == JudgeMode.JUDGE_MODE_TWIN

    def find(self, seed_id: str) -> SeedRecord | None:
        return next((record for record in self.state.seeds if record.state.seed_id == seed_id), None)

    def slot(self, slot_id: str) -> SlotSpec | None:
        return next((slot for slot in self.spec.manifest.slots if slot.slot_id == slot_id), None)

    def signal(self, slot_id: str) -> SlotSignal | None:
        """The slot as last reported, if it was."""
        return next((signal for signal in self.state.slots if signal.slot_id == slot_id), None)

    def channels(self, slot: SlotSpec) -> int:
        """Features or channels that a seed in the slot writes now."""
        signal = self.signal(slot.slot_id)
        return signal.out_features if signal else slot.out_features

    def incubates(self, blueprint: Blueprint) -> bool:
        is_shadowed = self.life.incubation == IncubationMode.INCUBATION_MODE_SHADOW
        return is_shadowed and not blueprint.is_control and not is_stack(blueprint)

    def traits(self, record: SeedRecord) -> SeedTraits:
        """What the gates must know of the seed."""
        blueprint = self.catalog.get(record.state.blueprint_id)
        slot = self.slot(record.state.slot_id)
        return SeedTraits(
            is_control=blueprint.is_control,
            is_residual=slot is not None and slot.kind not in SPAN_KINDS,
            incubates=self.incubates(blueprint),
            is_stack=is_stack(blueprint),
        )

    def direct(
        self, kind: DirectiveKind, command_id: str, record: SeedRecord | None = None, **fields: Any
    ) -> SeedDirective:
        """Give a directive; a seed's is pending until the executor reports it."""
        self.state.directives_issued += 1
        directive = SeedDirective(
            directive_id=f"d{self.state.directives_issued}",
            seed_id=record.state.seed_id if record else "",
            kind=kind,
            command_id=command_id,
            **fields,
        )
        self.directives.append(directive)
        if record is not None:
            record.pending.append(directive)
        return directive

    def move(
        self, record: SeedRecord, to_stage: SeedStage, command_id: str, reason: str, gate: SeedGate | None = None
    ) -> None:
        """Move a seed along the lifecycle; old observations don't count in the stages that are measured anew."""
        table = lifecycle.STACK_NEXT if self.traits(record).is_stack else lifecycle.NEXT
        self.transitions.append(
            lifecycle.move(
                record, to_stage, step=self.step, command_id=command_id, reason=reason, gate=gate, table=table
            )
        )
        if to_stage in (lifecycle.TRAINING, lifecycle.BLENDING):
            record.ClearField("observation")
        record.state.health = HealthStatus.HEALTH_STATUS_HEALTHY

    def note(self, record: SeedRecord, evidence: GateEvidence) -> None:
        """Record a gate's evidence; its verdict stands in the seed's state until the seed moves."""
        self.gates.append(evidence)
        record.gates.append(evidence)
        record.state.verdict = evidence.verdict
        record.state.gate = evidence.gate
        if evidence.verdict == GateVerdict.GATE_VERDICT_FAIL:
            record.state.health = HealthStatus.HEALTH_STATUS_UNHEALTHY

    def tell(self, spec: EventSpec, message: str, **attributes: AttributeValue) -> None:
        self.notices.append(Notice(spec, message, attributes))
