"""The services of a run, as its directory tells of them, for verbs that speak to a run that is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.core.errors import ConfigError, ServiceUnavailable
from esper.core.security.run_line import LOCK, Peer, read_line
from esper.core.storage.file_lock import is_held


def peer_of(run_dir: Path, service: str) -> Peer:
    """Where one of them is. Raises ConfigError."""
    peer = read_line(run_dir).peers.get(service)
    if peer is None:
        raise ConfigError("RUN_DIR", str(run_dir), f"its run has no line to {service}")
    return peer


@contextmanager
def told_of(run_dir: Path | None) -> Iterator[None]:
    """Where a service doesn't answer because its run was killed, that is said."""
    try:
        yield
    except ServiceUnavailable as error:
        if run_dir is None or is_held(run_dir / LOCK):
            raise
        remedy = "it was killed, and its services with it; `tolaria-train --resume` goes on with it"
        raise ServiceUnavailable("esper", "run under way in", str(run_dir), remedy) from error
