"""Multiply-accumulates as needed work: forward, weight gradients, input gradients; none for a first layer's input.

Counted by running the probe batch once and adding up the matrix products, convolutions and attention products that
torch dispatches, so that any module counts as what it does.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from esper.core.errors import GraftFailed
from esper.kasmina.executor.arm import TrainingArm
from esper.kasmina.executor.keys import draw_key
from esper.kasmina.executor.side_pass import side_pass


@dataclass(frozen=True, kw_only=True, slots=True)
class MacCount:
    """Multiply-accumulates for one sample."""

    forward: int
    training: int


def count_macs(arm: TrainingArm, inputs: Tensor) -> MacCount:
    """The arm's work for one sample, seeds included."""
    parameters = [p for module in arm.modules for p in module.parameters() if p.requires_grad]
    with side_pass(arm.modules, key=draw_key("macs"), training=False), torch.enable_grad():
        with _counter() as forward:
            outputs = arm.model(inputs)
        if not isinstance(outputs, Tensor):
            raise GraftFailed(f"the host returns {type(outputs).__name__}, expected one tensor of outputs")
        with _counter() as backward:
            torch.autograd.grad(outputs.float().square().sum(), parameters, allow_unused=True)
    done = forward.get_total_flops() // 2
    return MacCount(forward=done // len(inputs), training=(done + backward.get_total_flops() // 2) // len(inputs))


def _counter() -> FlopCounterMode:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FlopCounterMode(display=False, custom_mapping=_cpu_attention())


def _cpu_attention() -> dict[Any, Any]:
    operators = torch.ops.aten
    return {
        operators._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        operators._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))
