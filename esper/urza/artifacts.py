"""Artefacts by content: the bytes whose SHA-256 is the name, verified at every read.

Built-in recipes are always there; a directory adds files named by digest. Damage is an error that says which
file, never a missing artefact and never other bytes.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from esper.core.dependency_guard import require
from esper.core.errors import ConfigError, CorruptRecord
from esper.core.storage.files import write_atomically
from esper.urza.blueprints import BUILTIN
from esper.urza.catalog import recipe_bytes

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class ArtifactStore:
    """Artefacts of the built-in blueprints and, if given, of a directory."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None and not directory.is_dir():
            raise ConfigError("artifact_dir", str(directory), "no such directory; create it or leave the setting out")
        self._directory = directory
        self._builtin = {hashlib.sha256(raw).hexdigest(): raw for raw in map(recipe_bytes, BUILTIN)}

    def is_builtin(self, digest: str) -> bool:
        """Whether the artefact is part of the program."""
        return digest in self._builtin

    def get(self, digest: str) -> bytes:
        """The artefact. Raises DependencyViolationError if it is missing, CorruptRecord if it is damaged."""
        if (builtin := self._builtin.get(digest)) is not None:
            return builtin
        path = self._path(digest)
        read = _bytes(path) if path is not None else None
        content = require(read, "urza", "artefact", digest, self._remedy)
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise CorruptRecord(f"artefact {path} has SHA-256 {found}; restore it from where it was made")
        return content

    def put(self, content: bytes) -> str:
        """Store an artefact durably and return its digest."""
        if self._directory is None:
            raise ConfigError("artifact_dir", None, "set a directory to store artefacts in")
        digest = hashlib.sha256(content).hexdigest()
        write_atomically(self._directory / digest, content)
        return digest

    @property
    def _remedy(self) -> str:
        where = "`esper up --artifact-dir DIR`, or `artifact_dir` in the settings of kasmina and weatherlight"
        if self._directory is None:
            return f"no directory of artefacts is set: name the one of its blueprint's library by {where}"
        return f"{self._directory} lacks it: put it there, or name the directory that has it by {where}"

    def _path(self, digest: str) -> Path | None:
        """Where the directory would have it."""
        return self._directory / digest if self._directory is not None and _DIGEST.match(digest) else None


def _bytes(path: Path) -> bytes | None:
    """All of a file, unbuffered: every call of the system is a turn that other threads may take."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        return None
