"""Where torchrun put this process, by the variables that it sets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from esper.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where torchrun put this process."""

    rank: int
    count: int
    local_rank: int
    local_count: int
    restarts: int
    """How often torchrun has started the processes anew."""


def is_launched() -> bool:
    """Whether torchrun started this process, and may do so anew."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def place() -> Place:
    """This process's place; alone where torchrun did not start it."""
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        return Place(0, 1, 0, 1, _number("TORCHELASTIC_RESTART_COUNT", 0))
    rank = _number("RANK", None)
    return Place(
        rank,
        count,
        _number("LOCAL_RANK", rank),
        _number("LOCAL_WORLD_SIZE", count),
        _number("TORCHELASTIC_RESTART_COUNT", 0),
    )


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise ConfigError(name, text, "expected the number that torchrun sets; start ranks by torchrun") from error


def named(ranks: list[int]) -> str:
    """Ranks by number."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"
