"""What is known of learned policies across restarts: which is in force or on trial, and how decisions fared.

One JSON file, replaced as a whole; the weights lie beside it under their digests, and are never changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from esper.core.errors import CorruptRecord
from esper.core.plain import clause
from esper.core.storage.files import read_regular, why_not_made, write_atomically
from esper.core.storage.storage_faults import system_fault

HEURISTIC = ""
"""The digest of no weights."""
KEPT_REWARDS = 200
_FILE, _WEIGHTS = "standing.json", "{}.safetensors"


@dataclass(kw_only=True, slots=True)
class Trial:
    """Weights that decide beside the live policy, without effect."""

    digest: str
    update_id: str
    decisions: int = 0
    agreed: int = 0
    traceparent: str = ""
    """The trace that brought the weights, which their swap continues."""


@dataclass(kw_only=True, slots=True)
class Standing:
    """Everything that a restart must find again."""

    live: str = HEURISTIC
    """Digest of the weights that new runs are decided by."""
    previous: list[str] = field(default_factory=list)
    """What was in force before, oldest first."""
    trial: Trial | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Version of each digest."""
    traces: dict[str, str] = field(default_factory=dict)
    """The trace that brought each digest in force, to which decisions by it are linked."""
    seen: dict[str, str] = field(default_factory=dict)
    """What became of each update, by its id."""
    withdrawn: dict[str, str] = field(default_factory=dict)
    """Why a digest was rolled back."""
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each policy's decisions, by digest and report."""


class Shelf:
    """The directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise system_fault(path, error, why_not_made(error)) from error
        self.standing = self._read()

    def save(self) -> None:
        """On the disk when this returns."""
        content = json.dumps(asdict(self.standing), indent=1).encode()
        write_atomically(self._path / _FILE, content)

    def put(self, digest: str, content: bytes) -> None:
        write_atomically(self._path / _WEIGHTS.format(digest), content)

    def get(self, digest: str) -> bytes | None:
        path = self._path / _WEIGHTS.format(digest)
        try:
            return read_regular(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise system_fault(path, error, f"can't be read: {error.strerror}; put a copy back") from error

    def _read(self) -> Standing:
        path, remedy = (
            self._path / _FILE,
            "put a copy back, or remove it: the heuristic decides then until the next update",
        )
        try:
            content = read_regular(path)
        except FileNotFoundError:
            return Standing()
        except OSError as error:
            raise system_fault(path, error, f"can't be read: {error.strerror}; {remedy}") from error
        try:
            found: dict[str, Any] = json.loads(content)
            trial = found.pop("trial")
            return Standing(**found, trial=Trial(**trial) if trial else None)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptRecord(f"{path} is damaged: {clause(error)}; {remedy}") from error
