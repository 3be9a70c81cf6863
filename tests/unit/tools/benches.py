"""The scripts under tools, which are no package."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "tools" / "bench"
TIMING = BENCH / "timing"


def load(name: str, room: Path = BENCH) -> ModuleType:
    """A module of tools/bench, anew."""
    return _loaded(name, room / f"{name}.py")


def load_script(name: str) -> ModuleType:
    """A script of tools, anew."""
    return _loaded(name, ROOT / "tools" / name)


def _loaded(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # A dataclass with slots looks its module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
