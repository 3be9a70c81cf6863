"""Seed execution in the trainer's process: slots, grafts, twins, judging, folding. Kasmina's only part with torch."""

from esper.kasmina.executor.arm import TrainingArm
from esper.kasmina.executor.collected import Collected
from esper.kasmina.executor.executor import SeedExecutor
from esper.kasmina.executor.export import plain
from esper.kasmina.executor.macs import MacCount, count_macs
from esper.kasmina.executor.state import ExecutorConfig
from esper.kasmina.executor.task import Task

__all__ = [
    "Collected",
    "ExecutorConfig",
    "MacCount",
    "SeedExecutor",
    "Task",
    "TrainingArm",
    "count_macs",
    "plain",
]
