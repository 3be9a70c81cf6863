"""The lifecycle: one table of stages, and the only function that moves a seed along it.

A move outside the table is an error, whoever asks. Every move is recorded with the command under which it
happened, its reason, and the gate that allowed or forced it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from esper.core.enums import short_name
from esper.core.errors import LifecycleConflict
from esper.leyline import SeedGate, SeedRecord, SeedStage, StageTransition

DORMANT = SeedStage.SEED_STAGE_DORMANT
GERMINATED = SeedStage.SEED_STAGE_GERMINATED
TRAINING = SeedStage.SEED_STAGE_TRAINING
BLENDING = SeedStage.SEED_STAGE_BLENDING
SHADOWING = SeedStage.SEED_STAGE_SHADOWING
PROBATIONARY = SeedStage.SEED_STAGE_PROBATIONARY
FOSSILIZED = SeedStage.SEED_STAGE_FOSSILIZED
CULLED = SeedStage.SEED_STAGE_CULLED
EMBARGOED = SeedStage.SEED_STAGE_EMBARGOED
RESETTING = SeedStage.SEED_STAGE_RESETTING
TERMINATED = SeedStage.SEED_STAGE_TERMINATED

NEXT: Mapping[SeedStage, frozenset[SeedStage]] = MappingProxyType(
    {
        DORMANT: frozenset({GERMINATED, TERMINATED}),
        GERMINATED: frozenset({TRAINING, BLENDING, CULLED, TERMINATED}),
        TRAINING: frozenset({BLENDING, CULLED, TERMINATED}),
        BLENDING: frozenset({SHADOWING, CULLED, TERMINATED}),
        SHADOWING: frozenset({PROBATIONARY, CULLED, TERMINATED}),
        PROBATIONARY: frozenset({FOSSILIZED, CULLED, TERMINATED}),
        FOSSILIZED: frozenset({CULLED}),  # by PRUNE, and only while it is not folded
        CULLED: frozenset({EMBARGOED, TERMINATED}),
        EMBARGOED: frozenset({RESETTING, TERMINATED}),
        RESETTING: frozenset({DORMANT, TERMINATED}),
        TERMINATED: frozenset(),
    }
)

# A stack stands as soon as it is grafted: no blend, no incubation, and once kept it is the host.
STACK_NEXT: Mapping[SeedStage, frozenset[SeedStage]] = MappingProxyType(
    {
        **NEXT,
        GERMINATED: frozenset({SHADOWING, CULLED, TERMINATED}),
        FOSSILIZED: frozenset({CULLED}),  # only where the executor had no room for it while its twin was still there
    }
)

# In the host, or on its way in or out of it: one such seed at a time.
ALIVE = frozenset({GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY, CULLED})
# Stages from which a command may cull.
CULLABLE = frozenset({GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY})
# Stages that keep their slot closed.
CLOSING = frozenset({CULLED, EMBARGOED, RESETTING})


def stage_name(stage: int) -> str:
    """Plain name for people: "BLENDING"."""
    return short_name(SeedStage, stage)


def require_stage(record: SeedRecord, allowed: Iterable[SeedStage], action: str) -> None:
    """Raise LifecycleConflict unless the seed is in one of the stages."""
    stages = frozenset(allowed)
    if record.state.stage not in stages:
        expected = " or ".join(stage_name(stage) for stage in sorted(stages))
        here = stage_name(record.state.stage)
        raise LifecycleConflict(f"seed {record.state.seed_id} is {here}; {action} needs {expected}")


def move(
    record: SeedRecord,
    to_stage: SeedStage,
    *,
    step: int,
    command_id: str,
    reason: str,
    gate: SeedGate | None = None,
    table: Mapping[SeedStage, frozenset[SeedStage]] = NEXT,
) -> StageTransition:
    """Move the seed, clear the verdict that the old stage waited for, and return the record of the move."""
    from_stage = record.state.stage
    if to_stage not in table[from_stage]:
        detail = f"{stage_name(from_stage)} to {stage_name(to_stage)} is no move of the lifecycle"
        raise LifecycleConflict(f"seed {record.state.seed_id}: {detail}")
    record.state.stage = to_stage
    record.state.stage_step = step
    record.state.ClearField("verdict")
    record.state.ClearField("gate")
    return StageTransition(
        seed_id=record.state.seed_id,
        from_stage=from_stage,
        to_stage=to_stage,
        step=step,
        command_id=command_id,
        reason=reason,
        gate=gate,
    )
