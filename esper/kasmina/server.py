"""Kasmina's process: RPC in, authority, RPC out; and how the service is put together. Translation only."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esper import leyline as pb
from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import Verifier
from esper.core.storage.store import SqliteStore
from esper.kasmina import metrics
from esper.kasmina.control.artifacts.access import BREAKER, ArtifactAccess, Breaker
from esper.kasmina.control.authority import Authority
from esper.kasmina.control.interventions import Interventions
from esper.kasmina.control.ledger import command_rows, database
from esper.kasmina.control.ledger.admission import Admission
from esper.kasmina.control.plane_watch import PlaneWatch
from esper.kasmina.control.prefetch.lines import BusLine, DirectLine, Line
from esper.kasmina.control.prefetch.prefetcher import TIMEOUT_S, Prefetcher
from esper.kasmina.control.reporting import Reporting
from esper.kasmina.control.resources import Resources
from esper.kasmina.control.stages.turn import Notice
from esper.rpc.process import ServiceContext, run_service
from esper.rpc.server.bases import KasminaServicer, Servicer
from esper.rpc.server.call import Call
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

DATABASE_NAME = "kasmina.db"


@dataclass(frozen=True, kw_only=True, slots=True)
class KasminaConfig:
    """Settings of Kasmina alone."""

    artifact_dir: Path | None = None  # directory of further artefacts, named by digest; built-in ones need none
    max_nonces: int = 10_000  # live nonces that are remembered before the fence rises
    max_envelope_bytes: int = 262_144  # larger signed requests are refused

    def __post_init__(self) -> None:
        for key in ("max_nonces", "max_envelope_bytes"):
            if getattr(self, key) < 1:
                raise ConfigError(f"kasmina.{key}", getattr(self, key), "give a number above zero")


class KasminaService(KasminaServicer):
    """One method for each RPC."""

    def __init__(
        self, authority: Authority, interventions: Interventions, prefetcher: Prefetcher, store: SqliteStore
    ) -> None:
        self._authority = authority
        self._interventions = interventions
        self._prefetcher = prefetcher
        self._store = store

    async def open_run(self, request: pb.KasminaServiceOpenRunRequest, call: Call) -> pb.KasminaServiceOpenRunResponse:
        return await self._authority.open_run(request.command)

    async def close_run(
        self, request: pb.KasminaServiceCloseRunRequest, call: Call
    ) -> pb.KasminaServiceCloseRunResponse:
        return await self._authority.close_run(request.command, call.run_token)

    async def apply_command(self, request: pb.ApplyCommandRequest, call: Call) -> pb.ApplyCommandResponse:
        return pb.ApplyCommandResponse(outcome=await self._authority.apply_command(request.command))

    async def get_command(self, request: pb.GetCommandRequest, call: Call) -> pb.GetCommandResponse:
        return self._authority.get_command(call.run_token, request.command_id)

    async def advance(self, request: pb.AdvanceRequest, call: Call) -> pb.AdvanceResponse:
        return await self._authority.advance(call.run_token, request)

    async def get_run_state(
        self, request: pb.KasminaServiceGetRunStateRequest, call: Call
    ) -> pb.KasminaServiceGetRunStateResponse:
        return pb.KasminaServiceGetRunStateResponse(state=self._authority.run_state(call.run_token))

    async def list_seeds(self, request: pb.ListSeedsRequest, call: Call) -> pb.ListSeedsResponse:
        return pb.ListSeedsResponse(seeds=self._authority.seeds(call.run_token))

    async def export_seed_states(
        self, request: pb.ExportSeedStatesRequest, call: Call
    ) -> AsyncIterator[pb.ExportSeedStatesResponse]:
        async for response in self._authority.seed_states(call.run_token):
            yield response

    async def get_status(
        self, request: pb.KasminaServiceGetStatusRequest, call: Call
    ) -> pb.KasminaServiceGetStatusResponse:
        return self._authority.status()

    async def register_teacher(self, request: pb.RegisterTeacherRequest, call: Call) -> pb.RegisterTeacherResponse:
        return pb.RegisterTeacherResponse(teacher_id=await self._interventions.register_teacher(request.command))

    async def reset_teacher(self, request: pb.ResetTeacherRequest, call: Call) -> pb.ResetTeacherResponse:
        return pb.ResetTeacherResponse(was_registered=await self._interventions.reset_teacher(request.command))

    async def reset_registry(self, request: pb.ResetRegistryRequest, call: Call) -> pb.ResetRegistryResponse:
        return pb.ResetRegistryResponse(removed=await self._interventions.reset_registry(request.command))

    async def prefetch_kernel(
        self, request: pb.PrefetchKernelRequest, call: Call
    ) -> AsyncIterator[pb.PrefetchKernelResponse]:
        run_id, catalog = self._authority.run_catalog(call.run_token)
        async for update in self._prefetcher.updates(run_id, catalog, request.blueprint_id):
            yield pb.PrefetchKernelResponse(update=update)

    async def fetch_artifact(
        self, request: pb.FetchArtifactRequest, call: Call
    ) -> AsyncIterator[pb.FetchArtifactResponse]:
        self._authority.require_token(call.run_token)
        for chunk in await self._prefetcher.chunks(request.digest):
            yield pb.FetchArtifactResponse(chunk=chunk)

    async def close(self) -> None:
        await self._prefetcher.close()
        await asyncio.to_thread(self._store.close)


def build_service(context: ServiceContext[KasminaConfig]) -> Sequence[Servicer]:
    """Put the service together over its database in the state directory."""
    config, clock = context.config, context.clock
    ledger = NonceLedger(clock, config.max_nonces)

    def create(connection: sqlite3.Connection) -> None:
        ledger.create(connection)
        database.create(connection)

    store = SqliteStore(context.state_dir / DATABASE_NAME, create)
    breaker = Breaker(name=BREAKER, state=store.read(database.breaker_state))
    artifacts = ArtifactAccess(Catalog.builtin(), ArtifactStore(config.artifact_dir), breaker)
    reporting = Reporting(clock, context.reporter.send, artifacts)
    breaker.on_change = partial(_changed, store, reporting)
    verifier = Verifier(context.keyring, clock, config.max_envelope_bytes)
    resources = Resources(
        store=store,
        ledger=ledger,
        admission=Admission(verifier, ledger, store, clock, reporting),
        artifacts=artifacts,
        prefetcher=Prefetcher(artifacts, _line(context, artifacts), reporting, clock),
        reporting=reporting,
        clock=clock,
        plane=PlaneWatch(lambda: context.reporter.plane, context.alarm),
    )
    resources.plane.raise_ordered(store.read(command_rows.emergency_orders), is_again=True)
    return [KasminaService(Authority(resources), Interventions(resources), resources.prefetcher, store)]


def _line(context: ServiceContext[KasminaConfig], artifacts: ArtifactAccess) -> Line:
    """To Urza at the bus where there is one, else to the store here."""
    if context.weatherlight is None:
        return DirectLine(artifacts.store, artifacts.worker, TIMEOUT_S)
    return BusLine(context.weatherlight, context.weatherlight_tls, context.keyring, context.clock)


def _changed(store: SqliteStore, reporting: Reporting, breaker: Breaker) -> None:
    """A breaker changed: keep its state across restarts, and tell."""
    store.submit(partial(database.put_breaker, name=breaker.name, state=breaker.state))
    state = short_name(pb.CircuitState, breaker.state)
    attributes = {"breaker": breaker.name, "state": state}
    reporting.tell(Notice(metrics.BREAKER_EVENT, f"{breaker.name} is {state}", attributes))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; the result is the exit code."""
    return run_service("kasmina", build_service, argv, config_type=KasminaConfig)


if __name__ == "__main__":
    raise SystemExit(main())
