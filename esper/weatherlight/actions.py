"""What signed requests make Weatherlight do. A refusal is counted and told as CRITICAL before it is raised."""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Awaitable
from typing import TypeVar

from esper.core.clock import Clock, timestamp
from esper.core.errors import CommandRejected
from esper.core.telemetry import event
from esper.leyline import (
    DrainOrder,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    RejectionReason,
    RollbackDeadlineSignal,
    SignedCommand,
)
from esper.weatherlight import metrics
from esper.weatherlight.signed import SignedRequests
from esper.weatherlight.supervisor import Supervisor

T = TypeVar("T")


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

    async def raise_emergency(self, envelope: SignedCommand) -> None:
        """Open the emergency; a known id changes nothing."""
        book = self._supervisor.book
        work = self._signed.perform(envelope, EmergencySignal, lambda db, signal: run_of(signal), book.raise_in)
        signal, is_new = await self._told(envelope, work)
        if is_new:
            await self._supervisor.emergency_raised(signal)

    async def signal_late_rollback(self, envelope: SignedCommand) -> None:
        """Open an emergency for a rollback that missed its deadline."""

        def act(db: sqlite3.Connection, late: RollbackDeadlineSignal) -> EmergencySignal:
            signal = self._emergency_of(late)
            self._supervisor.book.raise_in(db, signal)
            return signal

        work = self._signed.perform(envelope, RollbackDeadlineSignal, lambda db, late: late.training_run_id, act)
        late, signal = await self._told(envelope, work)
        await self._supervisor.rollback_late(late)
        await self._supervisor.emergency_raised(signal)

    async def acknowledge(self, envelope: SignedCommand) -> None:
        """Note who has an emergency in hand, and close it if it is over."""
        book = self._supervisor.book
        work = self._signed.perform(
            envelope,
            EmergencyAcknowledgement,
            lambda db, word: book.run_of(db, word.emergency_id),
            book.acknowledge_in,
        )
        word, _ = await self._told(envelope, work)
        await self._supervisor.emergency_acknowledged(word)

    async def order_drain(self, envelope: SignedCommand) -> DrainOrder:
        """The order, believed."""
        order, _ = await self._told(
            envelope, self._signed.perform(envelope, DrainOrder, lambda db, order: None, lambda db, order: None)
        )
        return order

    async def _told(self, envelope: SignedCommand, work: Awaitable[T]) -> T:
        try:
            return await work
        except CommandRejected as error:
            self.rejections[error.reason] += 1
            reason = RejectionReason.Name(error.reason)
            what = {"method": envelope.payload_type, "reason": reason, "key_id": envelope.security.key_id}
            await self._supervisor.tell(event(metrics.COMMAND_REJECTED, self._clock, error.detail, **what))
            raise

    def _emergency_of(self, late: RollbackDeadlineSignal) -> EmergencySignal:
        return EmergencySignal(
            emergency_id=f"rollback-{late.training_run_id}-g{late.generation}-{secrets.token_hex(4)}",
            level=self._rollback_level,
            cause=metrics.ROLLBACK_LATE.name,
            detail=f"the rollback at step {late.step} took {late.elapsed_ms:.0f} of {late.deadline_ms:.0f} ms",
            origin="tolaria",
            training_run_id=late.training_run_id,
            generation=late.generation,
            raised_at=timestamp(self._clock.now_ns()),
        )


def run_of(signal: EmergencySignal) -> str | None:
    """The run that an emergency is about; None for the whole plane."""
    return signal.training_run_id if signal.HasField("training_run_id") else None
