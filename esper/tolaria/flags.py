"""Command-line flags made from `TrainConfig`: one flag a setting, grouped, with its help and choices."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn

from esper.core.errors import ConfigError
from esper.core.nearest import nearest
from esper.core.settings.config import listed
from esper.tolaria.config import TrainConfig


class FlagParser(argparse.ArgumentParser):
    """An argument parser that names the nearest known flag and raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError("command line", message, f"see {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse strictly. Raises ConfigError with the nearest flag's name."""
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = nearest(unknown[0].split("=")[0], known)
            hint = f"did you mean {near}?" if near else f"see {self.prog} --help"
            raise ConfigError("command line", unknown[0], f"unknown argument; {hint}")
        return namespace


class Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph of a text on its own, and leaves indented ones, such as commands, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.split("\n\n")
        return "\n\n".join(part if part.startswith(" ") else fill(part, width, indent) for part in parts)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting of TrainConfig; absent flags leave no trace in the namespace."""
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(TrainConfig)
    for setting in fields(TrainConfig):
        name = setting.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        flag = "--" + setting.name.replace("_", "-")
        group.add_argument(flag, dest=setting.name, default=argparse.SUPPRESS, **_options(setting, hints[setting.name]))


def given(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gave."""
    return {
        setting.name: getattr(namespace, setting.name) for setting in fields(TrainConfig) if setting.name in namespace
    }


def _options(setting: Field[Any], kind: Any) -> dict[str, Any]:
    has_default = setting.default is not False and setting.default not in (None, (), MISSING)
    default = f" (default: {_in_words(setting.default)})" if has_default else ""
    options: dict[str, Any] = {"help": (setting.metadata["help"] + default).replace("%", "%%")}
    base = _without_none(kind)
    if base is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if setting.metadata["choices"]:
        return options | {"choices": setting.metadata["choices"]}
    if typing.get_origin(base) is tuple:
        item = typing.get_args(base)[0]
        return options | {"type": _listing(item), "metavar": "A,B,..."}
    if base is Path:
        return options | {"type": _path, "metavar": "PATH"}
    return options | {"type": base, "metavar": {int: "N", float: "X"}.get(base, "TEXT")}


def _in_words(default: Any) -> str:
    """As it would be given on the command line."""
    values = default if isinstance(default, tuple) else (default,)
    return ",".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a path")
    return Path(text)


def _listing(item: type) -> Any:
    def parse(text: str) -> tuple[Any, ...]:
        return tuple(map(item, listed(text)))

    parse.__name__ = f"comma-separated {item.__name__}"
    return parse
