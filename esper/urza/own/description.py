"""A blueprint as its author writes it, a TOML file, and the catalogue's message that comes of it."""

from __future__ import annotations

import hashlib
import math
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.core.messages.validation import violations
from esper.core.nearest import nearest
from esper.leyline import (
    Blueprint,
    BlueprintCost,
    BlueprintTier,
    CostTerm,
    HandlingClass,
    KernelArtifact,
    ParameterBounds,
    Provenance,
    RecipeFile,
    ResourceProfile,
    SafetySheet,
    SeedRecipe,
    SlotKind,
)
from esper.urza.blueprints import BUILTIN
from esper.urza.catalog import digest_of, hazard_of
from esper.urza.cost import FEATURES, POSITIONS

OWN = "own:"
"""What the name of a user's own factory begins with; the rest says from which bytes it was loaded."""
MAX_SOURCE_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 30
MAX_COEFFICIENT = (1 << 64) - 1
MAX_TRIAL_FEATURES = 1 << 14
SLOTS = {"residual.linear": SlotKind.SLOT_KIND_RESIDUAL_LINEAR, "residual.conv": SlotKind.SLOT_KIND_RESIDUAL_CONV}
FAMILIES = frozenset(row.blueprint_id.partition(".")[0] for row in BUILTIN)
_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_FACTORY = re.compile(r"(?P<file>.+\.py):(?P<entry>[A-Za-z_][A-Za-z0-9_]*)\Z")
_REQUIRED = ("id", "name", "description", "slots", "factory", "risk", "recommendation")
_OPTIONAL: Mapping[str, Any] = {
    "weights": None,
    "tier": "experimental",
    "handling": "standard",
    "resources": "mixed",
    "zero_output": True,
    "causal": False,
    "parameters": (),
    "cost": {},
    "trial_features": 16,
}
_BOUNDS: Mapping[str, Any] = {
    "name": None,
    "low": None,
    "high": None,
    "default": None,
    "meaning": None,
    "integer": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """A blueprint before it has a version and a signature, with the bytes that it is made of."""

    blueprint: Blueprint
    """Without version, artefact and digest, which `completed` gives it."""
    entry: str
    source_name: str
    source: bytes
    weights_name: str
    weights: bytes | None
    trial_features: int
    """Features of the slots that it is tried in before it is added."""

    def completed(self, version: int) -> tuple[Blueprint, bytes]:
        """The catalogue's blueprint in that version, and its artefact: the serialized recipe."""
        weights = None if self.weights is None else _file(self.weights_name, self.weights)
        recipe = SeedRecipe(
            blueprint_id=self.blueprint.blueprint_id,
            version=version,
            source=_file(self.source_name, self.source),
            entry=self.entry,
            weights=weights,
        )
        recipe.factory = factory_name(recipe)
        artifact = recipe.SerializeToString(deterministic=True)
        whole = Blueprint()
        whole.CopyFrom(self.blueprint)
        whole.version = version
        whole.artifact.CopyFrom(
            KernelArtifact(
                digest=hashlib.sha256(artifact).hexdigest(),
                size_bytes=len(artifact),
                content_type=SeedRecipe.DESCRIPTOR.full_name,
            )
        )
        whole.digest = digest_of(whole)
        return whole, artifact

    @property
    def files(self) -> tuple[bytes, ...]:
        return (self.source,) if self.weights is None else (self.source, self.weights)


def factory_name(recipe: SeedRecipe) -> str:
    """Names the code and the tensors, not the file: what a checkpoint was grown with is found again or not at all."""
    parts = (recipe.entry, recipe.source.digest, recipe.weights.digest)
    return OWN + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_description(path: Path) -> Described:
    """The blueprint that the file describes; other files stand beside it. Raises ConfigError that names the key."""
    table = _table(path)
    _require_keys(table, "", {*_REQUIRED, *_OPTIONAL}, _REQUIRED)
    given = {**_OPTIONAL, **table}
    factory = _FACTORY.match(_text(given, "factory"))
    if factory is None:
        raise ConfigError("factory", given["factory"], "write FILE.py:FUNCTION, a file beside this one")
    weights_name = "" if given["weights"] is None else _text(given, "weights")
    bounds = [_bounds(entry, place) for place, entry in enumerate(_tables(given["parameters"], "parameters"))]
    return Described(
        blueprint=_blueprint(given, bounds),
        entry=factory["entry"],
        source_name=factory["file"],
        source=_beside(path, "factory", factory["file"], MAX_SOURCE_BYTES),
        weights_name=weights_name,
        weights=_beside(path, "weights", weights_name, MAX_WEIGHTS_BYTES) if weights_name else None,
        trial_features=_trial_features(given),
    )


def _trial_features(given: Mapping[str, Any]) -> int:
    features: int = _whole(given, "trial_features")
    if not 1 <= features <= MAX_TRIAL_FEATURES:
        raise ConfigError("trial_features", features, f"give a whole number from 1 to {MAX_TRIAL_FEATURES}")
    return features


def _blueprint(given: Mapping[str, Any], bounds: Sequence[ParameterBounds]) -> Blueprint:
    names = [bound.name for bound in bounds]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("parameters", twice, "stands there twice; a parameter has one entry")
    risk = given["risk"]
    if isinstance(risk, bool) or not isinstance(risk, (int, float)) or not 0.0 <= risk <= 1.0:
        raise ConfigError("risk", risk, "give a number from 0 (harmless) to 1")
    blueprint = Blueprint(
        blueprint_id=_own_id(_text(given, "id")),
        name=_text(given, "name"),
        description=_text(given, "description"),
        tier=_enum(BlueprintTier, "tier", given["tier"]),  # type: ignore[arg-type]
        slot_kinds=_slot_kinds(given["slots"]),
        parameters=bounds,
        safety=SafetySheet(
            risk_score=risk,
            hazard=hazard_of(risk),
            handling=_enum(HandlingClass, "handling", given["handling"]),  # type: ignore[arg-type]
            resources=_enum(ResourceProfile, "resources", given["resources"]),  # type: ignore[arg-type]
            provenance=Provenance.PROVENANCE_EXTERNAL,
            recommendation=_text(given, "recommendation"),
        ),
        cost=_cost(given["cost"], names),
        is_zero_output=_flag(given, "zero_output"),
        is_foldable=False,
        is_control=False,
        is_causal=_flag(given, "causal"),
    )
    others = ("version", "artifact", "digest")
    if problems := [each for each in violations(blueprint) if not any(name in each for name in others)]:
        raise ConfigError("id", blueprint.blueprint_id, "; ".join(problems))
    return blueprint


def _own_id(name: str) -> str:
    family = name.partition(".")[0]
    if not _ID.match(name):
        raise ConfigError("id", name, "write FAMILY.NAME in lower-case letters, digits and '_', such as lab.gated")
    if family in FAMILIES:
        raise ConfigError("id", name, f"the family {family!r} is built in; choose a name of your own before the dot")
    return name


def _slot_kinds(given: Any) -> list[SlotKind]:
    known = ", ".join(SLOTS)
    if not isinstance(given, list) or not given:
        raise ConfigError("slots", given, f"give a list of the kinds of slots that it fits, of {known}")
    for kind in given:
        if kind not in SLOTS:
            raise ConfigError("slots", kind, f"a blueprint of your own fits {known}")
    return [SLOTS[kind] for kind in dict.fromkeys(given)]


def _bounds(entry: Mapping[str, Any], place: int) -> ParameterBounds:
    where = f"parameters[{place}]."
    required = [name for name, default in _BOUNDS.items() if default is None]
    _require_keys(entry, where, _BOUNDS, required)
    given = {**_BOUNDS, **entry}
    name = _text(given, "name", where)
    if not _NAME.match(name) or name in (FEATURES, POSITIONS):
        remedy = f"use lower-case letters, digits and '_'; {FEATURES} and {POSITIONS} are the slot's own"
        raise ConfigError(f"{where}name", name, remedy)
    low, high, default = (_number(given, key, where) for key in ("low", "high", "default"))
    for key, value in (("low", low), ("high", high), ("default", default)):
        if not math.isfinite(value):
            raise ConfigError(f"{where}{key}", value, "give a finite number")
    is_integer = _flag(given, "integer", where)
    if not low <= default <= high:
        raise ConfigError(f"{where}default", default, f"it must lie in {low:g}..{high:g}")
    if is_integer and any(value != int(value) for value in (low, high, default)):
        raise ConfigError(where.rstrip("."), name, "low, high and default must be whole, or say integer = false")
    return ParameterBounds(
        name=name,
        min_value=low,
        max_value=high,
        default_value=default,
        is_integer=is_integer,
        description=_text(given, "meaning", where),
    )


def _cost(given: Any, parameters: Collection[str]) -> BlueprintCost:
    if not isinstance(given, Mapping):
        raise ConfigError("cost", given, "write a table: [cost]")
    _require_keys(given, "cost.", {"parameters", "forward_macs"}, ())
    known = {FEATURES, POSITIONS, *parameters}

    def terms(key: str) -> list[CostTerm]:
        listed = given.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(each, str) and each.split() for each in listed):
            raise ConfigError(f"cost.{key}", listed, 'write products as a list, such as ["2 features width", "width"]')
        return [_term(f"cost.{key}", each, known) for each in listed]

    return BlueprintCost(parameters=terms("parameters"), forward_macs=terms("forward_macs"))


def _term(key: str, text: str, known: Collection[str]) -> CostTerm:
    first, *rest = text.split()
    coefficient, factors = (int(first), rest) if first.isdecimal() else (1, [first, *rest])
    if unknown := [name for name in factors if name not in known]:
        raise ConfigError(key, text, f"{unknown[0]!r} is none of {', '.join(sorted(known))}")
    if coefficient > MAX_COEFFICIENT:
        raise ConfigError(key, text, f"a product's number is at most {MAX_COEFFICIENT}")
    return CostTerm(coefficient=coefficient, factors=factors)


def _file(name: str, content: bytes) -> RecipeFile:
    return RecipeFile(name=name, digest=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _beside(path: Path, key: str, name: str, limit: int) -> bytes:
    return _content(path.parent / name, key, limit)


def _content(path: Path, key: str, limit: int) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(key, str(path), "can't be read: it is no file")  # a pipe would be waited for
        if found.st_size > limit:
            raise ConfigError(key, str(path), f"it has {found.st_size:,} bytes, at most {limit:,} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(key, str(path), f"can't be read: {error.strerror}") from error


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(path, "FILE", MAX_SOURCE_BYTES).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("FILE", str(path), f"is no TOML: {error}") from error


def _tables(given: Any, key: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in given):
        raise ConfigError(key, given, f"write one table for each: [[{key}]]")
    return given


def _require_keys(table: Mapping[str, Any], where: str, known: Collection[str], required: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            near = nearest(key, known)
            raise ConfigError(
                f"{where}{key}",
                table[key],
                f"there is no such key; did you mean {near}?"
                if near
                else f"there is no such key; there are {', '.join(sorted(known))}",
            )
    for key in required:
        if key not in table:
            raise ConfigError(f"{where}{key}", None, "it is missing; every blueprint says it")


def _checked(kind: type | tuple[type, ...], wanted: str) -> Callable[..., Any]:
    def check(given: Mapping[str, Any], key: str, where: str = "") -> Any:
        value = given[key]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)) or value == "":
            raise ConfigError(f"{where}{key}", value, f"give {wanted}")
        return value

    return check


_text = _checked(str, "a text in quotes")
_flag = _checked(bool, "true or false")
_number = _checked((int, float), "a number")
_whole = _checked(int, "a whole number")


def _enum(kind: Any, key: str, given: Any) -> int:
    prefix = kind.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    names: dict[str, int] = {
        value.name.removeprefix(prefix).lower(): value.number for value in kind.DESCRIPTOR.values if value.number
    }
    if given not in names:
        raise ConfigError(key, given, f"use one of {', '.join(names)}")
    return names[given]
