"""The modules of tools/experiments, which are scripts and no package."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[4] / "tools" / "experiments"
JUDGING = FOLDER / "judging"
GROWING = FOLDER / "growing"
LEARNING = FOLDER / "learning"


def load(name: str, room: Path = FOLDER) -> ModuleType:
    """A module of tools/experiments, anew; one that it imports must have been loaded before."""
    spec = spec_from_file_location(name, room / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # A dataclass with slots looks its module up, and a script its neighbour.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
