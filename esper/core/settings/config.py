"""Configuration: the only reader of settings files, environment and flags.

A config is a frozen dataclass beside its component. Later sources win: defaults < file < environment < flags; every
value knows where it came from. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from esper.core.errors import ConfigError
from esper.core.nearest import nearest
from esper.core.settings.injected_variables import is_injected
from esper.core.settings.retired_variables import refuse_retired

T = TypeVar("T")
Origin = Literal["default", "file", "environment", "flag"]

# Settings that often hold a password or a token are not shown.
SECRET, NOT_SHOWN = "_url", "(not shown)"
MOST_LISTED = 12
_TEN_YEARS = {"_s": 3650 * 86_400.0, "_hours": 3650 * 24.0}
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[T]):
    """A config and, for each dotted key, where its value came from."""

    value: T
    origins: Mapping[str, Origin]


def load(
    cls: type[T], *, file: Path | None, environ: Mapping[str, str], prefix: str, flags: Mapping[str, object]
) -> Loaded[T]:
    """Build `cls`. Environment names are `prefix` + KEY, nested ones PREFIX + TABLE__KEY; a None flag is not given."""
    schema = dict(_leaves(cls))
    refuse_retired(environ, prefix, _variables(prefix, schema))
    given: dict[str, tuple[Origin, object]] = {}
    if file is not None:
        given.update({key: ("file", value) for key, value in _flatten(read_toml(file), schema)})
    given.update({key: ("environment", value) for key, value in _from_environment(environ, prefix, schema)})
    given.update({key: ("flag", value) for key, value in flags.items() if value is not None})
    for key, (origin, value) in given.items():
        if key not in schema:
            raise _unknown_key(key, value, origin, schema)
    values = {key: _convert(schema[key], value, key) for key, (_, value) in given.items()}
    origins: dict[str, Origin] = {key: given[key][0] if key in given else "default" for key in schema}
    return Loaded(value=_build(cls, values, ""), origins=origins)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a settings file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config file", str(path), f"can't be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config file", str(path), f"is not TOML: {error}") from error


def require_positive(config: object, *keys: str) -> None:
    """Raise ConfigError for the first of these settings that isn't a number above zero, or a time beyond all use."""
    for key in keys:
        value = getattr(config, key)
        if not 0 < value < math.inf:
            raise ConfigError(key, value, "give a number above zero")
        if value > longest(key):
            raise ConfigError(key, value, f"give at most {longest(key):.0f}, which is ten years")


def longest(key: str) -> float:
    """The largest value of a setting, told by its unit: clocks and locks overflow at times that nobody waits for."""
    return next((most for unit, most in _TEN_YEARS.items() if key.endswith(unit)), math.inf)


def described(loaded: Loaded[Any]) -> Iterator[str]:
    """Every setting as a line of TOML with its origin, for --print-config; one without a value is a comment."""
    for key, origin in loaded.origins.items():
        value = loaded.value
        for name in key.split("."):
            value = getattr(value, name)
        if value is None:
            yield f"# {key} is not set"
        elif key.endswith(SECRET):
            yield f"# {key} is not shown: it may hold a secret  # {origin}"
        else:
            yield f"{key} = {_in_toml(value)}  # {origin}"


def _in_toml(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_in_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)


def _leaves(cls: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its type; a nested dataclass is a table of settings."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _leaves(hint, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", hint


def _build(cls: type[T], values: Mapping[str, object], path: str, base: object = None) -> T:
    """`cls` from the values given below `path`, else from `base`, else from its own defaults."""
    hints = typing.get_type_hints(cls)
    arguments: dict[str, object] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        key, hint = f"{path}{field.name}", hints[field.name]
        default = getattr(base, field.name) if base is not None else _default(field)
        if is_dataclass(hint) and isinstance(hint, type):
            arguments[field.name] = _build(hint, values, f"{key}.", None if default is MISSING else default)
        elif key in values:
            arguments[field.name] = values[key]
        elif default is not MISSING:
            arguments[field.name] = default
        else:
            raise ConfigError(key, None, f"is required and expects {_in_words(hint)}")
    return cls(**arguments)


def _default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _flatten(table: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        key = f"{path}{name}"
        if isinstance(value, dict) and any(known.startswith(f"{key}.") for known in schema):
            yield from _flatten(value, schema, f"{key}.")
        else:
            yield key, value


def _from_environment(
    environ: Mapping[str, str], prefix: str, schema: Mapping[str, Any]
) -> Iterator[tuple[str, object]]:
    for name, value in environ.items():
        if prefix and name.startswith(prefix):
            key = name[len(prefix) :].replace("__", ".").lower()
            if key not in schema and is_injected(name, value):
                continue
            if key not in schema:
                raise _unknown_key(name, value, "environment", _variables(prefix, schema), prefix)
            yield key, value


def _variables(prefix: str, schema: typing.Iterable[str]) -> frozenset[str]:
    """Names of the environment variables that are settings."""
    return frozenset(prefix + key.replace(".", "__").upper() for key in schema)


def _unknown_key(key: str, value: object, origin: Origin, known: typing.Iterable[str], prefix: str = "") -> ConfigError:
    names = sorted(known)
    near = nearest(key.removeprefix(prefix), (name.removeprefix(prefix) for name in names))
    every = f"known are {', '.join(names)}" if len(names) <= MOST_LISTED else "--print-config lists them"
    hint = f"did you mean {prefix + near!r}?" if near else every
    shown = NOT_SHOWN if key.lower().endswith(SECRET) else value
    return ConfigError(key, shown, f"the {origin} names no known setting; {hint}")


def converted(cls: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Values of known settings as the types of a class without nested ones."""
    hints = typing.get_type_hints(cls)
    return {key: _convert(hints[key], value, key) for key, value in values.items()}


def _convert(hint: Any, value: object, key: str) -> object:
    try:
        return _converted(hint, value, key)
    except (ValueError, TypeError) as error:
        raise ConfigError(key, value, f"expects {_in_words(hint)}") from error


def _converted(hint: Any, value: object, key: str) -> object:
    """`value` as the type `hint`; text, which environment and flags give, is parsed, other types must fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _converted_union(arguments, value, key)
    if origin is Literal:
        return _member(arguments, value)
    if origin is tuple:
        return tuple(_converted(arguments[0], item, key) for item in _items(value))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(value, str) and hint in _PARSERS:
        return _PARSERS[hint](value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise TypeError(f"{type(value).__name__} doesn't fit")


def listed(text: str) -> list[str]:
    """The items of `A,B,...`, none of an empty text. Raises ValueError where nothing stands between two commas."""
    items = text.removesuffix(",").split(",") if text else []
    if "" in items:
        raise ValueError("an item is empty")
    return items


def _items(value: object) -> Sequence[object]:
    items = listed(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise TypeError("not a list")
    return items


def _converted_union(choices: tuple[Any, ...], value: object, key: str) -> object:
    if type(None) in choices and (value is None or value == "none"):
        return None
    for choice in choices:
        try:
            return _converted(choice, value, key)
        except (ValueError, TypeError):
            continue
    raise TypeError("fits none of the choices")


def _member(choices: tuple[Any, ...], value: object) -> object:
    for choice in choices:
        if choice == value or str(choice) == value:
            return choice
    raise ValueError("not one of the choices")


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError("not a truth value")
    return _TRUTHS[text.lower()]


def _path(text: str) -> Path:
    if not text:
        raise ValueError("empty, which a path takes for the working directory")
    return Path(text)


_PARSERS: Mapping[object, Callable[[str], object]] = {bool: _truth, int: int, float: float, Path: _path}


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if choice is type(None) else _in_words(choice) for choice in arguments)
    if origin is tuple:
        return f"a comma-separated list of {_in_words(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint, str(hint))
