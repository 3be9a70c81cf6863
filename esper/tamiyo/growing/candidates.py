"""What could be grown in a slot: what it would take, and what stands against it now.

Its terms (what would be built, what it costs, whether its blend can be had) follow from the run and the slot's shape
alone, so they are reckoned once for each shape. Embargoes, remains and the budget are looked at with every packet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from esper.core.blends import blend_problem, graft_problem
from esper.leyline import (
    Blueprint,
    BlueprintTier,
    HandlingClass,
    SelectionCandidate,
    SlotSignal,
    SlotSpec,
    SystemStatePacket,
)
from esper.tamiyo.context import CLOSING_STAGES, RunContext
from esper.tamiyo.growing.blends import blend_for, incubates
from esper.tamiyo.growing.budget import PREFIX, Purse
from esper.tamiyo.growing.widening import Widening, widens
from esper.urza.blueprints import FACTOR, WIDTH
from esper.urza.catalog import completed
from esper.urza.cost import cost

CLOSED = "closed"
Choice = tuple[SlotSpec, Blueprint | None]
"""A slot, and what would be grown there."""
Shape = tuple[int, ...]
_STATIC = (
    *("kind", "in_features", "out_features", "width", "width_unit", "depth", "block_parameters", "block_forward_macs"),
    *("read_positions", "write_positions", "read_kernel", "write_kernel", "between_kernel"),
)
"""Fields of a slot on which terms depend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A slot with the blueprint that would be grown there."""

    slot: SlotSpec
    position: int
    blueprint: Blueprint | None
    score: float
    parameters: int = 0
    forward_macs: int = 0
    excluded: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the blueprint that are not its defaults."""

    def as_message(self) -> SelectionCandidate:
        """The candidate as a decision's metadata carries it."""
        return SelectionCandidate(
            slot_id=self.slot.slot_id,
            blueprint_id=self.blueprint.blueprint_id if self.blueprint else "-",
            score=self.score,
            excluded=self.excluded or None,
            parameters=self.parameters,
            forward_macs=self.forward_macs,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a blueprint would take in a slot of some shape, whatever the packet."""

    values: Mapping[str, float]
    parameters: int
    forward_macs: int
    objection: str
    """Why it is never grown there; empty: nothing stands against it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What stands against candidates at one packet."""

    signals: Mapping[str, SlotSignal]
    """What the packet tells of each slot."""
    closed: Mapping[str, str]
    """Slots that are closed, and why."""
    purse: Purse

    @classmethod
    def of(cls, packet: SystemStatePacket, context: RunContext) -> Standing:
        return cls(
            signals={item.slot_id: item for item in packet.slots},
            closed=closures(packet),
            purse=Purse(packet, context),
        )


class PriceList:
    """Terms of one run's candidates, each reckoned when it is first asked for."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._static: dict[str, Shape] = {}
        self._known: dict[tuple[object, ...], Terms] = {}

    def terms(
        self, blueprint: Blueprint, slot: SlotSpec, signal: SlotSignal | None, asked: Mapping[str, float]
    ) -> Terms:
        """Of the blueprint in the slot, grown by what is `asked`; no factor is left in that."""
        key = (blueprint.blueprint_id, self.shape(slot, signal), *asked.items())
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._reckoned(blueprint, slot, signal, asked)
        return found

    def shape(self, slot: SlotSpec, signal: SlotSignal | None) -> Shape:
        """The slot's shape as built, and as last signalled."""
        static = self._static.get(slot.slot_id)
        if static is None:
            static = self._static[slot.slot_id] = tuple(getattr(slot, name) for name in _STATIC)
        if signal is None:
            return static
        return (*static, signal.in_features, signal.out_features, signal.width, signal.depth)

    def _reckoned(
        self, blueprint: Blueprint, slot: SlotSpec, signal: SlotSignal | None, asked: Mapping[str, float]
    ) -> Terms:
        values = completed(blueprint, asked, unit=slot.width_unit) if slot.width_unit > 1 else asked
        price = cost(blueprint, slot, signal, completed(blueprint, values), self._context.spec.manifest.task)
        objection = _restriction(blueprint, self._context.trigger.blueprint_ids) or _blend_objection(
            blueprint, slot, signal, self._context
        )
        return Terms(
            values=values,
            parameters=price.parameters,
            forward_macs=price.forward_macs,
            objection=objection or "",
        )


def candidate_of(
    choice: Choice,
    position: int,
    score: float,
    *,
    standing: Standing,
    prices: PriceList,
    widening: Widening,
) -> Candidate:
    """A slot with its blueprint, priced, and widened so far where it widens; or the reason why it is out."""
    slot, blueprint = choice
    if blueprint is None:
        return Candidate(slot=slot, position=position, blueprint=None, score=score, excluded="no blueprint fits")
    signal = standing.signals.get(slot.slot_id)
    asked, refused = (widening.asked, widening.refused) if widens(blueprint, slot) else ({}, "")
    against = refused or standing.closed.get(slot.slot_id)

    def priced(values: Mapping[str, float]) -> Candidate:
        terms = prices.terms(blueprint, slot, signal, values)
        return Candidate(
            slot=slot,
            position=position,
            blueprint=blueprint,
            score=score,
            parameters=terms.parameters,
            forward_macs=terms.forward_macs,
            excluded=against or terms.objection or standing.purse.objection(terms.parameters, terms.forward_macs) or "",
            values=terms.values,
        )

    if FACTOR.name not in asked:
        return priced(asked)
    units = signal.width if signal is not None else slot.width
    width = min(completed(blueprint, asked, units=units)[WIDTH.name], widening.most_units)
    return _largest(priced, int(width))


def closures(packet: SystemStatePacket) -> dict[str, str]:
    """Closed slots, each with its reason: its embargo, or the seed that was culled there and has left remains."""
    found: dict[str, str] = {}
    for embargo in packet.growth.embargoes:
        if packet.step < embargo.until_step:
            found.setdefault(embargo.slot_id, f"{CLOSED} until step {embargo.until_step}")
    for seed in packet.seeds:
        if seed.stage in CLOSING_STAGES:
            found.setdefault(seed.slot_id, f"{CLOSED} until seed {seed.seed_id} is cleared from it")
    return found


def _largest(priced: Callable[[Mapping[str, float]], Candidate], width: int) -> Candidate:
    """As much of the width as the budget leaves; the least is told where nothing is affordable."""
    found = priced({WIDTH.name: float(width)})
    if not found.excluded.startswith(PREFIX):
        return found
    most, found = width - 1, priced({WIDTH.name: 1.0})
    least = 1
    while least < most and not found.excluded:
        middle = (least + most + 1) // 2
        tried = priced({WIDTH.name: float(middle)})
        least, most, found = (least, middle - 1, found) if tried.excluded else (middle, most, tried)
    return found


def _blend_objection(
    blueprint: Blueprint, slot: SlotSpec, signal: SlotSignal | None, context: RunContext
) -> str | None:
    """Why the blend that the run asks for can't be had of this seed in this slot."""
    blend, spec = blend_for(blueprint, context), context.spec
    channels = slot.out_features if signal is None else signal.out_features
    is_silent = blueprint.is_zero_output and not incubates(blueprint, context)
    problem = blend_problem(blend, channels, spec.manifest, spec.life) or graft_problem(blend, is_silent=is_silent)
    return f"its blend: {problem}" if problem else None


def _restriction(blueprint: Blueprint, named: Sequence[str]) -> str | None:
    """Why it may not be chosen; a run that names a blueprint answers for it."""
    restricted = (
        blueprint.is_control
        or blueprint.tier == BlueprintTier.BLUEPRINT_TIER_HIGH_RISK
        or blueprint.safety.handling != HandlingClass.HANDLING_CLASS_STANDARD
    )
    return "restricted: a run must name it" if restricted and blueprint.blueprint_id not in named else None
