"""What a run was started with, as its first event holds it: who looks at a run should not have to ask."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from esper.tolaria.config import TrainConfig

if TYPE_CHECKING:
    from esper.tolaria.task.prepare import Prepared


def facts_of(run: Prepared) -> dict[str, Any]:
    """Model, data, optimiser, device, smoothing, and the command that repeats the run; None where a script made it."""
    config = run.config
    return {
        "model": type(run.executor.arm.model).__name__ if run.is_given else config.model,
        "data": "a script's own" if run.is_given else config.data,
        "optimizer": type(run.executor.arm.optimizer).__name__,
        "device": str(run.device),
        "smoothing": config.smoothing,
        "command": None if run.is_given else command(run.as_given),
    }


def command(config: TrainConfig) -> str:
    """The command line with every setting that isn't the default."""
    changed = [setting.name for setting in fields(TrainConfig) if getattr(config, setting.name) != _default(setting)]
    return " ".join(["tolaria-train", *(_flag(name, getattr(config, name)) for name in changed)])


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{flag} {shlex.quote(text)}"
