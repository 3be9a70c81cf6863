"""Runs of equal blocks: neighbours in a ModuleList or Sequential, each reading what the one before it gave.

Experts beside each other are equal blocks too, but none reads its neighbour: such a list is no run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.batches import Forward, called
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.stacks.equal import difference

CONTAINERS = (nn.ModuleList, nn.Sequential)
PREFIX = "stack:"
OWN_WEIGHTS = "a run needs blocks with weights of their own"


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks `start` to `stop` (not included) of the container at `path`."""

    path: str
    start: int
    stop: int

    @property
    def slot_id(self) -> str:
        return f"{PREFIX}{self.path}"

    @property
    def depth(self) -> int:
        """Blocks of the run."""
        return self.stop - self.start

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The run's blocks in the model, in order."""
        return blocks_of(model, self.path)[self.start : self.stop]


def blocks_of(model: nn.Module, path: str) -> list[nn.Module]:
    """The blocks of a container in order, one that stands there twice twice."""
    return [block for block in model.get_submodule(path)._modules.values() if block is not None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A list of blocks that can't be repeated, and why."""

    path: str
    reason: str


def find_runs(model: nn.Module, inputs: Any, *, forward: Forward = called) -> tuple[list[Run], list[Refusal]]:
    """The longest run of each container that has one, in the model's order, and the lists that are none.

    One pass over `inputs` in eval mode shows which block reads which; it leaves no trace. A block outside of lists that
    runs several times, as ALBERT's do, is refused as well.
    """
    containers = {path: blocks_of(model, path) for path, module in model.named_modules() if _is_list_of_blocks(module)}
    singles = _single_blocks(model, containers)
    if not containers and not singles:
        return [], []
    quietly = side_pass([model], key=draw_key("stacks"), training=False)
    with _watched(containers, singles) as passed, quietly, torch.no_grad():
        forward(model, inputs)
    found = [_longest(path, blocks, passed) for path, blocks in containers.items()]
    runs = [run for run in found if isinstance(run, Run)]
    outer = [run for run in runs if not any(run.path.startswith(f"{other.path}.") for other in runs)]
    refused = [refusal for refusal in found if isinstance(refusal, Refusal) and refusal.path]
    return outer, [*refused, *_used_again(singles, passed)]


def named_run(model: nn.Module, inputs: Any, name: str, *, forward: Forward = called) -> Run:
    """The run that a user names, `stack:PATH`. Raises ConfigError with the reason where it is none."""
    path = name.removeprefix(PREFIX)
    runs, refusals = find_runs(model, inputs, forward=forward)
    for run in runs:
        if run.path == path:
            return run
    for refusal in refusals:
        if refusal.path == path:
            raise ConfigError("slots", name, f"can't be repeated: {refusal.reason}")
    known = ", ".join(run.slot_id for run in runs) or "none"
    raise ConfigError("slots", name, f"is no list of blocks; runs of equal blocks in this model: {known}")


@dataclass(slots=True)
class _Passage:
    """What went into a block and what came out of it at each call, as the identities of the leading tensors."""

    calls: int = 0
    read: list[int] = field(default_factory=list)
    gave: list[int] = field(default_factory=list)


@contextmanager
def _watched(
    containers: dict[str, list[nn.Module]], singles: dict[str, nn.Module]
) -> Iterator[dict[nn.Module, _Passage]]:
    passed: dict[nn.Module, _Passage] = {}
    kept: list[Any] = []  # an identity is good only while its object lives

    def note(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        passage = passed.setdefault(module, _Passage())
        kept.extend((arguments, options, output))
        passage.calls += 1
        passage.read.append(id(leading((*arguments, *options.values()))))
        passage.gave.append(id(leading(output)))

    def count(module: nn.Module, *_: object) -> None:
        passed.setdefault(module, _Passage()).calls += 1

    blocks = {block for children in containers.values() for block in children if not _is_script(block)}
    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(note, with_kwargs=True).remove)
        for block in singles.values():
            hooks.callback(block.register_forward_hook(count).remove)
        yield passed


def leading(value: Any) -> Any:
    """The first tensor of arguments or results."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((found for item in items if isinstance(found := leading(item), Tensor)), None)


def _longest(path: str, blocks: list[nn.Module], passed: dict[nn.Module, _Passage]) -> Run | Refusal:
    """The longest run of neighbours; of equal ones the last, since the first blocks often differ."""
    joints = [_joint(left, right, passed) for left, right in pairwise(blocks)]
    best, start = Run(path, 0, 0), 0
    for index, obstacle in enumerate([*joints, "the end"]):
        if obstacle:
            if index + 1 - start >= best.depth:
                best = Run(path, start, index + 1)
            start = index + 1
    if best.depth >= 2:
        return best if path and _is_trained(blocks[best.start : best.stop]) else _unusable(best)
    return Refusal(path, f"blocks 0 and 1 {joints[0]}" if joints else _alone(blocks[0], passed))


def _alone(block: nn.Module, passed: dict[nn.Module, _Passage]) -> str:
    passage = passed.get(block, _Passage())
    return f"its one block {_again(passage)}" if passage.calls > 1 else "it has one block, a run needs two"


def _again(passage: _Passage) -> str:
    return f"runs {passage.calls} times in a forward pass with the same weights; {OWN_WEIGHTS}"


def _used_again(singles: dict[str, nn.Module], passed: dict[nn.Module, _Passage]) -> list[Refusal]:
    """Blocks that run several times in a pass, without those inside of others that do."""
    found: list[Refusal] = []
    for path, block in singles.items():
        passage = passed.get(block, _Passage())
        if passage.calls > 1 and not any(path.startswith(f"{outer.path}.") for outer in found):
            found.append(Refusal(path, f"it {_again(passage)}"))
    return found


def _unusable(run: Run) -> Refusal:
    if run.path:
        return Refusal(run.path, "nothing in its blocks is trained: every parameter is frozen, or there is none")
    places = f"{run.start} to {run.stop - 1}"
    return Refusal("the model", f"its blocks {places} can't be named in it; put them in a Sequential of their own")


def _is_trained(blocks: list[nn.Module]) -> bool:
    return any(parameter.requires_grad for block in blocks for parameter in block.parameters())


def _joint(left: nn.Module, right: nn.Module, passed: dict[nn.Module, _Passage]) -> str:
    """Why two neighbours are no run, or nothing."""
    if left is right:
        return f"are one block, which {_again(passed.get(left, _Passage()))}"
    if {id(p) for p in left.parameters()} & {id(p) for p in right.parameters()}:
        return f"share parameters; {OWN_WEIGHTS}"
    if _is_script(left) or _is_script(right):
        return "are compiled (torch.jit), and nothing can be seen of what passes through"
    if found := difference(left, right):
        return f"differ in {found}"
    before, after = passed.get(left), passed.get(right)
    if before is None or after is None or before.calls != after.calls:
        return "don't each run as often in a forward pass"
    return "" if before.gave == after.read else "don't follow each other: the second doesn't read what the first gives"


def _is_list_of_blocks(module: nn.Module) -> bool:
    """A container whose children are named by their places and are more than single layers."""
    if not isinstance(module, CONTAINERS):
        return False
    names = list(module._modules)
    has_blocks = any(
        next(child.children(), None) is not None and not is_parametrized(child) for child in module.children()
    )
    return has_blocks and names == [str(index) for index in range(len(names))]


def _is_script(block: nn.Module) -> bool:
    """Whether torch hangs no hook on it."""
    return isinstance(block, torch.jit.ScriptModule)


def _single_blocks(model: nn.Module, containers: Iterable[str]) -> dict[str, nn.Module]:
    """Trained modules of more than one layer, outside of lists of blocks."""
    lists = tuple(path and f"{path}." for path in containers)
    return {
        path: module
        for path, module in model.named_modules()
        if path
        and not f"{path}.".startswith(lists)
        and not _is_script(module)
        and next(module.children(), None)
        and _is_trained([module])
    }
