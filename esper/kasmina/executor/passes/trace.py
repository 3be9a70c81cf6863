"""Which submodules run for one batch, in which order, and with which shapes: one forward pass without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from esper.core.plain import clause
from esper.kasmina.executor.passes.batches import Forward, called, leaves
from esper.kasmina.executor.passes.gradients import gradients, is_reentrant
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import SubmoduleSpec


@dataclass(frozen=True, slots=True)
class Passed:
    """An argument of a call: its keyword, empty for one by position, and its value if that is plain."""

    keyword: str
    is_plain: bool
    value: bool | int | float | str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One call of a submodule: shapes with the batch, None where it isn't a single tensor."""

    path: str
    passed: tuple[Passed, ...]
    order: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    dtype: torch.dtype | None


@dataclass(frozen=True)
class ForwardTrace:
    """All calls of each path in the order in which they ended, and the paths in the order of their first."""

    calls: dict[str, tuple[Visit, ...]]
    read_elsewhere: frozenset[str] = frozenset()
    """Names of parameters that something else than their own module's call computes with."""
    own_calls: tuple[tuple[Passed, ...], ...] = ()
    """What the model itself was called with: never where a step calls its parts, twice where it sees two views."""

    @cached_property
    def visits(self) -> dict[str, Visit]:
        """The last call of each path."""
        return {path: calls[-1] for path, calls in self.calls.items()}

    @cached_property
    def repeated(self) -> frozenset[str]:
        """The paths that were called more than once."""
        return frozenset(path for path, calls in self.calls.items() if len(calls) > 1)

    def count(self, path: str) -> int:
        """How often a submodule was called, or, as `""`, the model itself."""
        return len(self.calls.get(path, ()) if path else self.own_calls)

    def shapes(self, path: str) -> tuple[tuple[int, ...], ...]:
        """What each call of it gave, of one number of dimensions; none where one gave anything else than a tensor."""
        shapes = tuple(visit.output_shape for visit in self.calls.get(path, ()) if visit.output_shape is not None)
        is_one_form = len(shapes) == self.count(path) and len({len(shape) for shape in shapes}) == 1
        return shapes if is_one_form else ()

    def passed(self, path: str) -> tuple[Passed, ...] | None:
        """What every call of it was given; None where that differs, or there was none."""
        given = set(self.own_calls if not path else (visit.passed for visit in self.calls.get(path, ())))
        return given.pop() if len(given) == 1 else None

    def __iter__(self) -> Iterator[Visit]:
        return iter(self.visits.values())


def trace_forward(
    model: nn.Module, inputs: Any, *, seeds: Sequence[nn.Module] = (), forward: Forward = called
) -> ForwardTrace:
    """Runs the model, with its seeds, once in eval mode and records every named submodule's call."""
    calls: dict[str, list[Visit]] = {}
    ended = count()
    whole: list[tuple[Passed, ...]] = []

    def record(path: str, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        visit = Visit(
            path=path,
            passed=_all_passed(arguments, keywords),
            order=next(ended),
            input_shape=_shape(arguments[0] if arguments else None),
            output_shape=_shape(output),
            dtype=output.dtype if isinstance(output, Tensor) else None,
        )
        calls.setdefault(path, []).append(visit)

    handles = [
        module.register_forward_hook(lambda _, *call, path=path: record(path, *call), with_kwargs=True)
        for path, module in _tappable(model)
    ]
    handles += [
        root.register_forward_pre_hook(lambda _, *call: whole.append(_all_passed(*call)), with_kwargs=True)
        for root in ([] if is_script(model) else [model])
    ]
    try:
        with side_pass([model, *seeds], key=draw_key("trace"), training=False), torch.no_grad(), _reads(model) as read:
            forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    by_path = {path: tuple(visits) for path, visits in calls.items()}
    return ForwardTrace(by_path, frozenset(read), tuple(whole))


def _all_passed(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Passed, ...]:
    return (*(_passed("", value) for value in arguments), *(_passed(*item) for item in keywords.items()))


def rerun_order(model: nn.Module, inputs: Any, *, forward: Forward = called) -> tuple[str, ...]:
    """The submodules that re-entrant activation checkpoints run again in backward, in that order; mostly none."""
    order: list[str] = []

    def record(path: str) -> None:
        if torch._C._current_graph_task_id() != -1:
            order.append(path)

    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: record(path)) for path, module in _tappable(model)
    ]
    try:
        with side_pass([model], key=draw_key("trace"), training=False), torch.enable_grad():
            sums = [outputs.float().sum() for outputs in leaves(forward(model, inputs)) if is_reentrant(outputs)]
            if sums:
                gradients(sum(sums[1:], sums[0]), list(model.parameters()), [model])
    finally:
        for handle in handles:
            handle.remove()
    return tuple(order)


def in_words(error: Exception) -> str:
    """An error of foreign code in one line."""
    first_line = clause(next(iter(str(error).splitlines()), ""))
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _tappable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named submodules that take hooks: all but compiled scripts."""
    parts = [(path, module) for path, module in model.named_modules() if path]
    return [(path, module) for path, module in parts if not is_script(module)]


def is_script(module: nn.Module) -> bool:
    """Whether the module is a compiled script, which runs as a whole and takes no hooks."""
    return isinstance(module, torch.jit.ScriptModule)


@contextmanager
def _reads(model: nn.Module) -> Iterator[set[str]]:
    """Collects the parameters that functions compute with while no module that owns them is at work."""
    owners: dict[int, dict[str, nn.Module]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), {})[f"{path}.{name}".removeprefix(".")] = module
    at_work: list[nn.Module] = []
    watched = [module for _, module in _tappable(model) if next(module.parameters(recurse=False), None) is not None]
    handles = [module.register_forward_pre_hook(lambda module, _: at_work.append(module)) for module in watched]
    handles += [
        module.register_forward_hook(lambda module, *_: at_work.remove(module), always_call=True) for module in watched
    ]
    elsewhere: set[str] = set()
    try:
        with _WatchedReads(owners, at_work, elsewhere):
            yield elsewhere
    finally:
        for handle in handles:
            handle.remove()


class _WatchedReads(TorchFunctionMode):
    def __init__(
        self, owners: Mapping[int, Mapping[str, nn.Module]], at_work: Sequence[nn.Module], elsewhere: set[str]
    ) -> None:
        super().__init__()
        self._owners, self._at_work, self._elsewhere = owners, at_work, elsewhere

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # What asks for a size or a type alone follows when these change.
        if next(leaves(result), None) is not None:
            for value in leaves((args, kwargs)):
                owners = self._owners.get(id(value), {})
                if owners and not any(module in self._at_work for module in owners.values()):
                    self._elsewhere.update(owners)
        return result


def submodule_specs(model: nn.Module, trace: ForwardTrace) -> list[SubmoduleSpec]:
    """The submodules that own parameters, in forward order."""
    specs = []
    for visit in trace:
        module = model.get_submodule(visit.path)
        parameters = sum(p.numel() for p in module.parameters(recurse=False) if p.requires_grad)
        if parameters == 0:
            continue
        specs.append(
            SubmoduleSpec(
                path=visit.path,
                class_name=type(module).__name__,
                parameters=parameters,
                output_shape=None if visit.output_shape is None else visit.output_shape[1:],
                dtype=None if visit.dtype is None else str(visit.dtype).removeprefix("torch."),
            )
        )
    return specs


def _passed(keyword: str, value: Any) -> Passed:
    is_plain = isinstance(value, (bool, int, float, str, type(None)))
    return Passed(keyword, is_plain, value if is_plain else None)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
