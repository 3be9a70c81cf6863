"""Interventions in a run that are no commands: teachers, and the reset of the seed registry. All of them signed."""

from __future__ import annotations

import sqlite3

from esper.core.security.ledger import LedgerStats
from esper.core.tracing import current_trace
from esper.kasmina.control.ledger import commands, database
from esper.kasmina.control.ledger.commands import Applied, Receipt
from esper.kasmina.control.resources import Resources, require_open
from esper.leyline import RegistryReset, SignedCommand, TeacherRegistration, TeacherReset

Message = TeacherRegistration | TeacherReset | RegistryReset


class Interventions:
    """One method for each request."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def register_teacher(self, envelope: SignedCommand) -> str:
        """From now on seeds that incubate may learn from it; gives its id."""
        self._resources.admission.verified(envelope, TeacherRegistration)
        teacher = await self._resources.admission.opened(envelope, TeacherRegistration)
        await self._act(envelope, teacher, raises_fence=False)
        return teacher.teacher_id

    async def reset_teacher(self, envelope: SignedCommand) -> bool:
        """Forget the teacher, and whatever was signed until now; gives whether there was one."""
        self._resources.admission.verified(envelope, TeacherReset)
        reset = await self._resources.admission.opened(envelope, TeacherReset)
        _, had_teacher = await self._act(envelope, reset, raises_fence=True)
        self._resources.prefetcher.reset(reset.training_run_id, f"teacher reset: {reset.rationale}")
        return had_teacher

    async def reset_registry(self, envelope: SignedCommand) -> int:
        """Cull every living seed, and forget whatever was signed until now; gives the number of seeds."""
        self._resources.admission.verified(envelope, RegistryReset)
        reset = await self._resources.admission.opened(envelope, RegistryReset)
        applied, _ = await self._act(envelope, reset, raises_fence=True)
        self._resources.prefetcher.reset(reset.training_run_id, f"registry reset: {reset.rationale}")
        return len(applied.outcome.transitions)

    async def _act(self, envelope: SignedCommand, message: Message, *, raises_fence: bool) -> tuple[Applied, bool]:
        """Change the run and record it, in one transaction; with it, whether the run had a teacher before."""
        receipt = Receipt(envelope=envelope, received_ns=self._resources.clock.now_ns(), trace=current_trace())

        def work(connection: sqlite3.Connection) -> tuple[Applied, bool, LedgerStats]:
            row = require_open(database.run_by_id(connection, message.training_run_id))
            had_teacher = bool(row.state.growth.teacher_digest)
            applied = commands.intervene(connection, row, message, receipt, self._resources.artifacts.catalog)
            if raises_fence:
                self._resources.ledger.raise_fence(connection, self._resources.clock.now_ns())
            return applied, had_teacher, self._resources.ledger.stats(connection)

        applied, had_teacher, stats = await self._resources.admission.commit(envelope, work)
        if applied.turn is not None:
            await self._resources.published(applied.turn, stats)
        return applied, had_teacher
