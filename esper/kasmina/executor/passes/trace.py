"""Which submodules run for one batch, in which order, and with which shapes: one forward pass without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.leyline import SubmoduleSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One submodule's only call: shapes with the batch, None where it isn't a single tensor."""

    path: str
    order: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class ForwardTrace:
    """Visits by path in the order in which calls ended, and the paths that were called more than once.

    `untapped` are the paths that take no hook, such as compiled scripts: what runs in them isn't seen.
    """

    visits: dict[str, Visit]
    repeated: frozenset[str]
    untapped: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Visit]:
        return iter(self.visits.values())


def trace_forward(model: nn.Module, inputs: Tensor, *, seeds: Sequence[nn.Module] = ()) -> ForwardTrace:
    """Runs the model, with its seeds, once in eval mode and records every named submodule's call."""
    visits: dict[str, Visit] = {}
    repeated: set[str] = set()

    def record(path: str, arguments: tuple[Any, ...], output: Any) -> None:
        if path in visits:
            repeated.add(path)
        visits[path] = Visit(
            path=path,
            order=len(visits),
            input_shape=_shape(arguments[0] if arguments else None),
            output_shape=_shape(output),
            dtype=output.dtype if isinstance(output, Tensor) else None,
        )

    tapped = {path: module for path, module in model.named_modules() if path and takes_hooks(module)}
    handles = [
        module.register_forward_hook(lambda _, arguments, output, path=path: record(path, arguments, output))
        for path, module in tapped.items()
    ]
    try:
        with side_pass([model, *seeds], key=draw_key("trace"), training=False), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    untapped = tuple(path for path, _ in model.named_modules() if path and path not in tapped)
    return ForwardTrace(visits, frozenset(repeated), untapped)


def in_words(error: Exception) -> str:
    """An error of foreign code in one line."""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def takes_hooks(module: nn.Module) -> bool:
    """False for scripts: torch refuses hooks on them."""
    return not isinstance(module, torch.jit.ScriptModule)


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


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
