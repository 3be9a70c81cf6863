"""Batches that come in their own order, from an iterable: a step's batch can be had while it is near, and not again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.tolaria.task.feeds.underway import Underway

KEPT = 4
"""Batches that are remembered: trials before a run look at the first two."""


class SequentialFeeder:
    """Training batches of an iterable; one with state_dict and load_state_dict goes on where it stood."""

    is_replayable = False
    samples: int | None = None

    def __init__(self, batches: Iterable[Any], steps_per_epoch: int) -> None:
        self._source = batches
        self.steps_per_epoch = steps_per_epoch
        self._underway = Underway(self, has_workers=bool(getattr(batches, "num_workers", 0)))
        self._next = 0
        self._kept: dict[int, Any] = {}
        self._states: dict[int, Any] = {}

    def batch(self, step: int) -> Any:
        """The batch of the step, counted from 0; later ones than were asked for are passed over."""
        while self._next <= step:
            if self._has_state:
                self._states[self._next] = self._source.state_dict()  # type: ignore[attr-defined]
            self._kept[self._next] = self._drawn()
            self._next += 1
            for held in (self._kept, self._states):
                held.pop(self._next - 1 - KEPT, None)
        if step not in self._kept:
            remedy = f"the batch of step {step} is gone: this loader can't be replayed"
            raise ConfigError("data", type(self._source).__name__, remedy)
        return self._kept[step]

    @property
    def _has_state(self) -> bool:
        return hasattr(self._source, "state_dict") and hasattr(self._source, "load_state_dict")

    def state_dict(self, step: int) -> dict[str, Any]:
        """Of the loader before the step's batch, where it has one."""
        if not self._has_state:
            return {}
        at = self._states.get(step)
        return {"loader": self._source.state_dict() if at is None else at}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any], step: int) -> str:
        """Go on at the step, from where the loader stood, or from its beginning."""
        self.close()
        self._kept, self._states, self._next = {}, {}, step
        if state.get("loader") is None:
            return f"{type(self._source).__name__} has no state to restore: from step {step} on its batches start anew"
        self._source.load_state_dict(state["loader"])  # type: ignore[attr-defined]
        return ""

    def close(self) -> None:
        """What makes its batches ends; the next one is the first of a new pass."""
        self._underway.end()

    def _begin_epoch(self) -> None:
        """Samplers that want to be told the epoch, such as torch's DistributedSampler, give one order else."""
        for name in ("batch_sampler", "sampler"):
            if (set_epoch := getattr(getattr(self._source, name, None), "set_epoch", None)) is not None:
                set_epoch(self._next // self.steps_per_epoch)

    def _drawn(self) -> Any:
        for _ in range(2):
            if self._underway.iterator is None:
                self._begin_epoch()
                self._underway.iterator = iter(self._source)
            try:
                return self._underway.next()
            except StopIteration:
                self.close()
        name = type(self._source).__name__
        if self._next:
            told = f"gave {counted(self._next, 'batch', 'batches')} and no more, and the run isn't over"
            remedy = "give a DataLoader, a list, or another iterable that can be gone through again, or fewer steps"
            raise ConfigError("data", name, f"{told}: {remedy}")
        raise ConfigError("data", name, "gives no batch; a training set needs at least one")
