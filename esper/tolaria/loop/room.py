"""Where memory runs out, growth gives way: a live twin waits from then on, and a grown arm is given up for its twin.

Memory that only makes steps faster, of graphs, is given back before that.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from esper.core.errors import StepFailed
from esper.kasmina.executor import first_line, is_out_of_memory
from esper.tolaria.loop.session import Session

T = TypeVar("T")


class Room:
    """Makes room on the device of a session, at the cost of what grows there."""

    def __init__(self, session: Session, forget: Callable[[], None]) -> None:
        """`forget` lets go of what the caller knows of the arms."""
        self._session = session
        self._executor = session.run.executor
        self._forget = forget

    def measured(self, measure: Callable[[], T], what: str = "the evaluation") -> T:
        """What `measure` finds out about the arms as they are after the steps so far, as often as it takes until there
        is memory for it; `what` is its name. Raises StepFailed where nothing is left that could give way.
        """
        while True:
            try:
                return measure()
            except Exception as error:
                if not self.may_give_way(error):
                    raise
                # Only its words: the error holds the frames, and these the activations.
                why = first_line(error)
            if self._session.release():
                self._free()
                continue
            steps = self._session.progress.step
            where = f"{what} after step {steps}"
            if not (self._executor.is_twin_live and self.let_wait(steps, where, why)):
                self.give_up(steps, where, why)

    def may_give_way(self, error: Exception) -> bool:
        """Of many ranks one alone can't: the others have made their part, and hold what they held."""
        return self._session.ranks.count == 1 and is_out_of_memory(error)

    def let_wait(self, steps: int, where: str, why: str) -> bool:
        """Both arms are too much for the device: the twin, which has made so many steps, makes the others in bursts."""
        self._free()
        if not (self._session.run.loader.is_replayable and self._executor.makes_late_steps):
            return False
        try:
            self._executor.let_twin_wait(steps, f"{where} ran out of memory while both were live: {why}")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def give_up(self, steps: int, where: str, why: str) -> None:
        """The twin, as after so many steps, takes the grown arm's place. Raises StepFailed where it can't."""
        self._forget()
        self._free()
        if not self._executor.give_up(steps, f"memory ran out in {where}: {why}"):
            raise StepFailed(steps, f"memory ran out in {where}: {why}; there is no grown network to give up for it")
        self._free()

    def _free(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self._session.run.device.type == "cuda":
            torch.cuda.empty_cache()
