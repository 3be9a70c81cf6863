"""Multiply-accumulates as needed work: forward, weight gradients, input gradients; none for a first layer's input.

Counted by running the probe batch once and adding up the matrix products, convolutions and attention products that
torch dispatches, so that any module counts as what it does. Causal attention counts as half, by `is_causal`; what an
activation checkpoint runs again is no needed work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, Self, TypeVar

import torch
from torch._ops import OpOverload
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.passes.batches import Forward, as_one, called, first_inputs, samples_in
from esper.kasmina.executor.passes.gradients import gradients, is_reentrant
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass

T = TypeVar("T")
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
SAMPLES = (2, 4)
"""Of the two passes that are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MacCount:
    """Multiply-accumulates for one sample, and whether re-entrant activation checkpoints were met on the way."""

    forward: int
    training: int
    is_reentrant: bool = False


NO_MACS = MacCount(forward=0, training=0)


def count_macs(arm: TrainingArm, inputs: Any, *, forward: Forward = called) -> MacCount:
    """The arm's work for one sample, seeds included.

    Two passes of a few samples tell that of all: whole ones would hold more memory than many a training step. Where a
    host doesn't bear so few, all are passed.
    """
    (few, more), samples = SAMPLES, samples_in(inputs)
    if samples > more:
        try:
            least, most = (_count(arm, first_inputs(inputs, size), forward) for size in (few, more))
            return _drawn_on(least, most, samples)
        except Exception:  # noqa: BLE001 - foreign code, that may want its samples in larger groups
            pass
    return _drawn_on(_count(arm, inputs, forward), None, samples)


def _drawn_on(few: MacCount, more: MacCount | None, samples: int) -> MacCount:
    """The work for one sample in a pass of so many, as far as each sample adds the same."""
    if more is None:
        return replace(few, forward=few.forward // samples, training=few.training // samples)

    def of_one(first: int, second: int) -> int:
        return (first + (second - first) * (samples - SAMPLES[0]) // (SAMPLES[1] - SAMPLES[0])) // samples

    return replace(few, forward=of_one(few.forward, more.forward), training=of_one(few.training, more.training))


def _count(arm: TrainingArm, inputs: Any, forward: Forward) -> MacCount:
    """Of one pass of all these samples."""
    parameters = [p for module in arm.modules for p in module.parameters() if p.requires_grad]
    with side_pass(arm.modules, key=draw_key("macs"), training=False), torch.enable_grad():
        outputs, work = counted(lambda: forward(arm.model, inputs))
        loss = as_one(outputs, type(arm.model).__name__).float().square().sum()
        is_checkpointed = is_reentrant(loss)
        _, backward = counted(lambda: gradients(loss, parameters, arm.modules))
    return MacCount(
        forward=work,
        training=work + backward,
        is_reentrant=is_checkpointed,
    )


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """The result of some work, and the multiply-accumulates that it took."""
    with counting() as so_far:
        result = work()
    return result, so_far()


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Counts inside; what is yielded tells the multiply-accumulates so far."""
    with _NeededWork(display=False, custom_mapping=_ATTENTION) as counter:
        yield lambda: int(counter.get_total_flops()) // 2


class _NeededWork(FlopCounterMode):
    """Leaves out forward passes inside backward: they alone record gradients there. Doesn't ask which module works."""

    def __enter__(self) -> Self:
        self._mode = _Quickly(self)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        self._mode.__exit__(*raised)  # type: ignore[no-untyped-call]

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1:
            return out
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


class _Quickly(_FlopCounterMode):
    """Takes operators that aren't made of others as they are; torch's own mode tries every time to take them apart."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_elementary(func):
            return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        named = kwargs or {}
        output = func(*args, **named)
        return self.counter._count_flops(func._overloadpacket, output, args, named)  # type: ignore[no-untyped-call]


@cache
def _is_elementary(operator: Any) -> bool:
    """Whether it gives tensors, and is no composition of other operators."""
    if not isinstance(operator, OpOverload) or operator.has_kernel_for_dispatch_key(COMPOSITE):
        return False
    return any("Tensor" in str(given.type) for given in operator._schema.returns)


def _attention(operator: Any, *, first: int, products: int) -> Callable[..., int]:
    """FLOPs of an attention operator whose query, key and value stand from argument `first` on.

    Forward are two products over all pairs of positions, backward four; what a fused kernel computes again is no needed
    work, and under a causal mask half of the pairs are.
    """
    position = [argument.name for argument in operator.default._schema.arguments].index("is_causal")

    def flops(*arguments: Any, out_shape: Any = None, **named: Any) -> int:
        (*batch, queries, size), keys, value_size = arguments[first], arguments[first + 1][-2], arguments[first + 2][-1]
        is_causal = named.get("is_causal", position < len(arguments) and arguments[position])
        work: int = prod(batch) * queries * keys * (size + value_size) * products
        return work // (2 if is_causal else 1)

    return flops


# Each operator in its kinds: on CUDA, and on the CPU.
_ATTENTION: dict[Any, Callable[..., int]] = {
    operator: _attention(operator, first=first, products=products)
    for suffix, first, products in (("", 0, 2), ("_backward", 1, 4))
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
    for operator in (getattr(torch.ops.aten, f"_scaled_dot_product_{kind}{suffix}"),)
}
