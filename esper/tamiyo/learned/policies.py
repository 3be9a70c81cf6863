"""The policies of the service by the digest of their weights; one of them decides a run from its start to its end."""

from __future__ import annotations

from functools import cached_property

from esper.core.dependency_guard import require
from esper.core.errors import CorruptRecord
from esper.tamiyo.learned.exploring import ExploringPolicy
from esper.tamiyo.learned.policy import LearnedPolicy
from esper.tamiyo.learned.standing import HEURISTIC, Shelf
from esper.tamiyo.learned.weights import read_weights
from esper.tamiyo.policy import HeuristicPolicy, Policy


class Policies:
    """The heuristic and what lies on the shelf; each explores by the service's setting."""

    def __init__(self, shelf: Shelf, *, explore: float) -> None:
        self.shelf = shelf
        self._explore = explore
        self._loaded: dict[str, Policy] = {}

    @property
    def live_digest(self) -> str:
        """Of the policy that new runs get."""
        return self.shelf.standing.live

    @property
    def live(self) -> Policy:
        return self.of(self.live_digest)

    @cached_property
    def heuristic(self) -> Policy:
        return HeuristicPolicy()

    def of(self, digest: str) -> Policy:
        """Raises DependencyViolationError for weights that aren't here: another policy would decide otherwise."""
        if digest not in self._loaded:
            bare = self.bare(digest)
            self._loaded[digest] = ExploringPolicy(bare, self._explore) if self._explore else bare
        return self._loaded[digest]

    def bare(self, digest: str) -> Policy:
        """The same without exploration."""
        return self.heuristic if digest == HEURISTIC else self.learned(digest)

    def learned(self, digest: str) -> LearnedPolicy:
        remedy = "resume the run at the service that it was opened at, or publish these weights there"
        weights = read_weights(require(self.shelf.get(digest), "tamiyo", "policy weights", digest, remedy))
        if weights.digest != digest:
            raise CorruptRecord(f"policy weights {digest} are damaged on the disk; publish them again")
        return LearnedPolicy(weights)
