"""The runs that a page may show: directories of runs, and folders of them, by name; nothing else can be asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

from esper.core.errors import ConfigError, DependencyViolationError
from esper.ui.following import EVENTS, SUMMARY, Following
from esper.ui.plane import PlaneWatch

MOST = 500
"""Most runs of one folder that are listed, the newest."""


class Shelf:
    """Runs by name. A name is looked up among those that are there, never joined to a path."""

    def __init__(self, places: Sequence[Path], watch: Callable[[Path], PlaneWatch]) -> None:
        self._places = tuple(place.absolute() for place in places)
        self._watch = watch
        self._lock = threading.Lock()
        self._followed: dict[Path, Following] = {}
        self._planes: dict[Path, PlaneWatch] = {}
        for place in self._places:
            if not place.is_dir():
                raise ConfigError("RUN_DIR", str(place), "is no directory; give that of a run, or a folder of runs")

    def names(self) -> dict[str, Path]:
        """Every run, the newest first within a folder; those that were named come first, in their order."""
        found: dict[str, Path] = {}
        for path in dict.fromkeys(self._paths()):
            found[_free_name(path, found)] = path
        return found

    def _paths(self) -> Iterator[Path]:
        for place in self._places:
            inside = [] if _is_run(place) else [path for path in _content(place) if _is_run(path)]
            if not inside:
                yield place  # a run that hasn't begun is followed too
            yield from sorted(inside, key=_changed, reverse=True)[:MOST]

    def following(self, name: str) -> Following:
        """The run of that name. Raises DependencyViolationError where there is none."""
        path = self._find(name)
        with self._lock:
            return self._followed.setdefault(path, Following(path))

    def plane(self, name: str) -> PlaneWatch:
        """The control plane of that run, which is asked in the background."""
        path = self._find(name)
        with self._lock:
            if path not in self._planes:
                self._planes[path] = self._watch(path)
            return self._planes[path]

    def _find(self, name: str) -> Path:
        names = self.names()
        if name not in names:
            raise DependencyViolationError("ui", "run", name, f"known are {', '.join(names) or 'none'}")
        return names[name]


def _free_name(path: Path, taken: Container[str]) -> str:
    """The end of a run's path, as much of it as tells the run from those that have a name."""
    parts = path.parts
    names = ("/".join(parts[-count:]) for count in range(1, len(parts)))
    return next((name for name in names if name not in taken), str(path))


def _content(place: Path) -> list[Path]:
    """What a folder holds; one that is gone meanwhile, or may not be read, holds nothing until it can be."""
    try:
        return list(place.iterdir())
    except OSError:
        return []


def _is_run(path: Path) -> bool:
    return (path / EVENTS).is_file() or (path / SUMMARY).is_file()


def _changed(path: Path) -> float:
    try:
        return (path / EVENTS).stat().st_mtime
    except OSError:
        return 0.0
