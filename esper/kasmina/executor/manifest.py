"""The host as the services know it when a run opens."""

from __future__ import annotations

from collections.abc import Sequence

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import count_macs
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.passes.trace import submodule_specs, trace_forward
from esper.leyline import HostManifest, SlotSpec
from esper.urza.cost import AVERAGED


def describe(arm: TrainingArm, task: Task, slots: Sequence[SlotSpec]) -> HostManifest:
    """Submodules, slots, sizes and the digest of the weights of now."""
    inputs = task.probe_inputs()
    return HostManifest(
        model=type(arm.model).__name__,
        weights_digest=arm.digest(),
        submodules=submodule_specs(
            arm.model, trace_forward(arm.model, inputs, seeds=arm.modules[1:], forward=task.forward)
        ),
        slots=slots,
        parameters=sum(parameter.numel() for parameter in arm.host_parameters()),
        forward_macs=count_macs(arm, inputs, forward=task.forward).forward,
        task=task.type,
        optimizer_family=type(arm.optimizer).__name__ + (AVERAGED if arm.average_decay is not None else ""),
    )
