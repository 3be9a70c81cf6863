"""From the name on the command line to a data source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.digits import Digits
from esper.tolaria.task.data.files import Files
from esper.tolaria.task.data.links import check_link
from esper.tolaria.task.data.mnist1d import Mnist1d
from esper.tolaria.task.data.posing import counted, kind_named, posed, task_named
from esper.tolaria.task.data.pytext import PyText
from esper.tolaria.task.data.source import DataSource, Splits, ignoring
from esper.tolaria.task.data.text import Text
from esper.tolaria.task.data.tokens import Tokens
from esper.tolaria.task.entry_point import called, load

SOURCES: dict[str, Callable[[TrainConfig], DataSource]] = {
    "digits": lambda config: Digits(config.samples),
    "mnist1d": lambda config: Mnist1d(config.samples),
    "pytext": lambda config: PyText(config.context, config.samples),
}

# Of the judging set and of the test set of a stream; more where more are asked for.
HELD_OUT_SEQUENCES = 512


def open_source(config: TrainConfig) -> DataSource:
    """The source that `data` names: a known one, a stream, an existing path, or an entry point."""
    name = config.data
    kind, _, place = name.partition(":")
    for setting in ("vocabulary", "token_type", "document_mark"):
        value = getattr(config, setting)
        if value is not None and setting not in STREAM_SETTINGS.get(kind, ()):
            raise ConfigError(setting, value, f"means nothing to {name}; leave it out")
    if kind in STREAMS:
        return _stream(config, kind, place)
    if name in SOURCES:
        return SOURCES[name](config)
    if ":" in name and not Path(name).exists():
        return _entry_point(config)
    if Path(name).exists():
        return Files(Path(name), config.samples, task_named(config.task), config.ignore_index, kind_named(config.task))
    check_link(Path(name))
    known = ", ".join((*SOURCES, *(f"{kind}:PATH" for kind in STREAMS)))
    raise ConfigError("data", name, f"expected {known}, an existing path, or module:source")


def load_splits(config: TrainConfig) -> Splits:
    """The run's three sets."""
    with ignoring(config.ignore_index):
        splits = called("data", config.data, open_source(config).splits, config.seed, expected="splits(seed) -> Splits")
    if not isinstance(splits, Splits):
        raise ConfigError("data", config.data, f"its splits() gives {type(splits).__name__}, expected Splits")
    return counted(posed(splits, config.task), config.ignore_index)


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


def _stream(config: TrainConfig, kind: str, place: str) -> DataSource:
    if not place:
        raise ConfigError("data", config.data, f"expected {kind}:PATH")
    if config.samples is not None:
        raise ConfigError("samples", config.samples, f"{config.data} is drawn from; say how long with --steps")
    return STREAMS[kind](config, place)


def _text(config: TrainConfig, place: str) -> DataSource:
    return Text(place, context=config.context, held_out=_held_out(config), mark=config.document_mark)


def _tokens(config: TrainConfig, place: str) -> DataSource:
    return Tokens(
        Path(place),
        context=config.context,
        held_out=_held_out(config),
        vocabulary=config.vocabulary,
        token_type=config.token_type,
        mark=config.document_mark,
    )


def _held_out(config: TrainConfig) -> int:
    return max(HELD_OUT_SEQUENCES, config.min_samples)


# Sources that are drawn from, by the word before the colon, and which settings of streams each heeds.
STREAMS: dict[str, Callable[[TrainConfig, str], DataSource]] = {"text": _text, "tokens": _tokens}
STREAM_SETTINGS = {"text": ("document_mark",), "tokens": ("document_mark", "vocabulary", "token_type")}
