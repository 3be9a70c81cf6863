"""Gated MLPs on a graph: where two values that come from one input are multiplied element by element."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import fx, nn

from esper.kasmina.executor.slots.between import CallStep, DropoutStep, GateStep, HalvesStep, ModuleStep, Step
from esper.kasmina.executor.slots.layers import (
    features_in,
    features_out,
    is_convolution,
    is_width_layer,
    reshape_obstacle,
)
from esper.kasmina.executor.slots.nodes import is_glu, is_product, reads_batch_size, two_parts


class Reader(Protocol):
    """Who knows the graph's model."""

    def module(self, node: fx.Node) -> nn.Module:
        """What a node calls."""

    def path(self, node: fx.Node) -> str:
        """Where that stands in the model."""

    def step(self, source: str, node: fx.Node, is_flat: bool) -> Step | str | None:
        """A step of a seed; or, in words, what keeps the span from being folded; or None where the path ends."""


Product = tuple[fx.Node, Step, str]
"""The node that multiplies, the seed's step that does the same, and what keeps that from being folded."""


def product(graph: Reader, origin: fx.Node, value: fx.Node, reader: fx.Node) -> Product | None:
    """Where a gated MLP multiplies what has become of the output of `origin`."""
    gated = _gate(graph, origin, value, reader)
    return gated if gated is not None else _halves(graph, origin, reader)


def _gate(graph: Reader, origin: fx.Node, value: fx.Node, reader: fx.Node) -> Product | None:
    """The product with what a later layer makes of the same input."""
    if not is_product(reader):
        return None
    other = next((node for node in reader.all_input_nodes if node is not value), None)
    steps: list[Step] = []
    nodes = list(origin.graph.nodes)
    while other is not None and not (other.op == "call_module" and is_width_layer(graph.module(other))):
        step = _backward_step(graph, origin, other)
        if step is None:
            return None
        steps.insert(0, step)
        other = other.all_input_nodes[0]
    if other is None or nodes.index(other) < nodes.index(origin) or not _is_beside(graph, origin, other):
        return None
    path = graph.path(other)
    why = reshape_obstacle(path, graph.module(other))
    if [user for user in other.users if not reads_batch_size(user)][1:]:
        why = f"{path}'s output has another reader"
    return reader, GateStep(path, tuple(steps)), why


def _is_beside(graph: Reader, origin: fx.Node, other: fx.Node) -> bool:
    """Whether two layers read one value and write alike."""
    layers = graph.module(origin), graph.module(other)
    is_alike = is_convolution(layers[0]) == is_convolution(layers[1])
    sizes = [(features_in(layer), features_out(layer)) for layer in layers]
    return origin is not other and origin.args[:1] == other.args[:1] and is_alike and sizes[0] == sizes[1]


def _backward_step(graph: Reader, origin: fx.Node, node: fx.Node) -> Step | None:
    """A step with one reader that ends in a product; None where it is none of a seed's."""
    step = graph.step(graph.path(origin), node, False)
    is_plain = isinstance(step, (ModuleStep, CallStep, DropoutStep)) and len(node.users) == 1
    return step if is_plain and node.all_input_nodes and not isinstance(step, str) else None


def _halves(graph: Reader, origin: fx.Node, reader: fx.Node) -> Product | None:
    """The product of the two halves of a value."""
    if is_convolution(graph.module(origin)):
        return None
    if is_glu(reader) or (reader.op == "call_module" and isinstance(graph.module(reader), nn.GLU)):
        return reader, HalvesStep((), (CallStep(torch.sigmoid),)), ""
    parts = two_parts(reader, graph.module(origin))
    if parts is None:
        return None
    ends, steps = [], []
    for part in parts:
        end, taken = _to_product(graph, origin, part)
        ends.append(end)
        steps.append(taken)
    if ends[0] is None or ends[0] is not ends[1]:
        return None
    return ends[0], HalvesStep(*steps), ""


def _to_product(graph: Reader, origin: fx.Node, node: fx.Node) -> tuple[fx.Node | None, tuple[Step, ...]]:
    """The product that a half goes into, and the steps up to it."""
    steps: list[Step] = []
    while len(node.users) == 1:
        (node,) = node.users
        if is_product(node):
            return node, tuple(steps)
        step = graph.step(graph.path(origin), node, False)
        if step is None or isinstance(step, str):
            break
        steps.append(step)
    return None, ()
