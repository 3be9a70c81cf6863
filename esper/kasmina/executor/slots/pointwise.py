"""Activations that a host defines itself: modules without weights whose whole forward works value by value."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from esper.kasmina.executor.slots.layers import ACTIVATION_CALLS, ACTIVATIONS

CALLS: frozenset[Any] = ACTIVATION_CALLS | {
    operator.mul, operator.add, operator.sub, operator.truediv, operator.neg, operator.pow,
    torch.mul, torch.add, torch.sub, torch.div, torch.neg, torch.pow, torch.square, torch.sqrt, torch.abs, torch.exp,
    torch.erf, torch.clamp, torch.clip, torch.log1p,
}  # fmt: skip
METHODS = frozenset(
    {
        *("mul", "add", "sub", "div", "neg", "pow", "square", "sqrt", "abs", "exp", "erf", "clamp", "clip", "tanh"),
        *("sigmoid", "relu"),
    }
)


def pointwise_modules(model: nn.Module) -> frozenset[nn.Module]:
    """The host's own activations."""
    return frozenset(module for module in model.modules() if _may_be(module) and _is_pointwise(module))


def _may_be(module: nn.Module) -> bool:
    if type(module).__module__.startswith("torch.") or isinstance(module, torch.jit.ScriptModule):
        return False
    parts = [*module.parameters(), *module.buffers()]
    return not parts and all(isinstance(child, ACTIVATIONS) for child in module.children())


def _is_pointwise(module: nn.Module) -> bool:
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # noqa: BLE001 - foreign code, run on proxies, may raise whatever it likes
        return False
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return len(inputs) == 1 and all(_is_step(module, node) for node in graph.nodes if node.op != "placeholder")


def _is_step(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "output":
        return isinstance(node.args[0], fx.Node)
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), ACTIVATIONS)
    return node.target in CALLS if node.op == "call_function" else node.op == "call_method" and node.target in METHODS
