"""What signed requests make Weatherlight do. A refusal is counted and told as CRITICAL before it is raised.

Of a flood of refusals the first are told one by one, the rest as a count.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable
from typing import TypeVar

from esper.core.clock import Clock, timestamp
from esper.core.errors import CommandRejected
from esper.core.flood import WINDOW_S, Flood
from esper.core.lasted import lasted_ms
from esper.core.telemetry import event
from esper.leyline import (
    DrainOrder,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    Event,
    RejectionReason,
    RollbackDeadlineSignal,
    SignedCommand,
)
from esper.weatherlight import metrics
from esper.weatherlight.signed import SignedRequests
from esper.weatherlight.supervision.supervisor import Supervisor

T = TypeVar("T")
UNTYPED = "no payload type"
"""What a refused envelope asks for that doesn't say it."""


class Actions:
    """The four signed requests."""

    def __init__(
        self, signed: SignedRequests, supervisor: Supervisor, clock: Clock, rollback_level: EmergencyLevel
    ) -> None:
        self.rejections: Counter[int] = Counter()
        self._signed = signed
        self._supervisor = supervisor
        self._clock = clock
        self._rollback_level = rollback_level
        self._refusals = Flood[int](clock, self._tell_held)
        self._telling: set[asyncio.Task[None]] = set()

    async def raise_emergency(self, envelope: SignedCommand) -> None:
        """Open the emergency; a known id changes nothing."""
        work = self._signed.perform(
            envelope,
            EmergencySignal,
            lambda db, signal: run_of(signal),
            self._supervisor.book.raise_in,
            lambda signal, is_new: self._raised((signal, is_new)),
        )
        with self._supervisor.router.precedence.urgent():
            await self._told(envelope, work)

    async def signal_late_rollback(self, envelope: SignedCommand) -> None:
        """Open an emergency for a rollback that missed its deadline; one that is known changes nothing."""

        def act(db: sqlite3.Connection, late: RollbackDeadlineSignal) -> tuple[EmergencySignal, bool]:
            signal = self._emergency_of(late)
            return signal, self._supervisor.book.raise_in(db, signal)

        work = self._signed.perform(
            envelope,
            RollbackDeadlineSignal,
            lambda db, late: late.training_run_id,
            act,
            lambda late, found: self._raised(found),
        )
        with self._supervisor.router.precedence.urgent():
            late, (_, is_new) = await self._told(envelope, work)
        if is_new:
            await self._supervisor.rollback_late(late)

    async def acknowledge(self, envelope: SignedCommand) -> None:
        """Note who has an emergency in hand, and close it if it is over."""
        book = self._supervisor.book
        work = self._signed.perform(
            envelope,
            EmergencyAcknowledgement,
            lambda db, word: book.run_of(db, word.emergency_id),
            book.acknowledge_in,
            lambda word, _: self._supervisor.emergency_acknowledged(word),
        )
        await self._told(envelope, work)
        await self._supervisor.settled()

    async def order_drain(self, envelope: SignedCommand) -> DrainOrder:
        """The order, believed."""
        order, _ = await self._told(
            envelope, self._signed.perform(envelope, DrainOrder, lambda db, order: None, lambda db, order: None)
        )
        return order

    def _raised(self, found: tuple[EmergencySignal, bool]) -> None:
        signal, is_new = found
        if is_new:
            self._supervisor.emergency_raised(signal)

    async def _told(self, envelope: SignedCommand, work: Awaitable[T]) -> T:
        try:
            return await work
        except CommandRejected as error:
            self.rejections[error.reason] += 1
            if self._refusals.admits(error.reason):
                await self._supervisor.tell(self._refusal(error, envelope))
            raise

    def _refusal(self, error: CommandRejected, envelope: SignedCommand) -> Event:
        return event(
            metrics.COMMAND_REJECTED,
            self._clock,
            error.detail,
            method=envelope.payload_type or UNTYPED,
            reason=RejectionReason.Name(error.reason),
            key_id=envelope.security.key_id,
        )

    def _tell_held(self, reason: int, count: int) -> None:
        """Of a flood of refusals, those that were not told singly."""
        held = event(
            metrics.COMMAND_REJECTED,
            self._clock,
            f"{count} more within {WINDOW_S:g} s",
            reason=RejectionReason.Name(reason),
            count=count,
        )
        task = asyncio.get_running_loop().create_task(self._supervisor.tell(held))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _emergency_of(self, late: RollbackDeadlineSignal) -> EmergencySignal:
        return EmergencySignal(
            emergency_id=f"rollback-{late.training_run_id}-g{late.generation}-s{late.step}",
            level=self._rollback_level,
            cause=metrics.ROLLBACK_LATE.name,
            detail=f"the rollback at step {late.step} {_took(late)}",
            origin="tolaria",
            training_run_id=late.training_run_id,
            generation=late.generation,
            raised_at=timestamp(self._clock.now_ns()),
        )


def _took(late: RollbackDeadlineSignal) -> str:
    return f"took {lasted_ms(late.elapsed_ms)}; its deadline is {lasted_ms(late.deadline_ms)}"


def run_of(signal: EmergencySignal) -> str | None:
    """The run that an emergency is about; None for the whole plane."""
    return signal.training_run_id if signal.HasField("training_run_id") else None
