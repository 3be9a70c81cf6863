"""Which submodules run for one batch, in which order, and with which shapes: one forward pass without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    """One submodule's only call: shapes with the batch, None where it isn't a single tensor."""

    path: str
    passed: tuple[Passed, ...]
    order: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class ForwardTrace:
    """Visits by path in the order in which calls ended, and the paths that were called more than once."""

    visits: dict[str, Visit]
    repeated: frozenset[str]

    def __iter__(self) -> Iterator[Visit]:
        return iter(self.visits.values())


def trace_forward(model: nn.Module, inputs: Tensor, *, seeds: Sequence[nn.Module] = ()) -> ForwardTrace:
    """Runs the model, with its seeds, once in eval mode and records every named submodule's call."""
    visits: dict[str, Visit] = {}
    repeated: set[str] = set()

    def record(path: str, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if path in visits:
            repeated.add(path)
        visits[path] = Visit(
            path=path,
            passed=(*(_passed("", value) for value in arguments), *(_passed(*item) for item in keywords.items())),
            order=len(visits),
            input_shape=_shape(arguments[0] if arguments else None),
            output_shape=_shape(output),
            dtype=output.dtype if isinstance(output, Tensor) else None,
        )

    handles = [
        module.register_forward_hook(lambda _, *call, path=path: record(path, *call), with_kwargs=True)
        for path, module in _tappable(model)
    ]
    try:
        with side_pass([model, *seeds], key=draw_key("trace"), training=False), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return ForwardTrace(visits, frozenset(repeated))


def rerun_order(model: nn.Module, inputs: Tensor) -> tuple[str, ...]:
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
            outputs = model(inputs)
            if isinstance(outputs, Tensor) and is_reentrant(outputs):
                gradients(outputs.float().sum(), list(model.parameters()), [model])
    finally:
        for handle in handles:
            handle.remove()
    return tuple(order)


def in_words(error: Exception) -> str:
    """An error of foreign code in one line."""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _tappable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named submodules that take hooks: all but compiled scripts."""
    parts = [(path, module) for path, module in model.named_modules() if path]
    return [(path, module) for path, module in parts if not isinstance(module, torch.jit.ScriptModule)]


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
