"""Processor time by who used it: this process's other threads by whose turn they came up in, and other processes.

A wall's time says little on a machine that others use. How long a thread or a process ran is told all the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

# Linux: the number of a clock holds what it measures (`man 2 clock_getres`, "dynamic clocks").
PROCESS, THREAD = 2, 6


def process_s(pid: int) -> float:
    """Seconds that all threads of a process have run. Raises OSError where there is none."""
    return time.clock_gettime((~pid << 3) | PROCESS)


def thread_s(thread_id: int) -> float:
    """Seconds that a thread of this process has run. Raises OSError where there is none."""
    return time.clock_gettime((~thread_id << 3) | THREAD)


class Helpers:
    """The threads of this process that don't train; each belongs to the one in whose turn it was first seen."""

    def __init__(self) -> None:
        self._owners: dict[int, str | None] = {}
        self._spent_s: dict[int, float] = {}

    def leave_out(self) -> None:
        """The thread that calls is no helper."""
        self._owners[threading.get_native_id()] = None

    def spent_s(self, name: str) -> float:
        """Seconds that the helpers of a name have run, those that have ended with what was last seen of them."""
        for thread_id in map(int, os.listdir("/proc/self/task")):
            self._owners.setdefault(thread_id, name)
            try:
                self._spent_s[thread_id] = thread_s(thread_id)
            except OSError:
                continue  # it has ended
        return sum(spent for thread_id, spent in self._spent_s.items() if self._owners[thread_id] == name)


def spent_beside_s(helpers: Helpers, name: str, processes: Mapping[str, int]) -> dict[str, float]:
    """Seconds so far of what runs beside a training thread: the helpers of that name, and each process."""
    return {"threads": helpers.spent_s(name), **{process: process_s(pid) for process, pid in processes.items()}}
