"""The runs that a page may show: directories of runs, and folders of them, by name; nothing else can be asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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
        for path in self._paths():
            name = path.name if path.name not in found else f"{path.parent.name}/{path.name}"
            found.setdefault(name, path)
        return found

    def _paths(self) -> Iterator[Path]:
        for place in self._places:
            inside = [] if _is_run(place) else [path for path in place.iterdir() if _is_run(path)]
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


def _is_run(path: Path) -> bool:
    return (path / EVENTS).is_file() or (path / SUMMARY).is_file()


def _changed(path: Path) -> float:
    try:
        return (path / EVENTS).stat().st_mtime
    except OSError:
        return 0.0
