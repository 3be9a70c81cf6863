"""The runs that are open: their state, their tokens, and the database in which both survive a restart.

Nonces and runs share one database, so that a signed request and what it changes are stored together or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from esper.core.clock import Clock
from esper.core.decisions import decision_ledger
from esper.core.decisions.decision_ledger import Decided
from esper.core.errors import AccessDenied, ContractError, LifecycleConflict
from esper.core.process.awaited import awaited
from esper.core.security.ledger import NonceLedger
from esper.core.security.tokens import NO_RUN, new_run_token, token_digest
from esper.core.storage.store import SqliteStore
from esper.leyline import CommandSecurity, Decision, RunStateBlob, TamiyoRunSpec, TamiyoRunState
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.context import RunContext, context_of
from esper.tamiyo.growing.survey import Offers
from esper.tamiyo.hearing import Hearing

STATE_TYPE = TamiyoRunState.DESCRIPTOR.full_name
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, token_digest TEXT NOT NULL, is_open INTEGER NOT NULL,"
    " spec BLOB NOT NULL, state BLOB NOT NULL, decision BLOB NOT NULL) WITHOUT ROWID"
)
_SAVE_RUN = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)"
# By token, not by run: work for a generation that was left meanwhile must not reach its successor's row.
_SAVE_STATE = "UPDATE runs SET state = ?, decision = ? WHERE token_digest = ? AND is_open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """The policy that a new run is decided by to its end."""

    version: str
    digest: str
    """SHA-256 of its weights; empty: the heuristic has none."""


@dataclass(kw_only=True, slots=True, eq=False)
class Run:
    """One open run. `lock` keeps its packets, outcomes and updates in order."""

    context: RunContext
    state: TamiyoRunState
    token_digest: str
    decision: Decision
    hearing: Hearing
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    offers: Offers | None = None
    """What could be grown under this context, once it was looked for."""
    hook_latency_ms: float | None = None
    was_late: bool = False
    """Whether the last packet could not be decided on in time."""
    conditions: frozenset[str] = frozenset()
    """What held at the last packet: an event tells when it begins, not that it lasts."""

    @property
    def run_id(self) -> str:
        return self.context.run_id

    @property
    def generation(self) -> int:
        return self.context.spec.generation


class RunBook:
    """Open runs by id and by token, each change durable before it is answered."""

    def __init__(self, path: Path, clock: Clock, config: TamiyoConfig, *, policy: Callable[[], Pin]) -> None:
        self._config = config
        self._policy = policy
        self._clock = clock
        self._ledger = NonceLedger(clock)
        self._store = SqliteStore(path, self._create)
        self._runs: dict[str, Run] = {}
        for row in self._store.read(_open_rows):
            run = self._restored(row)
            self._runs[run.run_id] = run

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def conservative(self) -> list[Run]:
        """Runs in conservative mode, by their ids: one that was killed is open still, but bothers nobody."""
        return [run for _, run in sorted(self._runs.items()) if run.state.conservative and run.hearing.counts]

    def line_ended(self, line: object) -> None:
        """A stream that carried packets ended."""
        for run in self._runs.values():
            run.hearing.ended(line)

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def by_token(self, token: str | None) -> Run:
        """The run that a token opens. Raises AccessDenied."""
        digest = token_digest(token or "")
        run = next((run for run in self._runs.values() if run.token_digest == digest), None)
        if token is None or run is None:
            raise AccessDenied(NO_RUN)
        return run

    async def open(self, spec: TamiyoRunSpec, security: CommandSecurity) -> tuple[Run, str]:
        """Open a run, or a later generation of it. Asked again before its first packet, it gets a new token."""
        known = self._runs.get(spec.training_run_id)
        if known is not None:
            _require_successor(known, spec)
        state, token = self._first_state(spec), new_run_token()
        run = Run(
            context=context_of(spec, state.trigger, self._config),
            state=state,
            token_digest=token_digest(token),
            decision=Decision(),
            hearing=Hearing(self._clock),
        )

        def opened(_: None) -> None:
            self._runs[run.run_id] = run

        await self._commit(security, lambda db: db.execute(_SAVE_RUN, _row(run, is_open=True)), opened)
        return run, token

    async def save(self, run: Run, state: TamiyoRunState, decision: Decision, decided: Decided) -> None:
        """Keep the state after a decision, with the decision in case it has to be given again, and how it was made."""

        def both(connection: sqlite3.Connection) -> None:
            _update(connection, run, state, decision)
            decision_ledger.append(connection, decided, run.context.spec.SerializeToString)

        def kept(_: None) -> None:
            run.state, run.decision = state, decision

        await awaited(self._store.submit(both), kept)

    async def change(self, run: Run, state: TamiyoRunState, security: CommandSecurity) -> None:
        """Replace a run's state on a signed request; its trigger settings may have changed."""
        context = context_of(run.context.spec, state.trigger, self._config)

        def changed(_: None) -> None:
            run.state, run.context, run.offers = state, context, None

        await self._commit(security, lambda db: _update(db, run, state, run.decision), changed)

    async def close_run(self, run: Run, security: CommandSecurity) -> None:
        """Close a run; its token opens nothing any more, its row stays for the record."""

        def closed(_: None) -> None:
            self._runs.pop(run.run_id, None)

        await self._commit(security, lambda db: db.execute(_SAVE_RUN, _row(run, is_open=False)), closed)

    async def spend(self, security: CommandSecurity) -> None:
        """Enter the nonce of an authentic request that was refused afterwards."""
        await self._commit(security, lambda db: None, lambda _: None)

    def close(self) -> None:
        self._store.close()

    def _create(self, connection: sqlite3.Connection) -> None:
        self._ledger.create(connection)
        connection.execute(_SCHEMA)
        decision_ledger.create(connection)

    async def _commit(
        self,
        security: CommandSecurity,
        change: Callable[[sqlite3.Connection], object],
        and_then: Callable[[None], object],
    ) -> None:
        """Nonce and change in one transaction; what is held here follows the disk, also if the caller goes away."""

        def both(connection: sqlite3.Connection) -> None:
            self._ledger.register(connection, security)
            change(connection)

        await awaited(self._store.submit(both), and_then)

    def _first_state(self, spec: TamiyoRunSpec) -> TamiyoRunState:
        if spec.HasField("resume"):
            return state_from(spec.resume, spec.training_run_id)
        pin = self._policy()
        return TamiyoRunState(
            training_run_id=spec.training_run_id,
            step=0,
            commands_issued=0,
            seeds_named=0,
            next_slot=0,
            conservative=False,
            clean_packets=0,
            last_change_step=0,
            isolation_violations=0,
            retry_step=0,
            trigger=spec.trigger,
            policy_version=pin.version,
            policy_digest=pin.digest,
        )

    def _restored(self, row: tuple[str, bytes, bytes, bytes]) -> Run:
        digest, spec_bytes, state_bytes, decision_bytes = row
        spec, state = TamiyoRunSpec.FromString(spec_bytes), TamiyoRunState.FromString(state_bytes)
        return Run(
            context=context_of(spec, state.trigger, self._config),
            state=state,
            token_digest=digest,
            decision=Decision.FromString(decision_bytes),
            hearing=Hearing(self._clock),
        )


def blob_of(state: TamiyoRunState) -> RunStateBlob:
    """A run's state as a checkpoint keeps it."""
    raw = state.SerializeToString(deterministic=True)
    return RunStateBlob(state_type=STATE_TYPE, state=raw, digest=hashlib.sha256(raw).hexdigest(), step=state.step)


def state_from(blob: RunStateBlob, run_id: str) -> TamiyoRunState:
    """The state in a checkpoint. Raises ContractError if it isn't one of this run, or was damaged."""
    problems = []
    if blob.state_type != STATE_TYPE:
        problems.append(f"resume.state_type is {blob.state_type!r}, expected {STATE_TYPE!r}")
    if blob.digest != hashlib.sha256(blob.state).hexdigest():
        problems.append("resume.digest doesn't match resume.state; the checkpoint is damaged")
    state = TamiyoRunState() if problems else TamiyoRunState.FromString(blob.state)
    if not problems and state.training_run_id != run_id:
        problems.append(f"resume.state is of run {state.training_run_id!r}, not {run_id!r}")
    if problems:
        raise ContractError("TamiyoRunSpec", problems)
    return state


_REMEDY = "resume that run from its own directory (--resume), or give another one a name of its own (--run-id)"


def _require_successor(known: Run, spec: TamiyoRunSpec) -> None:
    if spec.generation < known.generation:
        raise LifecycleConflict(
            f"run {known.run_id} is open in generation {known.generation}, a request for {spec.generation} "
            f"is too late; {_REMEDY}"
        )
    # Before its first packet a run has nothing to lose: its answer may have been lost, so it may be opened again.
    if spec.generation == known.generation and known.state.HasField("packet_index"):
        raise LifecycleConflict(
            f"run {known.run_id} is open in generation {spec.generation} and has decisions; {_REMEDY}"
        )


def _row(run: Run, *, is_open: bool) -> tuple[str, str, int, bytes, bytes, bytes]:
    spec, decision = run.context.spec.SerializeToString(), run.decision.SerializeToString()
    return run.run_id, run.token_digest, int(is_open), spec, run.state.SerializeToString(), decision


def _update(connection: sqlite3.Connection, run: Run, state: TamiyoRunState, decision: Decision) -> None:
    values = (state.SerializeToString(), decision.SerializeToString(), run.token_digest)
    if connection.execute(_SAVE_STATE, values).rowcount != 1:
        raise LifecycleConflict(
            f"generation {run.generation} of run {run.run_id} was closed, or another trainer went on with it meanwhile"
        )


def _open_rows(connection: sqlite3.Connection) -> list[tuple[str, bytes, bytes, bytes]]:
    query = "SELECT token_digest, spec, state, decision FROM runs WHERE is_open ORDER BY run_id"
    return connection.execute(query).fetchall()
