"""What makes a seed a part of its host once it is kept: which of its modules joins which of the host's, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from esper.kasmina.executor.slots.layers import Side


@dataclass(frozen=True, slots=True)
class Join:
    """The host's module that one of the seed's becomes part of, and the side that grows, in so many equal blocks."""

    path: str
    side: Side
    blocks: int = 1


Count = tuple[str, str, int]
"""A module's path, the name of what it counts, and how many the seed adds."""


class Bundle(nn.Module):
    """One seed of many blocks, a part for each."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


class JoiningSeed(nn.Module):
    """A seed beside layers of the host: its parameters learn as those do, and a fold joins them."""

    def __init__(self, joins: Mapping[str, Join], counts: Sequence[Count] = ()) -> None:
        super().__init__()
        self.joins = dict(joins)
        self.counts = tuple(counts)

    @property
    def twins_of(self) -> dict[str, str]:
        """The host's module that each of the seed's stands beside."""
        return {name: join.path for name, join in self.joins.items()}


class JoiningBundle(JoiningSeed):
    """One seed of many blocks, each of whose parts joins layers of its own."""

    def __init__(self, parts: Sequence[JoiningSeed]) -> None:
        named = [(f"parts.{index}", part) for index, part in enumerate(parts)]
        super().__init__(
            {f"{prefix}.{name}": join for prefix, part in named for name, join in part.joins.items()},
            [count for part in parts for count in part.counts],
        )
        self.parts = nn.ModuleList(parts)


def bundled(parts: Sequence[nn.Module]) -> nn.Module:
    """The parts as one seed."""
    joining = [part for part in parts if isinstance(part, JoiningSeed)]
    return JoiningBundle(joining) if len(joining) == len(parts) else Bundle(parts)
