"""A script's function under the launcher: it is given the settings of the command line, and calls one of the doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.wording import in_words_of_flags
from esper.tolaria.record.observer import Observer
from esper.tolaria.task.entry_point import called, load


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What the command line says."""

    config: TrainConfig
    callbacks: Sequence[Observer] = ()
    """The launcher's display."""
    resume: bool = False
    overwrite: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """For `esper.train(model, data, **context.arguments)` and `esper.Growth(..., **context.arguments)`."""
        return {
            "config": self.config,
            "callbacks": self.callbacks,
            "resume": self.resume,
            "overwrite": self.overwrite,
        }


def run_script(text: str, context: Context) -> None:
    """Call the function that `text` names. Raises ConfigError where it isn't one, or made no run of these settings."""
    function = load("train", text)
    if not callable(function):
        raise ConfigError("train", text, f"is {type(function).__name__}, expected a function of a context")
    with in_words_of_flags():
        called("train", text, function, context, expected="(context: esper.Context)")
    if not (context.config.run_dir / "summary.json").exists():
        remedy = "call esper.train or esper.Growth with **context.arguments"
        raise ConfigError("train", text, f"made no run in {context.config.run_dir}; {remedy}")
