"""Threads that take turns: one runs, the others wait, and each has a clock that stands while it waits.

A machine's speed drifts by several per cent within seconds, as its neighbours come and go. Runs that alternate many
times in that time meet the same machine; runs that follow each other don't.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")

SETTLE_S = 0.02  # between two turns: what a turn set off elsewhere ends before the next one's clock runs


class Turns:
    """Whose turn it is: forth and back through the names, so that a steady drift favours none."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._queue = list(names)
        self._changed = threading.Condition()

    def wait_for(self, name: str) -> None:
        """Block until it is this name's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue[0] == name)

    def pass_on(self) -> None:
        """End the turn that is."""
        with self._changed:
            self._queue.pop(0)
            self._refill()

    def leave(self, name: str) -> None:
        """No more turns for this name."""
        with self._changed:
            self._names.remove(name)
            self._queue = [queued for queued in self._queue if queued != name]
            self._refill()

    def _refill(self) -> None:
        if not self._queue:
            self._names.reverse()
            self._queue = list(self._names)
        self._changed.notify_all()


def stolen_s() -> float:
    """Seconds that the machine's processors had work and its host ran something else; 0 where no one tells."""
    try:
        with open("/proc/stat") as stat:
            return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(slots=True)
class Spent:
    """Seconds of the wall, of the process on processors, stolen from the machine, and of the thread that asks."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    stolen_s: float = 0.0
    thread_s: float = 0.0

    def add_since(self, start: Spent) -> None:
        """Add what went by since."""
        now = Spent.now()
        self.wall_s += now.wall_s - start.wall_s
        self.cpu_s += now.cpu_s - start.cpu_s
        self.stolen_s += now.stolen_s - start.stolen_s
        self.thread_s += now.thread_s - start.thread_s

    @classmethod
    def now(cls) -> Spent:
        """What the clocks say."""
        return cls(time.perf_counter(), time.process_time(), stolen_s(), time.thread_time())


class Turn:
    """One thread's part in the turns, with a clock for it, and one for what `beside` counts of others' work for it.

    The latter runs on until a turn has settled.
    """

    def __init__(self, turns: Turns, name: str) -> None:
        self.spent = Spent()
        self.spent_beside_s: dict[str, float] = {}
        self.beside: Callable[[], Mapping[str, float]] = dict
        """Seconds so far, by who works."""
        self.name = name
        self._turns = turns
        self._begin()

    def start_clock(self) -> None:
        """What came before isn't counted."""
        self.spent, self.spent_beside_s = Spent(), {}
        self._begin()

    def stop_clock(self) -> None:
        """Count up to now."""
        self.spent.add_since(self._since)

    def settle(self) -> None:
        """Count what the turn has set off elsewhere, once that is done."""
        time.sleep(SETTLE_S)
        for name, now_s in self.beside().items():
            since_s = now_s - self._beside_since.get(name, 0.0)
            self.spent_beside_s[name] = self.spent_beside_s.get(name, 0.0) + since_s

    def hand_over(self) -> None:
        """Let the others have their turns, uncounted."""
        self.stop_clock()
        self.settle()
        self._turns.pass_on()
        self._turns.wait_for(self.name)
        self._begin()

    def _begin(self) -> None:
        self._since, self._beside_since = Spent.now(), self.beside()


def take_turns(tasks: Mapping[str, Callable[[Turn], Result]]) -> dict[str, Result]:
    """Run every task in a thread of its own, one at a time; each says when it hands over. Raises what one raises."""
    turns = Turns(list(tasks))

    def run(name: str, task: Callable[[Turn], Result]) -> Result:
        turns.wait_for(name)
        try:
            return task(Turn(turns, name))
        finally:
            turns.leave(name)

    with ThreadPoolExecutor(len(tasks)) as threads:
        futures = {name: threads.submit(run, name, task) for name, task in tasks.items()}
        return {name: future.result() for name, future in futures.items()}
