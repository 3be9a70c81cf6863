"""What takes a run back, and how: the policy of its settings. Time never does: a slow epoch is no setback.

| Trigger                | Setting          | Goes back to                | Then                             |
| loss NaN or infinite   | on_nonfinite     | the newest that gave a loss | slower; a second time, without   |
|                        |                  |                             | that batch and the one before it |
| loss diverging         | on_divergence    | the newest before its rise  | slower                           |
| a CRITICAL gate failed | on_critical_gate | the newest before its seed  | the policy decides anew          |
| a signed RollbackOrder | always           | the newest, or as it says   | on the same course               |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.core.enums import short_name
from esper.core.errors import LossDiverged, NonFiniteLoss, StepFailed
from esper.leyline import GateVerdict, HealthStatus, SeedGate
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.record.progress import Progress

ROLLBACK = "rollback"
SETTING_OF: Mapping[type[StepFailed], str] = {NonFiniteLoss: "on_nonfinite", LossDiverged: "on_divergence"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setback:
    """Why a run goes back, how far, and what changes then."""

    why: str
    to_step: int | None = None
    """Newest state that may be restored; None for any."""
    proven_to: int | None = None
    """Newest state that is known to be good: a later one is taken only where there is none."""
    is_slower: bool = False
    """Whether the same steps are made at a lower rate."""
    gives_up_course: bool = False
    """Whether what was decided since is decided anew."""
    failed_step: int | None = None
    """Steps done before the one that could not be used."""


def of_failed_step(error: StepFailed, config: TrainConfig, progress: Progress) -> Setback | None:
    """What the policy says of such a step; None for the end of the run."""
    if getattr(config, SETTING_OF.get(type(error), ""), None) != ROLLBACK:
        return None
    is_broken = isinstance(error, NonFiniteLoss)
    # Of a state that was saved after the last loss nobody knows yet what its weights give.
    proven_to = error.step - 1 if is_broken else progress.steady_step
    return Setback(
        why=str(error),
        proven_to=proven_to,
        is_slower=True,
        gives_up_course=True,
        failed_step=error.step if is_broken else None,
    )


def of_gates(result: PacketResult, config: TrainConfig, step: int) -> Setback | None:
    """A gate that failed of a seed whose health is CRITICAL since: what it left endangers the run."""
    if config.on_critical_gate != ROLLBACK:
        return None
    seeds = {seed.seed_id: seed for seed in result.seeds or ()}
    for gate in result.gates:
        seed = seeds.get(gate.seed_id)
        is_critical = seed is not None and seed.health == HealthStatus.HEALTH_STATUS_CRITICAL
        if seed is None or not is_critical or gate.verdict != GateVerdict.GATE_VERDICT_FAIL:
            continue
        name = short_name(SeedGate, gate.gate)
        before = max(0, step - seed.age_steps - 1)
        return Setback(
            why=f"CRITICAL gate {name} of {gate.seed_id}: {gate.detail}", to_step=before, gives_up_course=True
        )
    return None
