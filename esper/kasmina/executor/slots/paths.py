"""Proves, on the model's graph, what lies between two width layers.

A span may be folded only if everything between its layers is per channel and layer k's output has no other reader.
A model whose forward can't be traced as a whole is traced part by part: a value inside a submodule's forward is seen
by that forward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.slots.between import CallStep, DropoutStep, ModuleStep, Step
from esper.kasmina.executor.slots.graphs import Calls, graphs_of
from esper.kasmina.executor.slots.layers import (
    ACTIVATION_CALLS,
    ACTIVATION_METHODS,
    ACTIVATIONS,
    POOL_CALLS,
    POOLS,
    is_batch_norm,
    is_convolution,
    is_dropout,
    is_grouped,
    is_width_layer,
    reshape_obstacle,
)
from esper.kasmina.executor.slots.nodes import is_batch_size, is_unary, reads_batch_size
from esper.kasmina.executor.slots.pointwise import pointwise_modules
from esper.kasmina.executor.slots.products import product
from esper.kasmina.executor.slots.repeats import same_each_time

ENCODER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


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


def span_paths(
    model: nn.Module,
    output_dims: dict[str, int],
    calls: Calls | None = None,
    runs: Callable[[str], int] = lambda path: 1,
) -> Spans:
    """Every pair of neighbouring width layers; `output_dims` tells how many dimensions each layer's output has.

    `calls` are what submodules are called with: many can be traced only so. `runs` says how often a submodule is called
    in a forward pass.
    """
    paths: list[SpanPath] = list(encoder_layers(model, output_dims))
    untraced: list[str] = []
    pointwise = pointwise_modules(model)
    with side_pass([model], key=draw_key("paths"), training=None), torch.enable_grad():
        graphs = list(graphs_of(model, "", set(pointwise), untraced, calls or {}))
    for prefix, graph in graphs:
        walker = _Walker(model, prefix, output_dims, pointwise)
        begun: list[tuple[str, list[SpanPath]]] = []
        for node in filter(walker.is_layer, graph.nodes):
            try:
                begun.append((walker.path(node), list(walker.from_layer(node))))
            except Exception as error:  # noqa: BLE001 - a graph of foreign code may hold whatever that code passes on
                untraced.append(f"what follows {prefix}{node.target}: {in_words(error)}")
        kept, refused = same_each_time(begun, runs(prefix.rstrip(".")), runs)
        paths += kept
        untraced += refused
    return Spans(tuple(_without_inner(paths)), tuple(untraced))


def _without_inner(paths: list[SpanPath]) -> Iterator[SpanPath]:
    """No path that ends or begins at a layer which a longer one goes through."""
    passed = {(path.read_path, step.path) for path in paths for step in path.steps if isinstance(step, ModuleStep)}
    inner = {step for _, step in passed}
    for path in paths:
        if (path.read_path, path.write_path) not in passed and path.read_path not in inner:
            yield path


class _Walker:
    def __init__(
        self, model: nn.Module, prefix: str, output_dims: dict[str, int], pointwise: frozenset[nn.Module]
    ) -> None:
        self._pointwise = pointwise
        self._model = model
        self._prefix = prefix
        self._output_dims = output_dims

    def is_layer(self, node: fx.Node) -> bool:
        """Whether a node calls a width layer."""
        return node.op == "call_module" and is_width_layer(self.module(node))

    def from_layer(self, node: fx.Node) -> Iterator[SpanPath]:
        """Follows a width layer's output to the width layers that read it."""
        source = self.path(node)
        if source not in self._output_dims:
            return
        pending = [_Walk(node, (), False, "")]
        while pending:
            walk = pending.pop()
            readers = [user for user in walk.node.users if not reads_batch_size(user)]
            obstacle = walk.obstacle
            if len(readers) > 1:
                obstacle = obstacle or f"{source}'s output has another reader"
            for reader in readers:
                for found in self._advance(node, walk, reader, obstacle):
                    if isinstance(found, SpanPath):
                        yield found
                    else:
                        pending.append(found)

    def _advance(self, origin: fx.Node, walk: _Walk, reader: fx.Node, obstacle: str) -> Iterator[SpanPath | _Walk]:
        source = self.path(origin)
        if self.is_layer(reader):
            if (ended := self._end(source, walk, reader, obstacle)) is not None:
                yield ended
            if is_grouped(self.module(reader)) and is_convolution(self.module(origin)) and not walk.flattens:
                step = ModuleStep(self.path(reader))
                why = obstacle or reshape_obstacle(step.path, self.module(reader), may_be_grouped=True)
                yield _Walk(reader, (*walk.steps, step), False, why)
        elif not walk.flattens and (found := product(self, origin, walk.node, reader)) is not None:
            last, product_step, why = found
            yield _Walk(last, (*walk.steps, product_step), False, obstacle or why)
        elif (following := self._follow(source, walk, reader, obstacle)) is not None:
            yield following

    def _end(self, source: str, walk: _Walk, reader: fx.Node, obstacle: str) -> SpanPath | None:
        """A width layer that reads what the walk has made, if it reads it as such."""
        is_conv = is_convolution(self._model.get_submodule(source))
        if is_convolution(self.module(reader)) != (is_conv and not walk.flattens) or (not is_conv and walk.flattens):
            return None
        return SpanPath(source, self.path(reader), walk.steps, walk.flattens, obstacle)

    def _follow(self, source: str, walk: _Walk, reader: fx.Node, obstacle: str) -> _Walk | None:
        flattens = walk.flattens or self._flattens(source, reader) or self._averages(source, reader)
        step = self.step(source, reader, walk.flattens)
        if isinstance(step, str):
            return _Walk(reader, walk.steps, flattens, obstacle or step)
        return None if step is None else _Walk(reader, (*walk.steps, step), flattens, obstacle)

    def step(self, source: str, node: fx.Node, is_flat: bool) -> Step | str | None:
        """A step of the seed; or, in words, what keeps the span from being folded; or None where the path ends."""
        if node.op == "call_module":
            return self._module_step(source, node, is_flat)
        if not is_unary(node):
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
        module, path = self.module(node), self.path(node)
        is_conv = is_convolution(self._model.get_submodule(source)) and not is_flat
        is_activation = module in self._pointwise or isinstance(module, (nn.Identity, *ACTIVATIONS))
        if is_activation or is_dropout(module) or self._flattens(source, node):
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
            module = self.module(node)
            return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1
        if node.target in (torch.flatten, "flatten"):
            start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
            return bool(start == 1) and len(node.args) < 3 and "end_dim" not in node.kwargs
        if node.target in ("view", "reshape", torch.reshape):
            sizes: Any = node.args[1:] if len(node.args) == 3 else (node.args[1] if len(node.args) == 2 else ())
            is_pair = isinstance(sizes, (tuple, list)) and len(sizes) == 2
            return is_pair and sizes[1] == -1 and is_batch_size(sizes[0])
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

    def module(self, node: fx.Node) -> nn.Module:
        """What a node calls."""
        return self._model.get_submodule(self.path(node))

    def path(self, node: fx.Node) -> str:
        """Where that stands in the model."""
        return self._prefix + str(node.target)


def encoder_layers(model: nn.Module, output_dims: dict[str, int]) -> Iterator[SpanPath]:
    """The MLPs inside torch's own transformer layers, whose forward the tracer doesn't go into."""
    for path, module in model.named_modules():
        kind = next((kind for kind in ENCODER_LAYERS if isinstance(module, kind)), None)
        prefix = f"{path}." if path else ""
        if kind is None or f"{prefix}linear1" not in output_dims:
            continue
        if type(module).forward is kind.forward and type(module)._ff_block is kind._ff_block:
            dropout = ModuleStep(f"{prefix}dropout")
            is_module = isinstance(module.activation, nn.Module)
            activation = ModuleStep(f"{prefix}activation") if is_module else CallStep(module.activation)
            is_known = isinstance(module.activation, ACTIVATIONS) or module.activation in ACTIVATION_CALLS
            why = "" if is_known else f"{path} has an activation that is not known to be per channel"
            yield SpanPath(f"{prefix}linear1", f"{prefix}linear2", (activation, dropout), False, why)
