"""The graphs of a model's forward passes: of the whole, or part by part where the whole can't be traced.

Tracing runs foreign code on stand-ins for tensors: it may fail in any way and leaves no trace.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import esper
from esper.kasmina.executor.passes.compiled import through_compiled
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.trace import Passed, in_words
from esper.kasmina.executor.slots.layers import is_turned

NO_GRAPH = ": what it does can't be traced beyond "
NOT_THE_MODELS = (*torch.__path__, *esper.__path__)

Calls = Mapping[str, Sequence[Passed]]
"""What each submodule was called with in a forward pass, by its path."""


def graphs_of(
    module: nn.Module, prefix: str, leaves: set[nn.Module], untraced: list[str], calls: Calls
) -> Iterator[tuple[str, fx.Graph]]:
    """Graphs of the module or, where it can't be traced, of its parts, and of it around the parts that can't be."""
    name = f"{prefix.rstrip('.') or 'the model'} ({type(module).__name__})"
    if isinstance(module, torch.jit.ScriptModule):
        untraced.append(f"{name} is a compiled script")
        leaves.add(module)
        return
    try:
        graph = _traced(module, leaves)
    except Exception as error:  # noqa: BLE001 - foreign code, run on proxies, may raise whatever it likes
        if _has_forward(module):
            untraced.append(f"{name}{NO_GRAPH}{_place(error) or in_words(error).partition('. ')[0]}")
        for child_name, child in module.named_children():
            if not _is_layer(child):
                yield from graphs_of(child, f"{prefix}{child_name}.", leaves, untraced, calls)
        try:
            yield prefix, _traced_as_called(module, leaves, calls[prefix.rstrip(".")])
        except Exception:  # noqa: BLE001 - as above, or it wasn't called
            leaves.add(module)
    else:
        yield prefix, graph


def _place(error: Exception) -> str:
    """Where the model's own code ended, with that line; empty where no line of it is left."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.line and not frame.filename.startswith((*NOT_THE_MODELS, "<"))]
    if not own:
        return ""
    line = " ".join((own[-1].line or "").split())
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} `{line[:80]}`"


def _has_forward(module: nn.Module) -> bool:
    """Whether it computes; a ModuleList only holds."""
    return type(module).forward is not nn.Module.forward


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a single layer of torch's, of which nothing is to be looked into."""
    return type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is None


class _Tracer(fx.Tracer):
    """Goes into every module but torch's own and the given ones."""

    def __init__(self, leaves: set[nn.Module]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or is_turned(m) or super().is_leaf_module(m, module_qualified_name)


class _AsCalled(nn.Module):
    """The module with what it was called with: plain values as they were, a stand-in for everything else."""

    def __init__(self, module: nn.Module, passed: Sequence[Passed]) -> None:
        super().__init__()
        self.module = module
        self._passed = passed

    def forward(self, values: Any) -> Any:
        given = [item.value if item.is_plain else values[place] for place, item in enumerate(self._passed)]
        pairs = list(zip(self._passed, given, strict=True))
        arguments = [value for item, value in pairs if not item.keyword]
        return self.module.forward(*arguments, **{item.keyword: value for item, value in pairs if item.keyword})


def _traced(module: nn.Module, leaves: set[nn.Module]) -> fx.Graph:
    """The graph of the module's forward; proxies that the forward keeps in attributes are gone afterwards."""
    with side_pass([module], key=draw_key("paths"), training=None), through_compiled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Tracer(leaves - {module}).trace(module)


def _traced_as_called(module: nn.Module, leaves: set[nn.Module], passed: Sequence[Passed]) -> fx.Graph:
    graph = _traced(_AsCalled(module, passed), leaves)
    for node in graph.nodes:
        if node.op == "call_module":
            node.target = str(node.target).removeprefix("module.")
    return graph
