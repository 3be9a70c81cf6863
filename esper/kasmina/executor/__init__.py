"""Seed execution in the trainer's process: slots, grafts, twins, judging, folding. Kasmina's only part with torch."""

from esper.kasmina.executor.collected import Collected
from esper.kasmina.executor.executor import SeedExecutor
from esper.kasmina.executor.fold.export import plain
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import MacCount, count_macs
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.state import ExecutorConfig
from esper.kasmina.executor.trial import differences, tensors_of, try_twin, unkept

__all__ = [
    "Collected",
    "ExecutorConfig",
    "MacCount",
    "SeedExecutor",
    "Task",
    "TrainingArm",
    "count_macs",
    "differences",
    "plain",
    "tensors_of",
    "try_twin",
    "unkept",
]
