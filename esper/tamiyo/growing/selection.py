"""Where to grow and what: slots in forward order, round-robin, weighed by gain per MAC once seeds were judged.

No cheap signal of a slot predicts its gain, so none is used; a slot that was never tried counts as good as the
best one. Every candidate is kept with its score or with the reason why it is out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.leyline import (
    Blueprint,
    DecisionReason,
    SelectionContext,
    SlotEvidence,
    SlotKind,
    SlotSpec,
    SystemStatePacket,
    TamiyoRunState,
    TaskType,
)
from esper.tamiyo.context import LIVE_STAGES, RunContext
from esper.tamiyo.growing.budget import BUDGET, PREFIX
from esper.tamiyo.growing.candidates import CLOSED, Candidate, Choice, PriceList, Standing, candidate_of
from esper.tamiyo.growing.widening import WIDENED, widening_of
from esper.urza.catalog import Catalog, assigned, completed, misfit
from esper.urza.cost import cost

PREFERRED: Mapping[SlotKind, str] = {
    SlotKind.SLOT_KIND_SPAN_LINEAR: "span.linear",
    SlotKind.SLOT_KIND_SPAN_CONV: "span.conv",
    SlotKind.SLOT_KIND_SPAN_CONV_LINEAR: "span.conv",
    SlotKind.SLOT_KIND_RESIDUAL_LINEAR: "residual.linear",
    SlotKind.SLOT_KIND_RESIDUAL_CONV: "residual.conv",
    SlotKind.SLOT_KIND_LINEAR: "adapter.lora",
}
DEEP = "deep enough"
LACKS: Sequence[tuple[DecisionReason, str]] = (
    (DecisionReason.DECISION_REASON_TARGET_REACHED, DEEP),
    (DecisionReason.DECISION_REASON_WIDENED, WIDENED),
    (DecisionReason.DECISION_REASON_BUDGET, BUDGET),
    (DecisionReason.DECISION_REASON_EMBARGO, CLOSED),
    (DecisionReason.DECISION_REASON_NO_SLOT, ""),
)
"""By how the exclusion of a candidate begins; what a person could change comes first."""
TOLD_SLOTS = 3
UNTRIED_SCORE = 1.0
DOUBLE, PART = "stack.double", "stack.part"


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Every candidate that was looked at, and the one to grow; None if all are out. Kept by its identity."""

    candidates: Sequence[Candidate]
    chosen: Candidate | None

    @property
    def lack(self) -> tuple[DecisionReason, str]:
        """What is missing where nothing could be chosen: money, an open slot, or any slot at all; and the words."""
        for reason, prefix in LACKS:
            found = [item for item in self.candidates if item.excluded.startswith(prefix)]
            if found:
                return reason, _exclusions(found)
        return DecisionReason.DECISION_REASON_NO_SLOT, "the host has no slot"

    def as_message(self) -> SelectionContext | None:
        if self.chosen is None or self.chosen.blueprint is None:
            return None
        return SelectionContext(
            slot_id=self.chosen.slot.slot_id,
            blueprint_id=self.chosen.blueprint.blueprint_id,
            candidates=[item.as_message() for item in self.candidates],
        )


def _exclusions(candidates: Sequence[Candidate]) -> str:
    """Each slot's own reason; that a run was widened already is the same of all."""
    if candidates[0].excluded.startswith(WIDENED):
        return candidates[0].excluded
    told = [f"{item.slot.slot_id}: {item.excluded.removeprefix(PREFIX)}" for item in candidates[:TOLD_SLOTS]]
    more = len(candidates) - len(told)
    return "; ".join([*told, f"and {more} more slots"] if more else told)


def select(
    state: TamiyoRunState,
    packet: SystemStatePacket,
    context: RunContext,
    catalog: Catalog,
    prices: PriceList | None = None,
) -> Selection:
    """Look at every eligible slot, starting after the last one that was used; `prices` are those known already."""
    if context.grows_stacks:
        return select_stack(packet, context, catalog)
    choice = choice_of(context, catalog)
    slots = [slot for slot, _ in choice]
    scores = slot_scores(slots, state.evidence)
    start = state.next_slot % len(slots) if slots else 0
    order = [*range(start, len(slots)), *range(start)]
    widening = widening_of(packet, context)
    standing, prices = Standing.of(packet, context), prices or PriceList(context)
    candidates = tuple(
        candidate_of(choice[i], i, scores[slots[i].slot_id], standing=standing, prices=prices, widening=widening)
        for i in order
    )
    open_ = [item for item in candidates if not item.excluded]
    return Selection(candidates=candidates, chosen=max(open_, key=lambda item: item.score, default=None))


def choice_of(context: RunContext, catalog: Catalog) -> tuple[Choice, ...]:
    """Slots in forward order, each with what would be grown there: what the run names, or what the slots prefer."""
    task = context.spec.manifest.task
    ordered = growable_slots(context)
    named = [catalog.get(blueprint_id) for blueprint_id in context.trigger.blueprint_ids]
    if named:
        takers = assigned(named, ordered, task)
        return tuple((slot, takers.get(slot.slot_id)) for slot in ordered if slot.slot_id in takers or not takers)
    return tuple((slot, _preferred(slot, task, catalog)) for slot in eligible_slots(ordered))


def growable_slots(context: RunContext) -> list[SlotSpec]:
    """The host's slots in forward order, runs of blocks left out."""
    slots = [slot for slot in context.spec.manifest.slots if slot.kind != SlotKind.SLOT_KIND_STACK]
    return sorted(slots, key=lambda slot: (slot.order, slot.slot_id))


def eligible_slots(slots: Iterable[SlotSpec]) -> tuple[SlotSpec, ...]:
    """Foldable spans in forward order; where a host has none, all its slots."""
    ordered = sorted(slots, key=lambda slot: (slot.order, slot.slot_id))
    return tuple(slot for slot in ordered if slot.is_foldable) or tuple(ordered)


def slot_scores(slots: Iterable[SlotSpec], evidence: Sequence[SlotEvidence]) -> dict[str, float]:
    """Gain per MAC as a share of the best known one, 0..1; untried slots count as the best."""
    per_mac = {
        item.slot_id: max(0.0, item.gain_sum / item.forward_macs_sum) for item in evidence if item.forward_macs_sum > 0
    }
    best = max(per_mac.values(), default=0.0)
    shares = {slot_id: value / best if best > 0 else 0.0 for slot_id, value in per_mac.items()}
    return {slot.slot_id: shares.get(slot.slot_id, UNTRIED_SCORE) for slot in slots}


def evidence_of(packet: SystemStatePacket) -> list[SlotEvidence]:
    """What the judged seeds of a run teach about its slots: a function of the packet alone."""
    found: dict[str, SlotEvidence] = {}
    for seed in packet.seeds:
        if not seed.HasField("gain") or seed.stage in LIVE_STAGES:
            continue
        item = found.setdefault(
            seed.slot_id, SlotEvidence(slot_id=seed.slot_id, judged=0, gain_sum=0.0, forward_macs_sum=0.0)
        )
        item.judged += 1
        item.gain_sum += seed.gain
        item.forward_macs_sum += seed.forward_macs
    return [found[slot_id] for slot_id in sorted(found)]


def _preferred(slot: SlotSpec, task: TaskType, catalog: Catalog) -> Blueprint | None:
    """The blueprint that a slot of this kind gets where the run names none."""
    if slot.kind not in PREFERRED:
        return None
    blueprint = catalog.get(PREFERRED[slot.kind])
    return blueprint if misfit(blueprint, slot, task) is None else None


def select_stack(packet: SystemStatePacket, context: RunContext, catalog: Catalog) -> Selection:
    """Of the runs of blocks that may still become deeper the one tried least, the first in forward order; how much."""
    ordered = sorted(context.stacks, key=lambda slot: (slot.order, slot.slot_id))
    candidates = tuple(_stack_candidate(slot, i, packet, context, catalog) for i, slot in enumerate(ordered))
    open_ = [item for item in candidates if not item.excluded]
    tried = Counter(seed.slot_id for seed in packet.seeds)
    chosen = min(open_, key=lambda item: tried[item.slot.slot_id], default=None)
    return Selection(candidates=candidates, chosen=chosen)


def _stack_blueprints(context: RunContext) -> Collection[str]:
    """What a run of blocks may grow by: what the run names, or both."""
    return {DOUBLE, PART}.intersection(context.trigger.blueprint_ids) or {DOUBLE, PART}


def _stack_candidate(
    slot: SlotSpec, position: int, packet: SystemStatePacket, context: RunContext, catalog: Catalog
) -> Candidate:
    """Twice the depth, or as much of it as target and budget leave; the least is told where nothing is affordable."""
    standing = Standing.of(packet, context)
    signal = standing.signals.get(slot.slot_id)
    depth = signal.depth if signal is not None else slot.depth
    target = context.trigger.target_depth
    most = depth if target is None else min(depth, target - depth)
    closed = standing.closed.get(slot.slot_id) or (f"{DEEP}: it has {depth} of {target} blocks" if most < 1 else "")
    named = _stack_blueprints(context)
    for blocks in range(max(1, most), 0, -1):
        is_double = blocks == depth and DOUBLE in named
        values = {} if is_double else {"blocks": float(blocks)}
        blueprint = catalog.get(DOUBLE if is_double else PART)
        price = cost(blueprint, slot, signal, completed(blueprint, values), context.spec.manifest.task)
        excluded = closed or standing.purse.objection(price.parameters, price.forward_macs) or ""
        if closed or not excluded:
            break
        if PART not in named:
            break
    if not excluded and blueprint.blueprint_id not in named:
        excluded = f"{blocks} more blocks need {PART}, which isn't among the blueprints that the run names"
    return Candidate(
        slot=slot,
        position=position,
        blueprint=blueprint,
        score=UNTRIED_SCORE,
        parameters=price.parameters,
        forward_macs=price.forward_macs,
        excluded=excluded,
        values=values,
    )
