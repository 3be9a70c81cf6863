"""What a model says of its own depth, rewritten when its blocks are rearranged: indices, counts, lists of layer types.

Known names only. Where a forward pass counts blocks by a name that isn't known, the copies don't run, and the graft's
proof refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.stacks.equal import POSITIONS
from esper.kasmina.executor.stacks.run import blocks_of

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
LISTS = ("layer_types", "attention_layers")
STAGES = ("depths",)
"""Counts of several containers in one list, each at the index that its path holds: `stages.1.layers`."""

Undo = Callable[[], None]
Change = tuple[Any, str, Any, Any]


def rewrite(model: nn.Module, path: str, order: Sequence[int], count: int) -> Undo:
    """Make the model agree with its container at `path`, whose block i now is, or is a copy of, former block order[i].

    `count` is the number of former blocks. Raises GraftFailed, with everything as before, for what can't be set.
    """
    return _apply([*_counts(model, path, order, count), *_positions(model, path, order)])


def _counts(model: nn.Module, path: str, order: Sequence[int], count: int) -> Iterator[Change]:
    for holder in _holders(model, path):
        for name in COUNTS:
            value = getattr(holder, name, None)
            if type(value) is int and value == count:
                yield holder, name, value, len(order)
        for name in LISTS:
            values = getattr(holder, name, None)
            if isinstance(values, list) and len(values) == count:
                yield holder, name, values, [values[index] for index in order]
        for name in STAGES:
            depths = getattr(holder, name, None)
            for stage in (int(part) for part in path.split(".") if part.isdigit()):
                if isinstance(depths, list) and stage < len(depths) and depths[stage] == count:
                    yield holder, name, depths, [*depths[:stage], len(order), *depths[stage + 1 :]]


def _positions(model: nn.Module, path: str, order: Sequence[int]) -> Iterator[Change]:
    for place, (block, index) in enumerate(zip(blocks_of(model, path), order, strict=True)):
        for module in block.modules():
            for name in sorted(POSITIONS & vars(module).keys()):
                value = getattr(module, name)
                if type(value) is int:
                    yield module, name, value, value - index + place


def _holders(model: nn.Module, path: str) -> Iterator[Any]:
    """Who may count the blocks: the modules above the container, and every configuration, each once."""
    names = path.split(".")
    above = [model.get_submodule(".".join(names[:length])) for length in range(len(names))]
    seen: set[int] = set()
    for holder in (*above, *(getattr(module, "config", None) for module in model.modules())):
        if holder is not None and not isinstance(holder, dict) and id(holder) not in seen:
            seen.add(id(holder))
            yield holder


def _apply(changes: Sequence[Change]) -> Undo:
    done: list[Change] = []

    def undo() -> None:
        for holder, name, old, _ in reversed(done):
            setattr(holder, name, old)

    for holder, name, old, new in changes:
        try:
            setattr(holder, name, new)
        except (AttributeError, TypeError, ValueError) as error:
            if getattr(holder, name) == new:
                continue  # it follows from a count that was set before
            undo()
            raise GraftFailed(f"{type(holder).__name__}.{name} is {old} and can't be set to {new}: {error}") from error
        done.append((holder, name, old, new))
    return undo
