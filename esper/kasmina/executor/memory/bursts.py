"""A twin that waits in host memory and makes its steps in bursts, when somebody wants to know what became of it.

Batches and draws are keyed by the step, so steps that are made later are the same steps. While the twin is at hand the
grown arm waits in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.memory.parked import Parked, empty

MakeStep = Callable[[TrainingArm, int], None]


class Bursts:
    """Where the twin is, and how many of the run's steps it has made."""

    def __init__(self, grown: TrainingArm, twin: TrainingArm, steps_made: int) -> None:
        self.steps_made = steps_made
        self._twin = twin
        self._waiting = Parked()
        self._aside = Parked()
        _forget_gradients(twin)
        self._waiting.take(twin, beside=grown)

    @property
    def waiting_bytes(self) -> int:
        """Host memory that the twin takes."""
        return self._waiting.size_bytes

    @property
    def is_grown_aside(self) -> bool:
        """Whether the grown arm waits, though the twin is no longer at hand: there was no memory for its return."""
        return self._aside.size_bytes > 0

    def bring_back(self) -> None:
        """The grown arm is again as it was. What can't be put back for lack of memory waits on."""
        self._aside.put_back()

    @contextmanager
    def at_hand(self, grown: TrainingArm, step: int, make: MakeStep | None) -> Iterator[TrainingArm]:
        """The twin on its device, every step before `step` made; the two change places again afterwards.

        An error holds the memory of what was under way: where the grown arm finds no room beside that, it waits for
        `bring_back`.
        """
        try:
            self._aside.take(grown, beside=self._twin)
            self._come(step, make)
            yield self._twin
        finally:
            self._part(grown)

    def release(self, grown: TrainingArm, step: int, make: MakeStep | None) -> TrainingArm:
        """The twin for good, as after `step` steps. A failure leaves both arms as they were, as in `at_hand`."""
        try:
            self._aside.take(grown, beside=self._twin)
            self._come(step, make)
        except BaseException:
            self._part(grown)
            raise
        return self._twin

    def replace(self, grown: TrainingArm, step: int, make: MakeStep | None) -> TrainingArm:
        """The twin for good, in place of a grown arm that nobody wants any more."""
        self._aside = Parked()
        empty(grown, beside=self._twin)
        self._come(step, make)
        return self._twin

    def _part(self, grown: TrainingArm) -> None:
        _forget_gradients(self._twin)
        self._waiting.take(self._twin, beside=grown)
        self.bring_back()

    def _come(self, step: int, make: MakeStep | None) -> None:
        self._waiting.put_back()
        while self.steps_made < step:
            if make is None:
                raise GraftFailed(f"the twin has made {self.steps_made} of {step} steps, and nobody makes the others")
            make(self._twin, self.steps_made)
            self.steps_made += 1


class TwinAtHand:
    """Stands for a twin wherever an arm is measured: it is at hand while it is, and no longer."""

    def __init__(self, fetched: Callable[[], AbstractContextManager[TrainingArm]]) -> None:
        self._fetched = fetched
        self._arm: TrainingArm | None = None

    @property
    def model(self) -> nn.Module:
        return cast(TrainingArm, self._arm).model

    @contextmanager
    def measured(self, key: int, *, is_evaluation: bool = False) -> Iterator[None]:
        """As TrainingArm.measured."""
        with self._fetched() as self._arm, self._arm.measured(key, is_evaluation=is_evaluation):
            yield


def _forget_gradients(arm: TrainingArm) -> None:
    """Its next step begins without them, and nobody reads a twin's."""
    for module in arm.modules:
        for parameter in module.parameters():
            parameter.grad = None
