"""What waits for one receiver: bounded, and an alert that comes and goes meanwhile takes two places at most."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from esper.nissa.notification import Notification
from esper.nissa.receivers import Receiver

BATCH = 64


@dataclass(slots=True)
class Box:
    """What waits for one receiver, and what became of the rest."""

    receiver: Receiver
    waiting: deque[Notification] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    """How many of the first are being delivered now: those stay as they are."""
    delivered: int = 0
    failures: int = 0
    dropped: int = 0
    is_failing: bool = False

    def put(self, notification: Notification, limit: int) -> None:
        """Queue it."""
        self.waiting.append(notification)
        self.settle()
        if len(self.waiting) > limit:
            del self.waiting[self.in_flight]
            self.dropped += 1
        self.news.set()

    def settle(self) -> None:
        """Forget how alerts came and went while they waited: a rise and an end of each are enough."""
        courses: dict[str, list[Notification]] = {}
        for each in islice(self.waiting, self.in_flight, None):
            courses.setdefault(each.fingerprint, []).append(each)
        kept = {id(each) for course in courses.values() for each in _settled(course)}
        under_way = list(islice(self.waiting, self.in_flight))
        rest = [each for each in islice(self.waiting, self.in_flight, None) if id(each) in kept]
        self.waiting = deque([*under_way, *rest])

    def begin(self) -> list[Notification]:
        """What is being delivered from now on."""
        batch = list(islice(self.waiting, BATCH))
        self.in_flight = len(batch)
        return batch

    def was_taken(self) -> None:
        """The receiver has what was being delivered."""
        for _ in range(self.in_flight):
            self.waiting.popleft()
        self.delivered += self.in_flight
        self.in_flight = 0

    def came_back(self) -> None:
        """It doesn't; what was being delivered waits with the rest."""
        self.failures += 1
        self.in_flight = 0
        self.settle()


def _settled(course: Sequence[Notification]) -> Sequence[Notification]:
    """Of rises and ends in turn, those that leave the same: the first rise, the last end."""
    if len(course) % 2 == 0:
        return course[0], course[-1]
    return (course[0],) if course[0].is_raised else (course[-1],)
