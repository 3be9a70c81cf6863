"""Interventions in a run that are no commands: teachers, and the reset of the seed registry. All of them signed."""

from __future__ import annotations

import sqlite3

from esper.core.ledger import LedgerStats
from esper.core.tracing import current_trace
from esper.kasmina import metrics
from esper.kasmina.control import commands, database
from esper.kasmina.control.commands import Applied, Receipt
from esper.kasmina.control.resources import Resources, require_open
from esper.leyline import RegistryReset, SignedCommand, TeacherRegistration, TeacherReset


class Interventions:
    """One method for each request."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def register_teacher(self, envelope: SignedCommand) -> str:
        self._resources.admission.verified(envelope, TeacherRegistration)
        teacher = await self._resources.admission.opened(envelope, TeacherRegistration)

        def work(connection: sqlite3.Connection) -> str:
            require_open(database.run_by_id(connection, teacher.training_run_id))
            database.put_teacher(connection, teacher.training_run_id, teacher)
            return teacher.teacher_id

        await self._resources.admission.commit(envelope, work)
        self._resources.tell(metrics.TEACHER_REGISTERED, teacher.teacher_id, teacher, teacher_id=teacher.teacher_id)
        return teacher.teacher_id

    async def reset_teacher(self, envelope: SignedCommand) -> bool:
        """Forget the teacher, and whatever was signed until now."""
        self._resources.admission.verified(envelope, TeacherReset)
        reset = await self._resources.admission.opened(envelope, TeacherReset)

        def work(connection: sqlite3.Connection) -> bool:
            row = require_open(database.run_by_id(connection, reset.training_run_id))
            database.put_teacher(connection, row.run_id, None)
            self._resources.ledger.raise_fence(connection, self._resources.clock.now_ns())
            return row.teacher is not None

        was_registered = await self._resources.admission.commit(envelope, work)
        self._resources.prefetcher.reset(reset.training_run_id, f"teacher reset: {reset.rationale}")
        self._resources.tell(metrics.TEACHER_DEREGISTERED, reset.rationale, reset)
        return was_registered

    async def reset_registry(self, envelope: SignedCommand) -> int:
        """Cull every living seed, and forget whatever was signed until now; gives the number of seeds."""
        self._resources.admission.verified(envelope, RegistryReset)
        reset = await self._resources.admission.opened(envelope, RegistryReset)
        receipt = Receipt(envelope=envelope, received_ns=self._resources.clock.now_ns(), trace=current_trace())

        def work(connection: sqlite3.Connection) -> tuple[Applied, LedgerStats]:
            row = require_open(database.run_by_id(connection, reset.training_run_id))
            applied = commands.reset_registry(connection, row, reset, receipt, self._resources.artifacts.catalog)
            self._resources.ledger.raise_fence(connection, self._resources.clock.now_ns())
            return applied, self._resources.ledger.stats(connection)

        applied, stats = await self._resources.admission.commit(envelope, work)
        self._resources.prefetcher.reset(reset.training_run_id, f"registry reset: {reset.rationale}")
        if applied.turn is not None:
            await self._resources.published(applied.turn, stats)
        return len(applied.outcome.transitions)
