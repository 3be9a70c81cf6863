"""A run's line to its services, kept for its operator while the run is under way: endpoints, and the run's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.core.errors import ConfigError
from esper.core.storage.files import read_regular, write_atomically

LINE = Path("services") / "line.json"
LOCK = "run.lock"
"""Held by the run's process as long as it is under way; named here, where who asks for it needs no torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Where a service is, and what opens the run there."""

    endpoint: str
    token: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLine:
    """The services of one run, by name."""

    run_id: str
    peers: Mapping[str, Peer]


def write_line(run_dir: Path, line: RunLine) -> None:
    """Keep the line, for this user alone."""
    path = run_dir / LINE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(line)).encode(), mode=0o600)


def read_line(run_dir: Path) -> RunLine:
    """The line of a run. Raises ConfigError where there is none."""
    path = run_dir / LINE
    try:
        found = json.loads(read_regular(path))
        peers = {name: Peer(**peer) for name, peer in found["peers"].items()}
        return RunLine(run_id=found["run_id"], peers=peers)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError("RUN_DIR", str(run_dir), "has no run under way whose services could be called") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("RUN_DIR", str(path), f"can't be read ({error}); the next run writes it anew") from error


def forget_line(run_dir: Path) -> None:
    """The run is over: its tokens open nothing any more. What can't be removed couldn't be written either."""
    with suppress(OSError):
        (run_dir / LINE).unlink(missing_ok=True)
