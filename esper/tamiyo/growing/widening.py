"""How much a layer is widened: as the run says, or where it doesn't, once and by as much as paid on small networks.

Of three ways that were compared, one step of four times had the best mean on each of five small tasks (docs/results.md,
"Which settings of growth suit small networks?"), from layers of 4 to 16 units or channels. Wider layers get the largest
of those steps: four times their width costs a multiple of the run to try, and nothing shows that it pays there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from esper.leyline import Blueprint, SlotSpec, SystemStatePacket
from esper.tamiyo.context import RunContext
from esper.urza.blueprints import FACTOR
from esper.urza.cost import SPAN_KINDS

WIDENED = "the one usual widening was"
"""How the reason begins where a run has had its usual widening."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Widening:
    """By how much layers may be widened now."""

    asked: Mapping[str, float] = field(default_factory=dict)
    """`width` or `factor`, as a blueprint takes it; empty: the blueprint's default."""
    most_units: float = math.inf
    """Units that a factor adds at most."""
    refused: str = ""
    """Why none may be widened; empty: nothing stands against it."""


USUAL = Widening(asked={FACTOR.name: 4.0}, most_units=48)
USUAL_TIMES = 1


def widening_of(packet: SystemStatePacket, context: RunContext) -> Widening:
    """What the run says; where it says nothing, the usual step, unless a seed of the run was a widening already."""
    if context.trigger.span:
        return Widening(asked=context.trigger.span)
    layers = {slot.slot_id for slot in context.spec.manifest.slots if slot.kind in SPAN_KINDS}
    begun = [seed.seed_id for seed in packet.seeds if seed.slot_id in layers]
    if len(begun) < USUAL_TIMES:
        return USUAL
    return replace(USUAL, refused=f"{WIDENED} {begun[0]}; a span_width asks for more")


def widens(blueprint: Blueprint, slot: SlotSpec) -> bool:
    """Whether the blueprint widens a layer there, by a width that can be said."""
    return slot.kind in SPAN_KINDS and any(bound.name == FACTOR.name for bound in blueprint.parameters)
