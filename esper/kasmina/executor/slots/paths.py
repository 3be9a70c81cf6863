"""Proves, on the model's graph, what lies between two width layers.

A span may be folded only if everything between its layers is per channel and layer k's output has no other reader.
A model whose forward can't be traced as a whole is traced part by part: a value inside a submodule's forward is seen
by that forward alone. Tracing runs foreign code on stand-ins for tensors: it may fail in any way and leaves no trace.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from esper.kasmina.executor.passes.compiled import through_compiled
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.slots.between import CallStep, DropoutStep, ModuleStep, Step
from esper.kasmina.executor.slots.layers import (
    ACTIVATION_CALLS,
    ACTIVATION_METHODS,
    ACTIVATIONS,
    POOL_CALLS,
    POOLS,
    is_batch_norm,
    is_convolution,
    is_dropout,
    is_width_layer,
)


@dataclass(frozen=True, slots=True)
class SpanPath:
    """From layer k to layer k+1: the seed's steps, whether positions are flattened into features, and obstacles."""

    read_path: str
    write_path: str
    steps: tuple[Step, ...]
    flattens: bool
    obstacle: str


@dataclass(frozen=True, slots=True)
class Spans:
    """What was found, and in words which parts of the model could not be looked into, and why."""

    paths: tuple[SpanPath, ...]
    untraced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Walk:
    node: fx.Node
    steps: tuple[Step, ...]
    flattens: bool
    obstacle: str


def span_paths(model: nn.Module, output_dims: dict[str, int]) -> Spans:
    """Every pair of neighbouring width layers; `output_dims` tells how many dimensions each layer's output has."""
    paths: list[SpanPath] = []
    untraced: list[str] = []
    with side_pass([model], key=draw_key("paths"), training=None), torch.enable_grad():
        graphs = list(_graphs(model, "", untraced))
    for prefix, graph in graphs:
        walker = _Walker(model, prefix, output_dims)
        for node in graph.nodes:
            try:
                paths += walker.from_layer(node)
            except Exception as error:  # noqa: BLE001 - a graph of foreign code may hold whatever that code passes on
                untraced.append(f"what follows {prefix}{node.target}: {in_words(error)}")
    return Spans(tuple(paths), tuple(untraced))


def _graphs(module: nn.Module, prefix: str, untraced: list[str]) -> Iterator[tuple[str, fx.Graph]]:
    name = f"{prefix.rstrip('.') or 'the model'} ({type(module).__name__})"
    if isinstance(module, torch.jit.ScriptModule):
        untraced.append(f"{name} is a compiled script")
        return
    try:
        graph = _traced(module)
    except Exception as error:  # noqa: BLE001 - foreign code, run on proxies, may raise whatever it likes
        untraced.append(f"{name}: {in_words(error)}")
        for name, child in module.named_children():
            yield from _graphs(child, f"{prefix}{name}.", untraced)
    else:
        yield prefix, graph


def _traced(module: nn.Module) -> fx.Graph:
    """The graph of the module's forward; proxies that the forward keeps in attributes are gone afterwards."""
    with side_pass([module], key=draw_key("paths"), training=None), through_compiled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fx.Tracer().trace(module)


class _Walker:
    def __init__(self, model: nn.Module, prefix: str, output_dims: dict[str, int]) -> None:
        self._model = model
        self._prefix = prefix
        self._output_dims = output_dims

    def from_layer(self, node: fx.Node) -> Iterator[SpanPath]:
        """Follows a width layer's output to the width layers that read it."""
        if node.op != "call_module" or not is_width_layer(self._module(node)):
            return
        source = self._prefix + str(node.target)
        if source not in self._output_dims:
            return
        pending = [_Walk(node, (), False, "")]
        while pending:
            walk = pending.pop()
            readers = [user for user in walk.node.users if not _reads_batch_size(user)]
            obstacle = walk.obstacle
            if len(readers) > 1:
                obstacle = obstacle or f"{source}'s output has another reader"
            for reader in readers:
                found = self._advance(source, walk, reader, obstacle)
                if isinstance(found, SpanPath):
                    yield found
                elif found is not None:
                    pending.append(found)

    def _advance(self, source: str, walk: _Walk, reader: fx.Node, obstacle: str) -> SpanPath | _Walk | None:
        if reader.op == "call_module" and is_width_layer(self._module(reader)):
            is_conv = is_convolution(self._model.get_submodule(source))
            if is_convolution(self._module(reader)) != (is_conv and not walk.flattens) or (
                not is_conv and walk.flattens
            ):
                return None
            target = self._prefix + str(reader.target)
            return SpanPath(source, target, walk.steps, walk.flattens, obstacle)
        flattens = walk.flattens or self._flattens(source, reader) or self._averages(source, reader)
        step = self._step(source, reader, walk.flattens)
        if isinstance(step, str):
            return _Walk(reader, walk.steps, flattens, obstacle or step)
        return None if step is None else _Walk(reader, (*walk.steps, step), flattens, obstacle)

    def _step(self, source: str, node: fx.Node, is_flat: bool) -> Step | str | None:
        """A step of the seed; or, in words, what keeps the span from being folded; or None where the path ends."""
        if node.op == "call_module":
            return self._module_step(source, node, is_flat)
        if not _is_unary(node):
            return None
        if self._averages(source, node):
            return CallStep(torch.mean, (tuple(range(2, self._output_dims[source])),))
        if not is_flat and self._moves_positions(source, node):
            return CallStep(node.target, tuple(node.args[1:]), dict(node.kwargs))  # type: ignore[arg-type]
        if node.op == "call_function":
            return self._call_step(source, node)
        if node.op == "call_method" and node.target in ACTIVATION_METHODS:
            return CallStep(ACTIVATION_METHODS[str(node.target)])
        return CallStep(torch.flatten, (1,)) if self._flattens(source, node) else None

    def _module_step(self, source: str, node: fx.Node, is_flat: bool) -> Step | str | None:
        module, path = self._module(node), self._prefix + str(node.target)
        is_conv = is_convolution(self._model.get_submodule(source)) and not is_flat
        if isinstance(module, (nn.Identity, *ACTIVATIONS)) or is_dropout(module) or self._flattens(source, node):
            return ModuleStep(path)
        if is_batch_norm(module) and (is_conv or self._output_dims[source] == 2) and not is_flat:
            return ModuleStep(path)
        if isinstance(module, POOLS):
            return ModuleStep(path) if is_conv else None
        keeps_shape = isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.PReLU))
        keeps_shape = keeps_shape or is_batch_norm(module) or isinstance(module, nn.modules.instancenorm._InstanceNorm)
        return f"{path} ({type(module).__name__}) is not per channel" if keeps_shape else None

    def _call_step(self, source: str, node: fx.Node) -> Step | str | None:
        function: Any = node.target
        if function is F.dropout:
            return DropoutStep(float(node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)))  # type: ignore[arg-type]
        is_pool = getattr(function, "__name__", "").lstrip("_") in POOL_CALLS
        is_pool = is_pool and is_convolution(self._model.get_submodule(source))
        if function in ACTIVATION_CALLS or is_pool:
            return CallStep(function, tuple(node.args[1:]), {k: v for k, v in node.kwargs.items() if k != "input"})
        if self._flattens(source, node):
            return CallStep(torch.flatten, (1,))
        return f"{function.__name__} is not per channel" if function in (F.layer_norm, F.group_norm) else None

    def _flattens(self, source: str, node: fx.Node) -> bool:
        """True if the node makes [batch, channels, positions...] into [batch, channels * positions]."""
        if not is_convolution(self._model.get_submodule(source)):
            return False
        if node.op == "call_module":
            module = self._module(node)
            return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1
        if node.target in (torch.flatten, "flatten"):
            start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
            return bool(start == 1) and len(node.args) < 3 and "end_dim" not in node.kwargs
        if node.target in ("view", "reshape", torch.reshape):
            sizes: Any = node.args[1:] if len(node.args) == 3 else (node.args[1] if len(node.args) == 2 else ())
            is_pair = isinstance(sizes, (tuple, list)) and len(sizes) == 2
            return is_pair and sizes[1] == -1 and _is_batch_size(sizes[0])
        return False

    def _moves_positions(self, source: str, node: fx.Node) -> bool:
        """True if the node pads positions of [batch, channels, positions...], or cuts some off."""
        if node.op != "call_function" or not is_convolution(self._model.get_submodule(source)):
            return False
        given: Any = node.args[1] if len(node.args) > 1 else None
        if node.target is F.pad:
            is_given = isinstance(given, (tuple, list)) and all(isinstance(size, int) for size in given)
            return is_given and len(given) <= 2 * (self._output_dims[source] - 2)
        if node.target is not getitem or not isinstance(given, tuple):
            return False
        places = given[1:] if given[:1] == (...,) else given[2:] if given[:2] == (slice(None), slice(None)) else ()
        ends = [(place.start, place.stop, place.step) for place in places if isinstance(place, slice)]
        is_fixed = all(isinstance(end, (int, type(None))) for each in ends for end in each)
        return is_fixed and 0 < len(ends) == len(places) <= self._output_dims[source] - 2

    def _averages(self, source: str, node: fx.Node) -> bool:
        """True if the node averages [batch, channels, positions...] over all positions."""
        if not is_convolution(self._model.get_submodule(source)) or node.target not in (torch.mean, "mean"):
            return False
        sizes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
        dims = self._output_dims[source]
        given = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
        positions = sorted(size % dims for size in given if isinstance(size, int))
        return positions == list(range(2, dims)) and not node.kwargs.get("keepdim", len(node.args) > 2)

    def _module(self, node: fx.Node) -> nn.Module:
        return self._model.get_submodule(self._prefix + str(node.target))


def _is_unary(node: fx.Node) -> bool:
    """True if the node reads one value beside batch sizes."""
    return all(_is_batch_size(other) for other in node.all_input_nodes[1:])


def _reads_batch_size(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    is_shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    return is_shape and all(_is_batch_size(user) for user in node.users)


def _is_batch_size(value: Any) -> bool:
    if not isinstance(value, fx.Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return value.args[1:] == (0,)
    source = value.args[0] if value.op == "call_function" and len(value.args) == 2 and value.args[1] == 0 else None
    return isinstance(source, fx.Node) and source.target is getattr and source.args[1] == "shape"
