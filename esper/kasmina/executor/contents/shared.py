"""What a network's modules share with every other of their classes: class attributes, and globals of their methods.

Neither a copy nor a checkpoint has them, so a pass that changes one reaches beyond the network.
"""

from __future__ import annotations

import types
from collections import deque
from typing import Any

from torch import Tensor, nn

from esper.kasmina.executor.contents.containers import is_plain
from esper.kasmina.executor.contents.objects import FOREIGN

# Members up to which a container is looked into.
LONGEST = 1000


class Shared:
    """The values at one moment, to be compared with those of a later one."""

    def __init__(self, model: nn.Module) -> None:
        kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__)
        self._kinds = [kind for kind in kinds if kind is not object and not kind.__module__.startswith(FOREIGN)]
        self._before = self._values()

    def changed(self) -> list[str]:
        """What is another now: `the class attribute Net.calls`, `the global COUNT of module`."""
        now = self._values()
        return [name for name, value in now.items() if not _is_same(value, self._before.get(name))]

    def _values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in self._kinds:
            for name, value in vars(kind).items():
                if isinstance(value, types.FunctionType):
                    found |= _globals_of(value)
                elif not name.startswith("__"):
                    found[f"the class attribute {kind.__qualname__}.{name}"] = _form(value)
        return found


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    known = function.__globals__
    names = [name for name in function.__code__.co_names if name in known]
    return {f"the global {name} of {function.__module__}": _form(known[name]) for name in names}


def _form(value: Any) -> Any:
    """What shows a change of the value without a copy of it; of what isn't plain, only that it is another object."""
    if is_plain(value):
        return repr(value)
    if isinstance(value, Tensor) and not value.is_inference():
        return f"{id(value)}, written {value._version} times"
    if isinstance(value, (list, dict, set, deque)):
        members = [*value, *value.values()] if isinstance(value, dict) else value
        return repr(value) if len(value) <= LONGEST and all(map(is_plain, members)) else f"{id(value)}, {len(value)}"
    return value


def _is_same(now: Any, before: Any) -> bool:
    return now is before or (isinstance(now, str) and isinstance(before, str) and now == before)
