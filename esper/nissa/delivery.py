"""Delivery of alerts to receivers of one's own, for planes without Alertmanager.

Each receiver has a queue and a task of its own, so that none waits for another and nobody waits for any. What waits is
delivered together, and tried again with growing, jittered pauses until it is taken or too old to matter. Alerts that
stand and notifications that wait are kept in a file: a process that was killed tells each change once more at most.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.core.clock import NS_PER_S, Clock
from esper.core.storage.files import read_regular, write_atomically
from esper.core.telemetry import MetricSpec, build_packet, event, metric
from esper.leyline import Event, Metric, TelemetryPacket
from esper.nissa import metrics
from esper.nissa.alerts import Alert, Change
from esper.nissa.box import Box
from esper.nissa.notification import Notification, from_plain, message, to_plain
from esper.nissa.receivers import DeliveryFailed, Receiver

log = logging.getLogger("esper.nissa")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How deliveries are tried again, in seconds, and how much may wait."""

    retry_s: float = 1.0
    max_retry_s: float = 60.0
    max_age_s: float = 3600.0
    max_queued: int = 256
    last_try_s: float = 1.0
    """Longest wait at the end of the process."""


class Delivery:
    """Takes changes of alerts; `run` delivers them. `tell` is given packets about deliveries that fail."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        clock: Clock,
        path: Path,
        tell: Callable[[TelemetryPacket], None],
        pace: Pace | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._path = path
        self._tell = tell
        self._pace = pace or Pace()
        self._jitter = jitter
        self._boxes = [Box(receiver) for receiver in receivers]
        self._standing: dict[str, Notification] = {}
        self._is_changed = False
        # One thread: of two writes the later one stays, also where whoever began the first has gone.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="alerts")
        self._writing: Future[None] | None = None
        self._restore()

    @property
    def standing(self) -> list[Alert]:
        """Alerts that an earlier process has told of and that stand, as far as it knew."""
        return [each.alert for each in self._standing.values()]

    def take(self, changes: Sequence[Change]) -> None:
        """Queue what changed; never waits."""
        for change in changes:
            notification = self._noted(change)
            for box in self._boxes:
                box.put(notification, self._pace.max_queued)
            self._is_changed = True

    async def save(self) -> None:
        """Have on the disk what stands and what waits, if it has changed."""
        if self._is_changed:
            self._is_changed = False
            content = json.dumps(self._as_data()).encode()
            self._writing = self._writer.submit(write_atomically, self._path, content, mode=0o600)
        if self._writing is None:
            return
        try:
            await asyncio.shield(asyncio.wrap_future(self._writing))
        except OSError as error:
            self._is_changed = True
            log.error("alerts can't be kept in %s: %s", self._path, error.strerror)

    async def run(self) -> None:
        """Deliver for ever."""
        async with asyncio.TaskGroup() as group:
            for box in self._boxes:
                group.create_task(self._serve(box))

    async def close(self) -> None:
        """Try once, and shortly, to deliver what waits; what is left is kept for the next process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.last_try_s):
                await asyncio.gather(*(self._deliver(box) for box in self._boxes if box.waiting))
        await self.save()
        self._writer.shutdown(wait=False)

    def measurements(self) -> list[Metric]:
        """What became of notifications, by receiver."""
        return [metric(spec, value, receiver=box.receiver.name) for box in self._boxes for spec, value in _counts(box)]

    async def _serve(self, box: Box) -> None:
        pause_s = 0.0
        while True:
            if not box.waiting:
                box.news.clear()
                await box.news.wait()
            if await self._deliver(box):
                pause_s = 0.0
                continue
            pause_s = min(max(self._pace.retry_s, 2 * pause_s), self._pace.max_retry_s)
            await asyncio.sleep(pause_s * (0.5 + 0.5 * self._jitter()))

    async def _deliver(self, box: Box) -> bool:
        """Deliver what waits, at most a batch; False if the receiver didn't take it."""
        self._give_up(box)
        batch = box.begin()
        if not batch:
            return True
        try:
            await box.receiver.deliver(message(box.receiver.name, batch))
        except DeliveryFailed as error:
            box.came_back()
            self._tell_failure(box, str(error))
            return False
        box.was_taken()
        self._is_changed = True
        await self.save()
        self._tell_success(box)
        return True

    def _give_up(self, box: Box) -> None:
        """Drop what is too old to matter."""
        oldest_ns = self._clock.now_ns() - round(self._pace.max_age_s * NS_PER_S)
        while box.waiting and box.waiting[0].at_ns < oldest_ns:
            box.waiting.popleft()
            box.dropped += 1
            self._is_changed = True

    def _noted(self, change: Change) -> Notification:
        """The change as a notification; what stands is remembered with the time of its rise."""
        now_ns = self._clock.now_ns()
        raised = Notification(alert=change.alert, value=change.value, raised_ns=now_ns)
        if change.is_raised:
            self._standing[raised.fingerprint] = raised
            return raised
        began = self._standing.pop(raised.fingerprint, raised)
        return Notification(alert=change.alert, value=change.value, raised_ns=began.raised_ns, cleared_ns=now_ns)

    def _tell_failure(self, box: Box, why: str) -> None:
        if box.is_failing:
            return
        box.is_failing = True
        log.error("alerts wait, %d of them, and are delivered later: %s", len(box.waiting), why)
        self._tell_event(event(metrics.DELIVERY_FAILED, self._clock, why, receiver=box.receiver.name))

    def _tell_success(self, box: Box) -> None:
        if not box.is_failing:
            return
        box.is_failing = False
        self._tell_event(event(metrics.DELIVERY_RESTORED, self._clock, receiver=box.receiver.name))

    def _tell_event(self, told: Event) -> None:
        self._tell(build_packet("nissa", self._clock, metrics=self.measurements(), events=[told]))

    def _as_data(self) -> dict[str, Any]:
        return {
            "standing": [to_plain(each) for each in self._standing.values()],
            "waiting": {box.receiver.name: [to_plain(each) for each in box.waiting] for box in self._boxes},
        }

    def _restore(self) -> None:
        """Go on where an earlier process ended. A file that can't be read is put aside, and doesn't end the plane."""
        try:
            data = json.loads(read_regular(self._path))
            standing = [from_plain(each) for each in data["standing"]]
            waiting = {name: [from_plain(each) for each in kept] for name, kept in data["waiting"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            aside = self._path.with_suffix(".damaged")
            log.error("%s can't be read (%s): it is put aside as %s", self._path, type(error).__name__, aside.name)
            with suppress(OSError):
                self._path.replace(aside)
            return
        self._standing = {each.fingerprint: each for each in standing}
        for box in self._boxes:
            for each in waiting.get(box.receiver.name, ()):
                box.put(each, self._pace.max_queued)


def _counts(box: Box) -> Iterator[tuple[MetricSpec, int]]:
    yield metrics.DELIVERED, box.delivered
    yield metrics.DELIVERY_FAILURES, box.failures
    yield metrics.DELIVERY_DROPPED, box.dropped
    yield metrics.DELIVERY_WAITING, len(box.waiting)
