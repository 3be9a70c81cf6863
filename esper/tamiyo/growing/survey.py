"""Everything that could be grown now: each slot with each blueprint that fits and, where it widens, some widths.

The heuristic looks at one blueprint for each slot; what explores or has learned chooses among all of them. A run's
packets are looked through by one `Offers`, which reckons again only what a packet changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from esper.leyline import SlotSpec, SystemStatePacket, TamiyoRunState
from esper.tamiyo.context import RunContext
from esper.tamiyo.growing.budget import Purse
from esper.tamiyo.growing.candidates import Candidate, Choice, PriceList, Standing, candidate_of
from esper.tamiyo.growing.selection import (
    Selection,
    choice_of,
    eligible_slots,
    growable_slots,
    select,
    select_stack,
    slot_scores,
)
from esper.tamiyo.growing.widening import Widening, widens
from esper.urza.blueprints import FACTOR
from esper.urza.catalog import Catalog, misfit

WIDENINGS = tuple(Widening(asked=asked) for asked in ({}, {FACTOR.name: 2.0}, {FACTOR.name: 4.0}))
"""How much a layer may be widened where the run doesn't say: by the blueprint's default, to twice, to four times."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A blueprint in a slot, and by how much it may be grown there."""

    choice: Choice
    position: int
    widenings: Sequence[Widening]


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found, and under what it would be found again."""

    seen: tuple[object, ...]
    most: tuple[int, int] | None
    """Parameters and MACs, which no candidate exceeds; None where the budget refused something."""
    selection: Selection

    def holds(self, seen: tuple[object, ...], purse: Purse) -> bool:
        """Whether nothing has changed that enters into a candidate."""
        return self.seen == seen and self.most is not None and purse.objection(*self.most) is None


class Offers:
    """What could be grown in one run, packet after packet."""

    def __init__(self, context: RunContext, catalog: Catalog) -> None:
        self.context = context
        self._catalog = catalog
        self._prices = PriceList(context)
        self._last: _Look | None = None

    def select(self, state: TamiyoRunState, packet: SystemStatePacket) -> Selection:
        """What the heuristic looks at, and would grow."""
        return select(state, packet, self.context, self._catalog, self._prices)

    def survey(self, state: TamiyoRunState, packet: SystemStatePacket) -> Selection:
        """Everything; none is chosen. Stacks are left to their schedule."""
        if self.context.grows_stacks:
            return select_stack(packet, self.context, self._catalog)
        standing = Standing.of(packet, self.context)
        scores = slot_scores(self._slots, state.evidence)
        seen, last = (self._shapes(standing), scores, standing.closed), self._last
        if last is not None and last.holds(seen, standing.purse):
            return last.selection
        found = self._looked(standing, scores)
        sizes = [(item.parameters, item.forward_macs) for item in found.candidates]
        most = (max((p for p, _ in sizes), default=0), max((m for _, m in sizes), default=0))
        self._last = _Look(seen, None if standing.purse.has_refused else most, found)
        return found

    def _shapes(self, standing: Standing) -> list[tuple[int, ...] | None]:
        signals = (standing.signals.get(slot.slot_id) for slot in self._slots)
        return [None if s is None else (s.in_features, s.out_features, s.width, s.depth) for s in signals]

    def _looked(self, standing: Standing, scores: Mapping[str, float]) -> Selection:
        found: list[Candidate] = []
        for offer in self._offers:
            score = scores[offer.choice[0].slot_id]
            mine: dict[tuple[object, ...], Candidate] = {}
            for widening in offer.widenings:
                candidate = candidate_of(
                    offer.choice, offer.position, score, standing=standing, prices=self._prices, widening=widening
                )
                # Of widths that the budget cut down to the same, one is enough.
                mine.setdefault((candidate.parameters, *sorted(candidate.values.items())), candidate)
            found += mine.values()
        return Selection(candidates=found, chosen=None)

    @cached_property
    def _slots(self) -> Sequence[SlotSpec]:
        return list({offer.choice[0].slot_id: offer.choice[0] for offer in self._offers}.values())

    @cached_property
    def _offers(self) -> Sequence[_Offer]:
        choices = list(_choices(self.context, self._catalog))
        positions = {slot_id: i for i, slot_id in enumerate(dict.fromkeys(slot.slot_id for slot, _ in choices))}
        given = self.context.trigger.span

        def widenings(choice: Choice) -> Sequence[Widening]:
            slot, blueprint = choice
            is_open = blueprint is not None and not given and widens(blueprint, slot)
            return WIDENINGS if is_open else (Widening(asked=given),)

        return [_Offer(choice, positions[choice[0].slot_id], widenings(choice)) for choice in choices]


def survey(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext, catalog: Catalog) -> Selection:
    """Everything that could be grown at one packet, by itself."""
    return Offers(context, catalog).survey(state, packet)


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
