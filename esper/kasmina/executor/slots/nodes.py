"""What single nodes of a traced graph do: products, halves of a value, batch sizes."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from esper.kasmina.executor.slots.layers import features_out


def is_product(node: fx.Node) -> bool:
    """True if the node multiplies two values element by element."""
    is_call = node.op == "call_function" and node.target in (operator.mul, torch.mul)
    is_method = node.op == "call_method" and node.target == "mul"
    return (is_call or is_method) and len(node.all_input_nodes) == 2 and len(node.args) == 2


def is_glu(node: fx.Node) -> bool:
    is_call = node.op == "call_function" and node.target is F.glu
    return bool(is_call and node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else -1) == -1)


def two_parts(node: fx.Node, layer: nn.Module) -> tuple[fx.Node, fx.Node] | None:
    """The two halves along the features that the node parts its value into, in order; None if it does anything else."""
    if node.target not in ("chunk", "split", torch.chunk, torch.split):
        return None
    given = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    wanted = 2 if node.target in ("chunk", torch.chunk) else features_out(layer) // 2
    size = node.args[1] if len(node.args) > 1 else next((v for k, v in node.kwargs.items() if k != "dim"), None)
    parts = {user.args[1]: user for user in node.users if user.target is operator.getitem}
    if given != -1 or size != wanted or len(node.users) != 2 or set(parts) != {0, 1}:
        return None
    return parts[0], parts[1]


def is_unary(node: fx.Node) -> bool:
    """True if the node reads one value beside batch sizes."""
    return all(is_batch_size(other) for other in node.all_input_nodes[1:])


def reads_batch_size(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    is_shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    return is_shape and all(is_batch_size(user) for user in node.users)


def is_batch_size(value: Any) -> bool:
    if not isinstance(value, fx.Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return value.args[1:] == (0,)
    source = value.args[0] if value.op == "call_function" and len(value.args) == 2 and value.args[1] == 0 else None
    return isinstance(source, fx.Node) and source.target is getattr and source.args[1] == "shape"
