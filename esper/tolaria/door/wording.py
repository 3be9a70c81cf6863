"""Flags that a message names, in the words of a script: `--grow never` is grow='never', `--resume` is resume=True."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields

from esper.core.errors import ConfigError, EsperError
from esper.tolaria.config import TrainConfig

_SETTINGS = {setting.name: setting for setting in fields(TrainConfig)}
_SWITCHES = {"resume", "overwrite"} | {name for name, setting in _SETTINGS.items() if isinstance(setting.default, bool)}
_FLAG = re.compile(r"(?<![\w-])--([a-z0-9]+(?:-[a-z0-9]+)*)(?:([ =])([\w.]*\w))?")
_is_launched: ContextVar[bool] = ContextVar("is_launched", default=False)


def reworded(text: str) -> str:
    """The text with keywords and settings in place of flags, but under the launcher."""
    return text if _is_launched.get() else _FLAG.sub(_keyword, text)


@contextmanager
def in_words_of_scripts() -> Iterator[None]:
    """Errors of the inside name no flags; also a decorator."""
    try:
        yield
    except EsperError as error:
        error.args = tuple(reworded(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, ConfigError):
            error.remedy = reworded(error.remedy)
        raise


@contextmanager
def in_words_of_flags() -> Iterator[None]:
    """For a script that the launcher calls."""
    token = _is_launched.set(True)
    try:
        yield
    finally:
        _is_launched.reset(token)


def _keyword(found: re.Match[str]) -> str:
    name, gap, word = found[1].replace("-", "_"), found[2] or "", found[3] or ""
    if name in _SWITCHES:
        return f"{name}=True{gap}{word}"
    if name not in _SETTINGS:
        return found[0]
    if word in _SETTINGS[name].metadata["choices"]:
        return f"{name}={word!r}"
    return f"{name}={word}" if gap == "=" or word.replace(".", "").isdigit() else f"{name}{gap}{word}"
