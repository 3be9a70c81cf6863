"""Seed execution in the trainer's process: slots, grafts, twins, judging, folding. Kasmina's only part with torch."""

from esper.kasmina.executor.collected import Collected, MemoryNote
from esper.kasmina.executor.executor import SeedExecutor
from esper.kasmina.executor.fold.export import plain
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import MacCount, count_macs
from esper.kasmina.executor.memory.exhausted import first_line, is_out_of_memory
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.state import ExecutorConfig
from esper.kasmina.executor.trial import differences, tensors_of, try_twin, unkept

__all__ = [
    "Collected",
    "ExecutorConfig",
    "MacCount",
    "MemoryNote",
    "SeedExecutor",
    "Task",
    "TrainingArm",
    "count_macs",
    "differences",
    "first_line",
    "is_out_of_memory",
    "plain",
    "tensors_of",
    "try_twin",
    "unkept",
]
