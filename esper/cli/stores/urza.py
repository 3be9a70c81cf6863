"""`esper urza`: blueprints of your own. Look at the catalogue, add, verify, and clear away what nothing refers to.

A factory runs when it is added, and where a run grows with it: each time from bytes whose signature and digests hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from esper.cli.key_source import keyring_of
from esper.cli.usage import Verbs, add_group, add_verb
from esper.core.clock import SYSTEM_CLOCK, utc_text
from esper.core.counted import counted
from esper.core.enums import short_name
from esper.core.errors import ConfigError, EsperError
from esper.core.plain import plain
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.core.settings.state_dir import default_state_dir
from esper.leyline import (
    Blueprint,
    BlueprintTier,
    CostTerm,
    HandlingClass,
    HazardBand,
    Provenance,
    ResourceProfile,
    SeedRecipe,
    SignedCommand,
    SlotKind,
)
from esper.urza.catalog import Catalog, recipe_in
from esper.urza.own.description import FAMILIES, Described, read_description
from esper.urza.own.keys import library_keyring
from esper.urza.own.library import Entry, Library
from esper.urza.own.sheet import believed


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "urza", "blueprints of your own: catalogue, signatures, files")
    listed = add_verb(group, "list", run_list, "list every blueprint, built in or of your own")
    shown = add_verb(group, "show", run_show, "show one blueprint: sheet, parameters, cost, files, runs")
    shown.add_argument("blueprint_id", metavar="ID", help="the blueprint, such as lab.gated")
    added = add_verb(group, "add", run_add, "try a blueprint, sign its sheet and put it into the catalogue")
    added.add_argument("file", type=Path, metavar="FILE", help="its description as TOML; its files stand beside it")
    checked = add_verb(group, "verify", run_verify, "check signatures and digests; exit code 1 if one doesn't hold")
    checked.add_argument("blueprint_id", metavar="ID", nargs="?", help="one blueprint (default: all of your own)")
    cleared = add_verb(group, "gc", run_gc, "remove old versions that no run refers to, and files that nothing names")
    cleared.add_argument("--retire", action="append", default=[], metavar="ID", help="give this one to no new run")
    cleared.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    for verb in (listed, shown, added, checked, cleared):
        verb.add_argument("--library", type=Path, metavar="DIR", help="(default: ~/.local/state/esper/urza)")
    for verb in (listed, shown, checked):
        verb.add_argument("--json", action="store_true", help="print JSON")
    for verb in (shown, added, checked):
        verb.add_argument(
            "--key",
            metavar="FILE|env",
            help="keyring or secret (default: ESPER_KEYRING or ESPER_LEYLINE_SECRET, else the library's own secret)",
        )


def run_list(arguments: argparse.Namespace) -> int:
    own = [_listed(entry) for entry in _library(arguments).entries() if entry.is_current]
    rows = [*own, *(_builtin_row(blueprint) for blueprint in Catalog.builtin().all())]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        origin = "built in" if row["is_builtin"] else f"version {row['version']}"
        print(plain(f"{row['blueprint_id']:24} {origin:12} {', '.join(row['slots']):34} {row['name']}"))
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    shown = _shown(arguments)
    if arguments.json:
        print(json.dumps(shown, indent=2))
        return 0
    for key, value in shown.items():
        print("\n".join(map(plain, _block(key, value))))
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    described = read_description(arguments.file)
    _try(described)
    library = _library(arguments, is_made=True)
    entry, is_new = library.add(described, Signer(_keys(arguments, library, is_made=True), SYSTEM_CLOCK))
    what = "added" if is_new else "was there already, signed again"
    print(f"{entry.blueprint_id} version {entry.version} {what}: {entry.digest}")
    flags = ["--blueprints", entry.blueprint_id]
    if arguments.library is not None:
        flags += ["--library", str(arguments.library)]
    print(f"to grow with it: tolaria-train {shlex.join(flags)}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    library = _library(arguments)
    entries = [library.current(arguments.blueprint_id)] if arguments.blueprint_id else library.entries()
    keys = _keys(arguments, library) if entries else None
    found = [_finding(library, entry, keys) for entry in entries if keys is not None]
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print(f"no blueprint of your own in {library.directory}")
    else:
        for row in found:
            verdict = row["problem"] or "signature and files hold"
            print(plain(f"{row['blueprint_id']} version {row['version']}: {verdict}"))
    return int(any(row["problem"] for row in found))


def run_gc(arguments: argparse.Namespace) -> int:
    library = _library(arguments)
    for blueprint_id in arguments.retire:
        if arguments.dry_run:
            library.current(blueprint_id)
            print(f"{blueprint_id}: would be given to no new run")
        else:
            library.retire(blueprint_id)
            print(f"{blueprint_id}: given to no new run any more")
    garbage = library.collect(is_dry=arguments.dry_run)
    word = "would remove" if arguments.dry_run else "removed"
    for entry in garbage.entries:
        print(plain(f"{word} {entry.blueprint_id} version {entry.version}"))
    print(f"{word} {counted(len(garbage.files), 'file')}, {garbage.size_bytes:,} bytes")
    for entry in library.entries():
        if not entry.is_current and (users := library.users(entry.digest)):
            print(plain(f"kept {entry.blueprint_id} version {entry.version}: {users[0]} was grown with it"))
    return 0


def _library(arguments: argparse.Namespace, *, is_made: bool = False) -> Library:
    """The one that is named, which is there unless it is made now; the default one may be empty."""
    named = arguments.library
    if named is not None and not is_made and not named.exists():
        raise ConfigError("--library", str(named), "is not there; `esper urza add` makes one")
    return Library(arguments.library or default_state_dir() / "urza", SYSTEM_CLOCK)


def _keys(arguments: argparse.Namespace, library: Library, *, is_made: bool = False) -> Keyring:
    if arguments.key is None:
        return library_keyring(library.directory, os.environ, is_made=is_made)
    return keyring_of(arguments.key)


def _try(described: Described) -> None:
    """Load the factory and build with it, as it would be grown."""
    from esper.kasmina.executor.blueprint_trial import try_blueprint
    from esper.kasmina.executor.blueprints.own import load_factory  # torch, which the other verbs start without

    blueprint, artifact = described.completed(1)
    recipe = recipe_in(blueprint, artifact)
    factory = load_factory(recipe, described.source, described.weights)
    size = described.trial_features
    # Tensors may be made for one size; a factory without any builds for all.
    try_blueprint(blueprint, recipe.factory, factory, sizes=(size,) if described.weights else (size, 2 * size))


def _finding(library: Library, entry: Entry, keys: Keyring) -> dict[str, Any]:
    try:
        blueprint = believed(entry.sheet, entry.blueprint_id, keys, SYSTEM_CLOCK)
        _recipe_with_files(library, blueprint)
        problem = None
    except EsperError as error:
        problem = str(error)
    return {"blueprint_id": entry.blueprint_id, "version": entry.version, "digest": entry.digest, "problem": problem}


def _recipe_with_files(library: Library, blueprint: Blueprint) -> SeedRecipe:
    """The recipe, whose files were read and verified too."""
    recipe = recipe_in(blueprint, library.artifact(blueprint.artifact.digest))
    for digest in filter(None, (recipe.source.digest, recipe.weights.digest)):
        library.artifact(digest)
    return recipe


def _shown(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.blueprint_id.partition(".")[0] in FAMILIES:
        return _sheet(Catalog.builtin().get(arguments.blueprint_id))
    library = _library(arguments)
    entry = library.current(arguments.blueprint_id)
    blueprint = believed(entry.sheet, entry.blueprint_id, _keys(arguments, library), SYSTEM_CLOCK)
    recipe = _recipe_with_files(library, blueprint)
    given = [file for file in (recipe.source, recipe.weights) if file.digest]
    files = {file.name: f"{file.digest} ({file.size_bytes:,} bytes)" for file in given}
    return {
        **_sheet(blueprint),
        "cost": {"parameters": _terms(blueprint.cost.parameters), "forward_macs": _terms(blueprint.cost.forward_macs)},
        "factory": f"{recipe.source.name}:{recipe.entry}",
        "files": files,
        "added": utc_text(entry.added_ns),
        "runs": [str(path) for path in library.users(entry.digest)],
    }


def _sheet(blueprint: Blueprint) -> dict[str, Any]:
    safety = blueprint.safety
    return {
        "blueprint_id": blueprint.blueprint_id,
        "name": blueprint.name,
        "description": blueprint.description,
        "version": blueprint.version,
        "digest": blueprint.digest,
        "slots": _slots(blueprint),
        "tier": short_name(BlueprintTier, blueprint.tier).lower(),
        "risk": safety.risk_score,
        "hazard": short_name(HazardBand, safety.hazard).lower(),
        "handling": short_name(HandlingClass, safety.handling).lower(),
        "resources": short_name(ResourceProfile, safety.resources).lower(),
        "provenance": short_name(Provenance, safety.provenance).lower(),
        "recommendation": safety.recommendation,
        "parameters": {
            bound.name: f"{bound.default_value:g}, {bound.min_value:g} to {bound.max_value:g}: {bound.description}"
            for bound in blueprint.parameters
        },
    }


def _listed(entry: Entry) -> dict[str, Any]:
    """What the catalogue says; it isn't verified for a list."""
    try:
        blueprint = Blueprint.FromString(SignedCommand.FromString(entry.sheet).payload)
    except DecodeError as error:
        why = f"its sheet in the catalogue is damaged; `esper urza add` it again, or gc --retire {entry.blueprint_id}"
        raise ConfigError("library", entry.blueprint_id, why) from error
    return _row(blueprint, is_builtin=False)


def _builtin_row(blueprint: Blueprint) -> dict[str, Any]:
    return _row(blueprint, is_builtin=True)


def _row(blueprint: Blueprint, *, is_builtin: bool) -> dict[str, Any]:
    return {
        "blueprint_id": blueprint.blueprint_id,
        "version": blueprint.version,
        "slots": _slots(blueprint),
        "name": blueprint.name,
        "is_builtin": is_builtin,
    }


def _slots(blueprint: Blueprint) -> list[str]:
    return [short_name(SlotKind, kind).lower().replace("_", ".") for kind in blueprint.slot_kinds]


def _terms(terms: Iterable[CostTerm]) -> list[str]:
    return [" ".join([str(term.coefficient), *term.factors]) for term in terms]


def _block(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}:", *(f"  {name}: {each}" for name, each in value.items())] if value else [f"{key}: none"]
    return [f"{key}: {', '.join(value) or 'none' if isinstance(value, list) else value}"]
