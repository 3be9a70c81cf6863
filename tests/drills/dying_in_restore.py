"""The diverging launcher, killed by SIGKILL in the middle of its first restore. Run as a module."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from esper.tolaria.launcher import main
from esper.tolaria.loop.step import Stepper
from esper.tolaria.recovery.tiers.deadline import Deadline
from tests.drills.diverging import diverging

PIECES = 7


def dying(check: Callable[[Deadline], None]) -> Callable[[Deadline], None]:
    """Ends the process after a few pieces of the restore, when part of the optimiser's state is written over."""
    pieces: list[int] = []

    def asked(deadline: Deadline) -> None:
        check(deadline)
        pieces.append(1)
        if len(pieces) == PIECES:
            os.kill(os.getpid(), signal.SIGKILL)

    return asked


if __name__ == "__main__":
    Stepper.run = diverging(Stepper.run)  # type: ignore[method-assign]
    Deadline.check = dying(Deadline.check)  # type: ignore[method-assign]
    raise SystemExit(main())
