"""Everything that could be grown now: each slot with each blueprint that fits and, where it widens, some widths.

The heuristic looks at one blueprint for each slot; what explores or has learned chooses among all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from esper.leyline import SystemStatePacket, TamiyoRunState
from esper.tamiyo.context import RunContext
from esper.tamiyo.selection import (
    Candidate,
    Choice,
    Selection,
    candidate_of,
    choice_of,
    eligible_slots,
    growable_slots,
    select_stack,
    signals_of,
    slot_scores,
    widens,
)
from esper.urza.blueprints import FACTOR
from esper.urza.catalog import Catalog, misfit

WIDENINGS: tuple[Mapping[str, float], ...] = ({}, {FACTOR.name: 2.0}, {FACTOR.name: 4.0})
"""How much a layer may be widened where the run doesn't say: by the blueprint's default, to twice, to four times."""


def survey(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext, catalog: Catalog) -> Selection:
    """Every candidate with its score or the reason why it is out; none is chosen. Stacks are left to their schedule."""
    if context.grows_stacks:
        return select_stack(packet, context, catalog)
    choices, signals = list(_choices(context, catalog)), signals_of(packet)
    scores = slot_scores([slot for slot, _ in choices], state.evidence)
    positions = {slot_id: i for i, slot_id in enumerate(dict.fromkeys(slot.slot_id for slot, _ in choices))}
    found: dict[tuple[object, ...], Candidate] = {}
    for choice in choices:
        slot, blueprint = choice
        given = context.trigger.span
        spans = WIDENINGS if blueprint is not None and widens(blueprint, slot) and not given else (given,)
        for span in spans:
            candidate = candidate_of(
                choice,
                positions[slot.slot_id],
                scores[slot.slot_id],
                packet=packet,
                context=context,
                span=span,
                signals=signals,
            )
            found.setdefault(_identity(candidate), candidate)
    return Selection(candidates=tuple(found.values()), chosen=None)


def _choices(context: RunContext, catalog: Catalog) -> Iterator[Choice]:
    """What the run names, or whatever fits the slots that the heuristic looks at."""
    if context.trigger.blueprint_ids:
        yield from choice_of(context, catalog)
        return
    task = context.spec.manifest.task
    for slot in eligible_slots(growable_slots(context)):
        for blueprint in catalog.for_slot(slot.kind):
            if misfit(blueprint, slot, task) is None and not blueprint.is_control:
                yield slot, blueprint


def _identity(candidate: Candidate) -> tuple[object, ...]:
    blueprint = candidate.blueprint.blueprint_id if candidate.blueprint else "-"
    return candidate.slot.slot_id, blueprint, tuple(sorted(candidate.values.items())), candidate.parameters
