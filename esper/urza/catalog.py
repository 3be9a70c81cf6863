"""The catalogue: blueprints by id, with bounds, safety sheet and digests.

A blueprint that is not here does not exist: no substitute is made. Parameters are completed and checked in one
place, so that what is signed, costed and built is the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError

from esper.core.dependency_guard import require
from esper.core.errors import ContractError, CorruptRecord
from esper.core.messages.validation import violations
from esper.core.plain import clause
from esper.leyline import (
    Blueprint,
    HazardBand,
    KernelArtifact,
    ParameterBounds,
    Provenance,
    SafetySheet,
    SeedRecipe,
    SlotKind,
    SlotSpec,
    TaskType,
)
from esper.urza.blueprints import BUILTIN, FACTOR, HEADS, WIDTH, Row
from esper.urza.cost import FEATURES, POSITIONS

HAZARD_BANDS: tuple[tuple[float, HazardBand], ...] = (
    (0.30, HazardBand.HAZARD_BAND_LOW),
    (0.60, HazardBand.HAZARD_BAND_MEDIUM),
    (0.85, HazardBand.HAZARD_BAND_HIGH),
    (math.inf, HazardBand.HAZARD_BAND_CRITICAL),
)
SEQUENCE_BLUEPRINTS = frozenset({"attention.self"})
# Their convolutions over positions would show a language model the tokens that it must predict.
LOOKING_AHEAD = frozenset({"residual.conv", "control.random_frozen"})


class Catalog:
    """Blueprints in order of their definition; immutable."""

    def __init__(self, blueprints: Iterable[Blueprint]) -> None:
        self._by_id = {blueprint.blueprint_id: blueprint for blueprint in blueprints}

    @classmethod
    def builtin(cls) -> Catalog:
        """The blueprints that come with Esper."""
        return cls(_blueprint(row) for row in BUILTIN)

    def with_own(self, blueprints: Sequence[Blueprint]) -> Catalog:
        """The same and a user's own. Raises ContractError for one that can't stand beside those that are built in."""
        if not blueprints:
            return self
        problems = [problem for blueprint in blueprints for problem in self._objections(blueprint)]
        if problems:
            raise ContractError("own_blueprints", problems)
        return Catalog([*self._by_id.values(), *blueprints])

    def get(self, blueprint_id: str) -> Blueprint:
        """The blueprint, or DependencyViolationError."""
        remedy = f"name one of {', '.join(self._by_id)}"
        return require(self._by_id.get(blueprint_id), "urza", "blueprint", blueprint_id, remedy)

    def all(self) -> list[Blueprint]:
        return list(self._by_id.values())

    def _objections(self, own: Blueprint) -> list[str]:
        found = violations(own)
        if own.blueprint_id in self._by_id:
            found.append(f"{own.blueprint_id} is built in; a blueprint of your own needs a name of its own")
        if digest_of(own) != own.digest:
            found.append(f"{own.blueprint_id} is not what its digest says")
        if not own.HasField("cost"):
            found.append(f"{own.blueprint_id} doesn't say what it costs")
        known = {FEATURES, POSITIONS, *(bound.name for bound in own.parameters)}
        factors = {name for term in (*own.cost.parameters, *own.cost.forward_macs) for name in term.factors}
        found += [f"the cost of {own.blueprint_id} multiplies {name}, which is unknown" for name in factors - known]
        return found

    def for_slot(self, kind: SlotKind) -> list[Blueprint]:
        """Blueprints that fit slots of this kind, controls last."""
        fitting = [blueprint for blueprint in self._by_id.values() if kind in blueprint.slot_kinds]
        return sorted(fitting, key=lambda blueprint: blueprint.is_control)


def is_stack(blueprint: Blueprint) -> bool:
    """Whether it repeats blocks of the host, which has no blend, no incubation and no fold."""
    return SlotKind.SLOT_KIND_STACK in blueprint.slot_kinds


def misfit(blueprint: Blueprint, slot: SlotSpec, task: TaskType) -> str | None:
    """Why the blueprint can't be built in the slot of a host with this task, or None."""
    if slot.kind not in blueprint.slot_kinds:
        return f"{blueprint.blueprint_id} doesn't fit a slot of kind {SlotKind.Name(slot.kind)}"
    if blueprint.blueprint_id in SEQUENCE_BLUEPRINTS and slot.read_positions < 2:
        return f"{blueprint.blueprint_id} needs a sequence, {slot.slot_id} has one position"
    if task == TaskType.TASK_TYPE_LANGUAGE_MODEL and looks_ahead(blueprint, slot):
        return f"{blueprint.blueprint_id} would read later tokens in {slot.slot_id}; a language model can't take it"
    return None


def looks_ahead(blueprint: Blueprint, slot: SlotSpec) -> bool:
    """Whether it may read later positions there: of those built in it is known, a user's own says that it doesn't."""
    if blueprint.HasField("cost"):
        return not blueprint.is_causal
    return blueprint.blueprint_id in LOOKING_AHEAD and slot.kind == SlotKind.SLOT_KIND_RESIDUAL_CONV


def hazard_of(risk: float) -> HazardBand:
    """The band of a risk score."""
    return next(band for limit, band in HAZARD_BANDS if risk < limit)


def assigned(named: Sequence[Blueprint], slots: Sequence[SlotSpec], task: TaskType) -> dict[str, Blueprint]:
    """Which named blueprint each slot gets, by slot id: those named first choose first.

    A blueprint takes the foldable slots that it fits, and where there is none, every slot that it fits.
    """
    found: dict[str, Blueprint] = {}
    for blueprint in named:
        fitting = [slot for slot in slots if misfit(blueprint, slot, task) is None]
        for slot in [slot for slot in fitting if slot.is_foldable] or fitting:
            found.setdefault(slot.slot_id, blueprint)
    return found


def completed(
    blueprint: Blueprint, given: Mapping[str, float], *, units: int | None = None, unit: int = 1
) -> dict[str, float]:
    """What the seed is built with: defaults filled in, a factor turned into the width that it stands for.

    `units` is the present width of the layer that would be widened; widths are rounded up to a multiple of `unit`.
    Raises ContractError with all violations.
    """
    bounds = {bound.name: bound for bound in blueprint.parameters}
    known = ", ".join(bounds) or "it has no parameters"
    problems = [f"{name} is no parameter of {blueprint.blueprint_id} ({known})" for name in given if name not in bounds]
    values = {name: float(given.get(name, bound.default_value)) for name, bound in bounds.items()}
    problems += [problem for name, bound in bounds.items() if (problem := _out_of_bounds(values[name], bound))]
    factor = values.pop(FACTOR.name, 1.0)
    if factor != 1.0:
        if WIDTH.name in given:
            problems.append(f"{WIDTH.name} and {FACTOR.name} are both given, and say the same thing: give one")
        if units is None:
            problems.append(f"{FACTOR.name} = {factor}: the width that it multiplies is not known")
    if problems:
        raise ContractError("SeedOperation.parameters", problems)
    if factor != 1.0 and units is not None:
        values[WIDTH.name] = min(max(WIDTH.low, round((factor - 1.0) * units)), WIDTH.high)
    for name in {WIDTH.name, HEADS.name} & values.keys() if unit > 1 else ():
        values[name] = float(-int(-values[name] // unit) * unit)
    return values


def digest_of(blueprint: Blueprint) -> str:
    """SHA-256 over the blueprint without its digest."""
    bare = Blueprint()
    bare.CopyFrom(blueprint)
    bare.ClearField("digest")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def recipe_in(blueprint: Blueprint, content: bytes) -> SeedRecipe:
    """The recipe in a blueprint's artefact. Raises CorruptRecord unless it is what the blueprint says of it."""
    said, found = blueprint.artifact, SeedRecipe.DESCRIPTOR.full_name
    what = f"the artefact of {blueprint.blueprint_id}"
    if said.content_type != found:
        raise CorruptRecord(
            f"{what} is said to be a {said.content_type!r}, expected {found!r}; add the blueprint again"
        )
    if len(content) != said.size_bytes:
        raise CorruptRecord(f"{what} has {len(content)} bytes, expected {said.size_bytes}; add the blueprint again")
    try:
        recipe = SeedRecipe.FromString(content)
    except DecodeError as error:
        raise CorruptRecord(f"{what} is no recipe: {clause(error)}; add the blueprint again") from error
    if (recipe.blueprint_id, recipe.version) != (blueprint.blueprint_id, blueprint.version):
        told = f"{recipe.blueprint_id!r} in version {recipe.version}"
        raise CorruptRecord(f"{what} in version {blueprint.version} is the recipe of {told}; add the blueprint again")
    return recipe


def recipe_bytes(row: Row) -> bytes:
    """The artefact of a built-in blueprint: the serialized recipe that the executor's factory is told."""
    recipe = SeedRecipe(blueprint_id=row.blueprint_id, version=row.version, factory=row.blueprint_id)
    return recipe.SerializeToString(deterministic=True)


def _out_of_bounds(value: float, bound: ParameterBounds) -> str | None:
    if not bound.min_value <= value <= bound.max_value:  # also refuses NaN
        return f"{bound.name} is {value:g}, it must lie in {bound.min_value:g}..{bound.max_value:g}"
    if bound.is_integer and value != int(value):
        return f"{bound.name} is {value:g}, it must be a whole number"
    return None


def _blueprint(row: Row) -> Blueprint:
    artifact = recipe_bytes(row)
    blueprint = Blueprint(
        blueprint_id=row.blueprint_id,
        name=row.name,
        description=row.description,
        version=row.version,
        tier=row.tier,
        slot_kinds=row.slot_kinds,
        parameters=[
            ParameterBounds(
                name=bound.name,
                min_value=bound.low,
                max_value=bound.high,
                default_value=bound.default,
                is_integer=bound.is_integer,
                description=bound.meaning,
            )
            for bound in row.parameters
        ],
        safety=SafetySheet(
            risk_score=row.risk,
            hazard=hazard_of(row.risk),
            handling=row.handling,
            resources=row.resources,
            provenance=Provenance.PROVENANCE_CURATED,
            recommendation=row.recommendation,
        ),
        artifact=KernelArtifact(
            digest=hashlib.sha256(artifact).hexdigest(),
            size_bytes=len(artifact),
            content_type=SeedRecipe.DESCRIPTOR.full_name,
        ),
        is_zero_output=row.is_zero_output,
        is_foldable=row.is_foldable,
        is_control=row.is_control,
    )
    blueprint.digest = digest_of(blueprint)
    return blueprint
