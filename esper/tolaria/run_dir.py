"""A run's directory: one process's at a time, never mixed with another run's, cleared of its own files alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.core.security.run_line import LOCK
from esper.core.storage.file_lock import holder, is_at, try_hold
from esper.core.storage.files import why_not_made
from esper.tolaria.record.course.reading import cut_torn_line
from esper.tolaria.record.ending.summary import write_summary
from esper.tolaria.record.observer import Observer, RunStarted

RUN_FILES = (
    *("summary.json", "events.jsonl", "report.html", "init.safetensors", "launched-by"),
    *("kasmina.db", "tamiyo.db", "weatherlight.db"),
)
LAUNCHED_BY = "launched-by"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What the launcher wants beside the settings."""

    resume: bool = False
    overwrite: bool = False
    demo_faults: bool = False
    tensorboard: bool = True
    profile: Path | None = None
    """Where traces of steps go."""


def check_free(run_dir: Path, options: RunOptions) -> None:
    """A run that is there already is neither mixed nor lost by accident; one that never began doesn't count."""
    if options.resume and options.overwrite:
        raise ConfigError("resume", "overwrite", "exclude each other: --resume goes on, --overwrite starts anew")
    events = run_dir / "events.jsonl"
    holds_run = events.is_file() and events.stat().st_size > 0
    if options.resume and not holds_run:
        raise ConfigError("resume", str(run_dir), "there is no run to go on with; leave --resume out")
    if holds_run and not options.resume and not options.overwrite:
        remedy = "holds a run already: use --resume, --overwrite, or another --run-dir"
        raise ConfigError("run_dir", str(run_dir), remedy)
    place = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ConfigError("run_dir", str(run_dir), f"can't be made: {place} is no directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError("run_dir", str(run_dir), f"{place} can't be written to")


@contextmanager
def occupied(run_dir: Path) -> Iterator[None]:
    """Hold the directory for this process, and make it if need be; it is left as it was if nothing comes into it."""
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    path = run_dir / LOCK
    _make(run_dir)
    try:
        held = try_hold(path)
    except OSError as error:
        raise ConfigError("run_dir", str(path), f"can't be held by one process: {error.strerror}") from error
    if held is None:
        remedy = f"is in use by {holder(path)}; stop that run, wait for its end, or give another --run-dir"
        raise ConfigError("run_dir", str(run_dir), remedy)
    try:
        yield
    finally:
        if is_at(held, path):  # else the directory was removed under the run, and may be another's by now
            with suppress(OSError):  # a file that stays holds nothing, and says nothing of why the run ends
                path.unlink()
        held.close()
        for folder in made:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def claim(run_dir: Path, options: RunOptions) -> None:
    """Make the run directory, which this process holds, ready."""
    check_free(run_dir, options)
    if options.resume:
        cut_torn_line(run_dir / "events.jsonl")
    elif (run_dir / "events.jsonl").exists():
        discard(run_dir)
    _make(run_dir)


def _make(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("run_dir", str(run_dir), why_not_made(error)) from error


def discard(run_dir: Path) -> None:
    """Remove what a run left, and nothing else."""
    for name in (*RUN_FILES, "secret"):
        (run_dir / name).unlink(missing_ok=True)
    for name in ("services", "checkpoints", "tensorboard", "blueprints"):
        folder = run_dir / name
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if folder.exists():
            folder.rmdir()


class SummaryFile(Observer):
    """Writes the summary before anybody is told of it. What tells of an interruption goes once the run goes on."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "summary.json"

    def on_start(self, started: RunStarted) -> None:
        for name in ("summary.json", "report.html"):
            self._path.with_name(name).unlink(missing_ok=True)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        write_summary(self._path, summary)
