"""Where a run ended less deep than it was asked to become: how deep each run of blocks is, and why no deeper."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from esper.core.enums import short_name
from esper.kasmina.executor.stacks.run import PREFIX
from esper.leyline import DecisionReason, SeedStage, SlotKind, SlotSpec
from esper.tolaria.record.history import History
from esper.tolaria.record.progress import Progress
from esper.tolaria.task.prepare import Prepared

# What a run in which nothing is amiss waits for; a list that is closed after a cull is opened again.
ORDINARY = frozenset(
    short_name(DecisionReason, value)
    for value in (
        DecisionReason.DECISION_REASON_SCHEDULED,
        DecisionReason.DECISION_REASON_SEED_ALIVE,
        DecisionReason.DECISION_REASON_GATE_PASSED,
        DecisionReason.DECISION_REASON_GATE_FAILED,
        DecisionReason.DECISION_REASON_EMBARGO,
        DecisionReason.DECISION_REASON_FORCED,
    )
)
CULLED = (
    SeedStage.SEED_STAGE_CULLED,
    SeedStage.SEED_STAGE_EMBARGOED,
    SeedStage.SEED_STAGE_RESETTING,
    SeedStage.SEED_STAGE_DORMANT,
)


def wanted_depth(run: Prepared, progress: Progress) -> dict[str, Any] | None:
    """The wanted depth, the depths that were got, and the reason; None where all were reached or none was wanted."""
    wanted = run.config.target_depth
    if wanted is None or run.config.grow == "never":
        return None
    slots = [slot for slot in run.manifest().slots if slot.kind == SlotKind.SLOT_KIND_STACK]
    got = {slot.slot_id: slot.depth + _added(run, slot) for slot in slots}
    short = [slot for slot in slots if got[slot.slot_id] < wanted]
    if not short:
        return None
    found = [
        *_culls(progress.history, got.keys()),
        *_held_back(progress, got.keys(), due=_most_stacks(run)),
        *(words for slot in short for words in _beyond_budget(run, slot)),
    ]
    reason = "; ".join(dict.fromkeys(found)) or "each step at which a stack was due has had its own"
    return {"wanted": wanted, "got": {slot.slot_id: got[slot.slot_id] for slot in short}, "reason": reason}


def _added(run: Prepared, slot: SlotSpec) -> int:
    return sum(stack.depth for stack in run.executor.arm.stacks if f"{PREFIX}{stack.path}" == slot.slot_id)


def _culls(history: History, slot_ids: Collection[str]) -> Iterator[str]:
    """Stacks that were given up, each with its judge's last words."""
    for seed in history.seeds.values():
        if seed.slot_id in slot_ids and seed.stage in CULLED:
            looks = history.looks.get(seed.seed_id, ())
            yield f"{seed.seed_id} was culled" + (f": {looks[-1].detail}" if looks else " before it was judged")


def _held_back(progress: Progress, slot_ids: Collection[str], *, due: float) -> Sequence[str]:
    """What stood in the way of a stack that was due, or that too little of the run was left for it."""
    before, now = progress.reason.before_late, progress.reason.now
    if before is not None and before.name not in ORDINARY:
        return [before.in_words()]
    grafted = sum(seed.slot_id in slot_ids for seed in progress.history.seeds.values())
    return [now.in_words()] if now is not None and grafted < due else []


def _most_stacks(run: Prepared) -> float:
    """Stacks that the run's steps allow; a rule sets no number."""
    return math.inf if run.config.stack_when in ("knee", "forecast") else len(run.config.stack_shares)


def _beyond_budget(run: Prepared, slot: SlotSpec) -> Iterator[str]:
    """Limits that leave no room for one more block."""
    blocks = [(other, _added(run, other)) for other in run.manifest().slots if other.kind == SlotKind.SLOT_KIND_STACK]
    forward_macs = run.manifest().forward_macs + sum(other.block_forward_macs * added for other, added in blocks)
    sizes = {
        "max_parameters": (run.executor.arm.parameter_count(), slot.block_parameters),
        "max_forward_macs": (forward_macs, slot.block_forward_macs),
    }
    for key, (now, block) in sizes.items():
        limit = getattr(run.config, key)
        if limit is not None and now + block > limit:
            yield f"{key} {limit:,} leaves no room for one more block of {block:,}"
