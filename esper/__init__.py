"""Esper: a control plane that grows PyTorch networks while they train.

`esper.train` and `esper.Growth` are the door for a script of one's own; they are imported when they are asked for, so
that the services stay without torch. Types stand in the stub beside this file.
"""

from importlib import import_module

__version__ = "0.1.0"

_DOOR = {
    "Change": "esper.tolaria.door.change",
    "Context": "esper.tolaria.door.script",
    "Data": "esper.tolaria.door.data",
    "DoubtWarning": "esper.core.errors",
    "Display": "esper.tolaria.door.display",
    "Growth": "esper.tolaria.door.growth",
    "Result": "esper.tolaria.door.train",
    "TrainConfig": "esper.tolaria.config",
    "train": "esper.tolaria.door.train",
}


def __getattr__(name: str) -> object:
    if name not in _DOOR:
        raise AttributeError(f"module 'esper' has no attribute {name!r}")
    found: object = getattr(import_module(_DOOR[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOOR])
