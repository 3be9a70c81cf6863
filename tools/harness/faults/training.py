"""What can befall a trainer: weights that are lost at a step, restores that take long, a kill in the middle of one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from esper.tolaria.loop.step import Stepper
from esper.tolaria.recovery.tiers.deadline import Deadline
from tools.harness.faults.replaced import replaced


def breaking_down(at_step: int) -> AbstractContextManager[None]:
    """A weight becomes NaN just before a step, as long as no rollback has lowered the rate."""
    run = Stepper.run

    def step(self: Stepper, arm: Any, batch: Any, number: int, *rest: Any, **options: Any) -> Any:
        if number == at_step and arm.scheduler.factor == 1.0:
            next(iter(arm.model.parameters())).data.fill_(float("nan"))
        return run(self, arm, batch, number, *rest, **options)

    return replaced(Stepper, "run", step)


def slow_restores(seconds: float) -> AbstractContextManager[None]:
    """Every piece of a restore takes so long in addition, in whichever thread it is read."""
    check = Deadline.check

    def asked(self: Deadline) -> None:
        time.sleep(seconds)  # the fault
        check(self)

    return replaced(Deadline, "check", asked)


def dying_in_restore(pieces: int) -> AbstractContextManager[None]:
    """The process is killed after so many pieces of a restore, when part of the optimiser's state is written over."""
    check, done = Deadline.check, list[int]()

    def asked(self: Deadline) -> None:
        check(self)
        done.append(1)
        if len(done) == pieces:
            os.kill(os.getpid(), signal.SIGKILL)

    return replaced(Deadline, "check", asked)


FAULTS: Mapping[str, tuple[Callable[[Any], AbstractContextManager[None]], type]] = {
    "breaking-down": (breaking_down, int),
    "slow-restores": (slow_restores, float),
    "dying-in-restore": (dying_in_restore, int),
}
"""By name, with the type of their one value."""
