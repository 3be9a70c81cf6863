"""Names of the form `module:attribute` that a user gives for a model or a data source."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError


def load(setting: str, text: str) -> Any:
    """Return the object that `text` names; modules of the working directory are found too."""
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise ConfigError(setting, text, "expected module:attribute")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(setting, text, f"can't be imported: {error}") from error
    return found


def called(setting: str, text: str, function: Callable[..., Any], *arguments: Any, expected: str) -> Any:
    """What the user's function gives for the arguments. Raises ConfigError where it takes others."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Callables of compiled code tell no signature.
        return function(*arguments)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ConfigError(setting, text, f"takes {signature}, expected {expected}: {error}") from error
    return function(*arguments)
