"""What one arm takes: what it always holds, and what a step adds, measured on a few samples and drawn on to a batch.

Each moment of a step holds a fixed part (gradients that have arrived) and a part for each sample (activations), and two
small batches tell which is which; so the moment that is the largest for a whole batch is found, not only its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.memory.meter import Meter
from esper.kasmina.executor.memory.parked import bytes_of, optimizer_tensors
from esper.kasmina.executor.passes.batches import Batch, as_one, first, samples_in
from esper.kasmina.executor.passes.gradients import gradients
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task

SAMPLES = (2, 4)
"""Sizes of the two batches that are measured; a step of no more samples is measured as it is."""

LEAST_FACTOR, MOST_FACTOR = 0.5, 4.0
"""Beyond these a measured step is taken for something else than the pass that was foreseen."""

Precision = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Bytes that stay from step to step."""

    weights: int = 0
    """Parameters and buffers."""
    gradients: int = 0
    optimizer: int = 0

    @property
    def parked(self) -> int:
        """What an arm must keep while it waits."""
        return self.weights + self.optimizer

    @property
    def total(self) -> int:
        return self.parked + self.gradients

    def __add__(self, other: Held) -> Held:
        return Held(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            optimizer=self.optimizer + other.optimizer,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBytes:
    """What a step holds at its peak beside weights and optimiser state: activations, and the gradients of then."""

    peak: int
    fixed: int = 0
    """The part of the peak that doesn't grow with the samples: gradients that have arrived, for the most part."""
    block: int = 0
    """What one block of a run adds to that."""
    samples: int = 0
    """Samples that were passed to measure it."""


def held_by(arm: TrainingArm) -> Held:
    """What the arm holds once it has made a step."""
    return _held(arm.modules, bytes_of(optimizer_tensors(arm.optimizer)))


def held_by_blocks(arm: TrainingArm, blocks: Sequence[nn.Module]) -> Held:
    """The part of that which belongs to some blocks of the network, and so to their copies."""
    state = arm.optimizer.state
    known = (state[p] for block in blocks for p in block.parameters() if p in state)
    remembered = bytes_of(value for entry in known for value in entry.values() if isinstance(value, Tensor))
    return _held(blocks, remembered)


def held_by_seed(arm: TrainingArm, seed: nn.Module) -> Held:
    """What a new module will hold if the optimiser remembers as much of it as of the network."""
    whole, found = held_by(arm), _held([seed], 0)
    return replace(found, optimizer=found.gradients * whole.optimizer // max(1, whole.gradients))


def _held(modules: Sequence[nn.Module], remembered: int) -> Held:
    parameters = {id(p): p for module in modules for p in module.parameters()}.values()
    buffers = (buffer for module in modules for buffer in module.buffers())
    return Held(
        weights=bytes_of(chain(parameters, buffers)),
        gradients=sum(parameter.nbytes for parameter in parameters if parameter.requires_grad),
        optimizer=remembered,
    )


def step_bytes(
    arm: TrainingArm,
    task: Task,
    samples: int,
    *,
    key: int,
    block: nn.Module | None = None,
    precision: Precision = nullcontext,
    kept: int = 0,
) -> StepBytes:
    """Measures the arm's pass for so many samples; `kept` are gradients that an earlier pass of the step has left.

    Raises whatever the host raises.
    """
    batch = next(iter(task.judge_batches()))
    sizes = [samples] if samples <= SAMPLES[-1] else [min(size, samples_in(batch[0])) for size in SAMPLES]
    series, blocks = zip(
        *(_measured(arm, task, first(batch, size), key=key, block=block, precision=precision) for size in sizes),
        strict=True,
    )
    peak, fixed = _drawn_on(series, sizes, samples, kept=kept)
    return StepBytes(peak=peak, fixed=fixed, block=_drawn_on(blocks, sizes, samples)[0], samples=sum(sizes))


def calibrated(step: StepBytes, measured: int | None) -> tuple[StepBytes, float]:
    """The step of the network of now as its allocator has seen it, and the factor that this puts on activations.

    Kernels and compiled code take other memory than the eager operators that foretell it, less of it too: what is
    measured on the very blocks that will be repeated is truer than what is foreseen. Where activations are the smaller
    part, the difference says little of them (workspaces, optimiser): it is counted as it is, once, and not for blocks.
    """
    if measured is None:
        return step, 1.0
    activations = step.peak - step.fixed
    if activations < step.fixed or activations <= 0:
        return replace(step, peak=max(step.peak, measured)), 1.0
    factor = min(max((measured - step.fixed) / activations, LEAST_FACTOR), MOST_FACTOR)
    peak = max(measured, step.fixed + int(factor * activations))
    return replace(step, peak=peak, block=int(factor * step.block)), factor


def evaluation_bytes(arm: TrainingArm, task: Task, *, key: int, precision: Precision = nullcontext) -> tuple[int, int]:
    """What one judging batch holds at its peak, or the probe batch, which runs in full precision; and their samples."""
    inputs, targets = next(iter(task.judge_batches()))
    with arm.measured(key), precision(), Meter() as judging:
        task.clipped_scores(task.forward(arm.model, inputs), targets)
    probe = task.probe_inputs()
    with arm.measured(key), Meter() as probing:
        as_one(task.forward(arm.model, probe), type(arm.model).__name__).double()
    return max(judging.peak_bytes, probing.peak_bytes), samples_in(inputs) + samples_in(probe)


def _measured(
    arm: TrainingArm, task: Task, batch: Batch, *, key: int, block: nn.Module | None, precision: Precision
) -> tuple[list[int], list[int]]:
    """Bytes after each operator of a forward and backward pass, and those that the block left behind."""
    inputs, targets = batch
    parameters = [p for module in arm.modules for p in module.parameters() if p.requires_grad]
    meter, marks = Meter(), list[int]()
    hooks = (
        []
        if block is None
        else [
            block.register_forward_pre_hook(lambda *_: marks.append(meter.live_bytes)),
            block.register_forward_hook(lambda *_: marks.append(meter.live_bytes)),
        ]
    )
    try:
        with side_pass(arm.modules, key=key, training=None), torch.enable_grad(), meter:
            with precision():
                outputs = task.forward(arm.model, inputs)
                loss = task.loss(outputs, targets)
            gradients(loss, parameters, arm.modules)
    finally:
        for hook in hooks:
            hook.remove()
    return meter.series, [marks[1] - marks[0] if len(marks) > 1 else 0]


def _drawn_on(series: Sequence[Sequence[int]], sizes: Sequence[int], samples: int, *, kept: int = 0) -> tuple[int, int]:
    """The largest moment for so many samples, and the part of it that doesn't grow with them, which is at least `kept`.

    By the peak alone where the two passes didn't take the same way, or where there is one: then all of it grows.
    """
    if len(series) == 1 or sizes[0] == sizes[1] or len(series[0]) != len(series[1]):
        return max(series[-1], default=0) * samples // sizes[-1] + kept, kept
    few, more = series
    each = sizes[1] - sizes[0]
    moments = []
    for low, high in zip(few, more, strict=True):
        growing = (high - low) * samples // each
        fixed = max(kept, low - (high - low) * sizes[0] // each)
        moments.append((growing + fixed, fixed))
    return max(moments, default=(0, 0))
