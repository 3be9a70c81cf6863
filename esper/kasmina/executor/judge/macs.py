"""Multiply-accumulates as needed work: forward, weight gradients, input gradients; none for a first layer's input.

Counted by running the probe batch once and adding up the matrix products, convolutions and attention products that
torch dispatches, so that any module counts as what it does. What an activation checkpoint runs again is no needed work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from esper.core.errors import ConfigError
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.passes.gradients import gradients, is_reentrant
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class MacCount:
    """Multiply-accumulates for one sample, and whether re-entrant activation checkpoints were met on the way."""

    forward: int
    training: int
    is_reentrant: bool = False


NO_MACS = MacCount(forward=0, training=0)


def count_macs(arm: TrainingArm, inputs: Tensor) -> MacCount:
    """The arm's work for one sample, seeds included."""
    parameters = [p for module in arm.modules for p in module.parameters() if p.requires_grad]
    with side_pass(arm.modules, key=draw_key("macs"), training=False), torch.enable_grad():
        outputs, forward = counted(lambda: arm.model(inputs))
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                "model", type(arm.model).__name__, f"returns {type(outputs).__name__}, expected one tensor"
            )
        loss = outputs.float().square().sum()
        is_checkpointed = is_reentrant(loss)
        _, backward = counted(lambda: gradients(loss, parameters, arm.modules))
    return MacCount(
        forward=forward // len(inputs),
        training=(forward + backward) // len(inputs),
        is_reentrant=is_checkpointed,
    )


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """The result of some work, and the multiply-accumulates that it took."""
    with _NeededWork(display=False, custom_mapping=_cpu_attention()) as counter:
        result = work()
    return result, int(counter.get_total_flops()) // 2


class _NeededWork(FlopCounterMode):
    """Leaves out forward passes inside backward: they alone record gradients there."""

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1:
            return out
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


def _cpu_attention() -> dict[Any, Any]:
    operators = torch.ops.aten
    return {
        operators._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        operators._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]
