"""From the name on the command line to a data source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.digits import Digits
from esper.tolaria.task.data.files import Files
from esper.tolaria.task.data.mnist1d import Mnist1d
from esper.tolaria.task.data.posing import posed, task_named
from esper.tolaria.task.data.pytext import PyText
from esper.tolaria.task.data.source import DataSource, Splits
from esper.tolaria.task.entry_point import called, load

SOURCES: dict[str, Callable[[TrainConfig], DataSource]] = {
    "digits": lambda config: Digits(config.samples),
    "mnist1d": lambda config: Mnist1d(config.samples),
    "pytext": lambda config: PyText(config.context, config.samples),
}


def open_source(config: TrainConfig) -> DataSource:
    """The source that `data` names: a known one, an existing path, or an entry point."""
    name = config.data
    if name in SOURCES:
        return SOURCES[name](config)
    if ":" in name and not Path(name).exists():
        return _entry_point(config)
    if Path(name).exists():
        return Files(Path(name), config.samples, task_named(config.task))
    raise ConfigError("data", name, f"expected {', '.join(SOURCES)}, an existing path, or module:source")


def load_splits(config: TrainConfig) -> Splits:
    """The run's three sets."""
    splits = called("data", config.data, open_source(config).splits, config.seed, expected="splits(seed) -> Splits")
    if not isinstance(splits, Splits):
        raise ConfigError("data", config.data, f"its splits() gives {type(splits).__name__}, expected Splits")
    return posed(splits, config.task)


def _entry_point(config: TrainConfig) -> DataSource:
    if config.samples is not None:
        raise ConfigError("samples", config.samples, f"{config.data} decides itself how many samples it gives")
    found = load("data", config.data)
    is_factory = isinstance(found, type) or (callable(found) and not hasattr(found, "splits"))
    source = (
        called("data", config.data, found, expected="a function or class without arguments") if is_factory else found
    )
    if not callable(getattr(source, "splits", None)):
        raise ConfigError("data", config.data, "expected a DataSource: an object with splits(seed) -> Splits")
    checked: DataSource = source
    return checked
