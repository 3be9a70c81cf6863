"""Blueprints of the user's own that a run may grow: believed, verified, loaded, and kept in the run's directory.

A run takes its copy along. What it goes on with, and what is exported, is what it began with, whatever becomes of the
library; the copy is verified as the library was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError, UntrustedBlueprint
from esper.core.settings.state_dir import default_state_dir
from esper.core.storage.files import write_atomically
from esper.kasmina.executor.blueprints.own import Factory, load_factory
from esper.leyline import Blueprint, SignedCommand
from esper.tolaria.config import TrainConfig
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog, recipe_in
from esper.urza.own.description import FAMILIES
from esper.urza.own.keys import library_keyring
from esper.urza.own.library import Library
from esper.urza.own.sheet import believed

FOLDER, SHEET = "blueprints", ".sheet"


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnBlueprint:
    """One of them, with every byte that it is made of."""

    blueprint: Blueprint
    sheet: bytes
    factory_name: str
    factory: Factory
    artifacts: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnBlueprints:
    """Those of one run; none is the usual case."""

    found: tuple[OwnBlueprint, ...] = ()
    library: Library | None = None
    """Where they are from; None where they are the run's copies already."""

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def blueprints(self) -> tuple[Blueprint, ...]:
        return tuple(each.blueprint for each in self.found)

    @property
    def factories(self) -> dict[str, Factory]:
        return {each.factory_name: each.factory for each in self.found}

    def keep(self, run_dir: Path) -> None:
        """Write the run's copies; the library keeps its own as long as the run's directory is there."""
        if self.library is None:
            return
        self.copy_to(run_dir)
        for each in self.found:
            self.library.note_use(each.blueprint.digest, run_dir)

    def copy_to(self, run_dir: Path) -> None:
        """Write every sheet and artefact, durably."""
        if not self.found:
            return
        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        store = ArtifactStore(folder)
        for each in self.found:
            for content in each.artifacts:
                store.put(content)
            write_atomically(folder / f"{each.blueprint.blueprint_id}{SHEET}", each.sheet)


NO_OWN = OwnBlueprints()


def default_library() -> Path:
    """Where blueprints of one's own are, unless told otherwise."""
    return default_state_dir() / "urza"


def own_blueprints(config: TrainConfig, *, resumes: bool) -> OwnBlueprints:
    """Those that the settings name: from the library, for a resumed run its copies.

    Raises ConfigError for an unknown one, UntrustedBlueprint, CorruptRecord or GraftFailed for one that can't be used.
    """
    if not resumes and config.library is not None and not config.library.exists():
        raise ConfigError("library", str(config.library), "is not there; `esper urza add` makes one")
    named = [name for name in dict.fromkeys(config.blueprints) if name.partition(".")[0] not in FAMILIES]
    if not named:
        return NO_OWN
    directory = config.library or default_library()
    if resumes:
        return OwnBlueprints(found=tuple(_kept(config.run_dir / FOLDER, name, directory) for name in named))
    library = Library(directory, SYSTEM_CLOCK)
    return OwnBlueprints(found=tuple(_of_library(library, name) for name in named), library=library)


def kept_blueprints(run_dir: Path, config: TrainConfig) -> OwnBlueprints:
    """The copies in a run's directory, which may have been moved since."""
    names = sorted(path.name.removesuffix(SHEET) for path in (run_dir / FOLDER).glob(f"*{SHEET}"))
    directory = config.library or default_library()
    return OwnBlueprints(found=tuple(_kept(run_dir / FOLDER, name, directory) for name in names))


def _of_library(library: Library, name: str) -> OwnBlueprint:
    try:
        entry = library.current(name)
    except DependencyViolationError as error:
        builtin = ", ".join(blueprint.blueprint_id for blueprint in Catalog.builtin().all())
        remedy = f"there is no such blueprint; name one of {builtin}, or one of your own: {error.remedy}"
        raise ConfigError("blueprints", name, remedy) from error
    return _verified(entry.sheet, name, library.directory, library.artifact)


def _kept(folder: Path, name: str, library: Path) -> OwnBlueprint:
    path = folder / f"{name}{SHEET}"
    try:
        sheet = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptRecord(f"{path} is missing: the run was grown with it; put back a copy of {folder}") from error
    get = ArtifactStore(folder).get
    try:
        return _verified(sheet, name, library, get)
    except UntrustedBlueprint:
        if (anew := _signed_anew(sheet, library)) is None:
            raise
        return _verified(anew, name, library, get)


def _signed_anew(sheet: bytes, directory: Path) -> bytes | None:
    """The library's sheet of the same version: after a key has ended, `esper urza add` signs that one again."""
    try:
        digest = Blueprint.FromString(SignedCommand.FromString(sheet).payload).digest
    except DecodeError:
        return None
    entries = Library(directory, SYSTEM_CLOCK).entries()
    return next((entry.sheet for entry in entries if entry.digest == digest and entry.sheet != sheet), None)


def _verified(sheet: bytes, name: str, library: Path, get: Callable[[str], bytes]) -> OwnBlueprint:
    """Signature, recipe, files, in this order; only then is the factory's file run."""
    blueprint = believed(sheet, name, library_keyring(library, os.environ), SYSTEM_CLOCK)
    artifact = get(blueprint.artifact.digest)
    recipe = recipe_in(blueprint, artifact)
    source = get(recipe.source.digest)
    weights = get(recipe.weights.digest) if recipe.HasField("weights") else None
    return OwnBlueprint(
        blueprint=blueprint,
        sheet=sheet,
        factory_name=recipe.factory,
        factory=load_factory(recipe, source, weights),
        artifacts=(artifact, source) if weights is None else (artifact, source, weights),
    )
