"""The teacher that `--teacher` names: a program as `esper export` and torch.export write it, or one's own factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from esper.core.errors import ConfigError, EsperError
from esper.kasmina.executor import SeedExecutor
from esper.kasmina.executor.judge.teacher import Teacher
from esper.kasmina.executor.passes.batches import logits_in
from esper.kasmina.executor.passes.trace import in_words
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.source import LabelKind
from esper.tolaria.task.entry_point import called, load
from esper.tolaria.task.start.files import PROGRAM

MADE_BY = f"give a program NAME{PROGRAM} as `esper export` writes it, or module:factory"
TEACHABLE = (LabelKind.ONE, LabelKind.SOFT)


def load_teacher(
    config: TrainConfig, executor: SeedExecutor, device: torch.device, label_kind: LabelKind | None
) -> Teacher | None:
    """The teacher, tried on the probe batch; None where none is named. Raises ConfigError for one that can't teach.

    `label_kind` is None where the data don't say what their labels are.
    """
    name = config.teacher
    if name is None:
        return None
    if config.grow == "never" or config.incubate != "shadow":
        raise _refused(
            name, "seeds learn from a teacher while they incubate: give --incubate shadow, and let them grow"
        )
    kind = executor.task.type
    has_classes = kind == TaskType.TASK_TYPE_LANGUAGE_MODEL or (
        kind == TaskType.TASK_TYPE_CLASSIFICATION and label_kind in (None, *TEACHABLE)
    )
    if not has_classes:
        raise _refused(name, "what a teacher tells are shares of classes, which this task has not")
    teacher = Teacher(_module(name, device))
    _try(name, teacher, executor)
    return teacher


def _module(name: str, device: torch.device) -> nn.Module:
    if name.endswith(PROGRAM):
        if not Path(name).exists():
            raise _refused(name, "isn't there")
        if not is_zipfile(name):  # torch would log lines of its own first
            raise _refused(name, f"is no program that torch can load: no archive; {MADE_BY}")
        try:
            return move_to_device_pass(torch.export.load(name), str(device)).module()
        except Exception as error:
            raise _refused(name, f"is no program that torch can load: {in_words(error)}; {MADE_BY}") from error
    if ":" not in name:
        raise _refused(name, MADE_BY)
    found: Any = called("teacher", name, load("teacher", name), expected="a factory without arguments")
    if not isinstance(found, nn.Module):
        raise _refused(name, f"gave {type(found).__name__}, expected a torch.nn.Module with trained weights")
    return found.to(device).eval()


def _try(name: str, teacher: Teacher, executor: SeedExecutor) -> None:
    """Its logits are of the host's shape and finite, and it has weights."""
    task, arm = executor.task, executor.arm
    inputs = task.probe_inputs()
    try:
        with arm.measured(0):
            wanted, given = logits_in(task.forward(arm.model, inputs)), teacher.logits(task, inputs)
    except EsperError:
        raise
    except Exception as error:
        form = f", {list(inputs.shape)}" if isinstance(inputs, torch.Tensor) else ""
        remedy = "give a network that takes what the run's does"
        raise _refused(name, f"can't be asked about the run's data{form}: {in_words(error)}; {remedy}") from error
    if given.shape != wanted.shape:
        raise _refused(name, f"gives logits {list(given.shape)} where the network gives {list(wanted.shape)}")
    if not bool(torch.isfinite(given).all()):
        raise _refused(name, "gives logits that are not finite")
    if not teacher.size_bytes:
        raise _refused(name, "holds no weights, so it has no digest that anybody could hold it to")


def _refused(name: str, why: str) -> ConfigError:
    return ConfigError("teacher", name, why)
