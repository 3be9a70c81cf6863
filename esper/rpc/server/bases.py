"""Typed bases of the four services: one abstract method per RPC, a table of which of them never end by themselves.

A servicer raises errors of the one tree; status codes are none of its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar

from esper import leyline as pb
from esper.rpc.server.call import Call


class Servicer(ABC):
    """What the server asks of every service."""

    service: ClassVar[str]
    # Server streams that last until the client goes away: a drain ends them first.
    endless: ClassVar[frozenset[str]] = frozenset()

    def is_ready(self) -> bool:
        """False, e.g. when a background duty died, makes the health check and the heartbeats say so."""
        return True

    def caution(self) -> tuple[str, str | None] | None:
        """Why a service that is ready holds back, and the run that it is about (None: all); None where it doesn't."""
        return None

    async def close(self) -> None:
        """Release what the service holds; called once, after the last call has ended."""
        return


class KasminaServicer(Servicer):
    """Authority over seeds."""

    service = "KasminaService"
    endless = frozenset({"export_seed_states"})

    @abstractmethod
    async def open_run(
        self, request: pb.KasminaServiceOpenRunRequest, call: Call
    ) -> pb.KasminaServiceOpenRunResponse: ...

    @abstractmethod
    async def close_run(
        self, request: pb.KasminaServiceCloseRunRequest, call: Call
    ) -> pb.KasminaServiceCloseRunResponse: ...

    @abstractmethod
    async def apply_command(self, request: pb.ApplyCommandRequest, call: Call) -> pb.ApplyCommandResponse: ...

    @abstractmethod
    async def get_command(self, request: pb.GetCommandRequest, call: Call) -> pb.GetCommandResponse: ...

    @abstractmethod
    async def advance(self, request: pb.AdvanceRequest, call: Call) -> pb.AdvanceResponse: ...

    @abstractmethod
    async def get_run_state(
        self, request: pb.KasminaServiceGetRunStateRequest, call: Call
    ) -> pb.KasminaServiceGetRunStateResponse: ...

    @abstractmethod
    async def list_seeds(self, request: pb.ListSeedsRequest, call: Call) -> pb.ListSeedsResponse: ...

    @abstractmethod
    def export_seed_states(
        self, request: pb.ExportSeedStatesRequest, call: Call
    ) -> AsyncIterator[pb.ExportSeedStatesResponse]: ...

    @abstractmethod
    async def get_status(
        self, request: pb.KasminaServiceGetStatusRequest, call: Call
    ) -> pb.KasminaServiceGetStatusResponse: ...

    @abstractmethod
    async def register_teacher(self, request: pb.RegisterTeacherRequest, call: Call) -> pb.RegisterTeacherResponse: ...

    @abstractmethod
    async def reset_teacher(self, request: pb.ResetTeacherRequest, call: Call) -> pb.ResetTeacherResponse: ...

    @abstractmethod
    async def reset_registry(self, request: pb.ResetRegistryRequest, call: Call) -> pb.ResetRegistryResponse: ...

    @abstractmethod
    def prefetch_kernel(
        self, request: pb.PrefetchKernelRequest, call: Call
    ) -> AsyncIterator[pb.PrefetchKernelResponse]: ...

    @abstractmethod
    def fetch_artifact(
        self, request: pb.FetchArtifactRequest, call: Call
    ) -> AsyncIterator[pb.FetchArtifactResponse]: ...


class TamiyoServicer(Servicer):
    """Policy and risk."""

    service = "TamiyoService"

    @abstractmethod
    async def open_run(
        self, request: pb.TamiyoServiceOpenRunRequest, call: Call
    ) -> pb.TamiyoServiceOpenRunResponse: ...

    @abstractmethod
    async def close_run(
        self, request: pb.TamiyoServiceCloseRunRequest, call: Call
    ) -> pb.TamiyoServiceCloseRunResponse: ...

    @abstractmethod
    async def evaluate(self, request: pb.EvaluateRequest, call: Call) -> pb.EvaluateResponse: ...

    @abstractmethod
    def control(self, requests: AsyncIterator[pb.ControlRequest], call: Call) -> AsyncIterator[pb.ControlResponse]: ...

    @abstractmethod
    async def submit_outcome(self, request: pb.SubmitOutcomeRequest, call: Call) -> pb.SubmitOutcomeResponse: ...

    @abstractmethod
    async def get_run_state(
        self, request: pb.TamiyoServiceGetRunStateRequest, call: Call
    ) -> pb.TamiyoServiceGetRunStateResponse: ...

    @abstractmethod
    async def list_field_reports(
        self, request: pb.ListFieldReportsRequest, call: Call
    ) -> pb.ListFieldReportsResponse: ...

    @abstractmethod
    async def get_status(
        self, request: pb.TamiyoServiceGetStatusRequest, call: Call
    ) -> pb.TamiyoServiceGetStatusResponse: ...

    @abstractmethod
    async def flush_history(self, request: pb.FlushHistoryRequest, call: Call) -> pb.FlushHistoryResponse: ...

    @abstractmethod
    async def apply_policy_update(
        self, request: pb.ApplyPolicyUpdateRequest, call: Call
    ) -> pb.ApplyPolicyUpdateResponse: ...


class WeatherlightServicer(Servicer):
    """Supervisor and telemetry router."""

    service = "WeatherlightService"
    endless = frozenset({"subscribe", "watch_mode"})

    @abstractmethod
    async def register_service(self, request: pb.RegisterServiceRequest, call: Call) -> pb.RegisterServiceResponse: ...

    @abstractmethod
    async def heartbeat(self, request: pb.HeartbeatRequest, call: Call) -> pb.HeartbeatResponse: ...

    @abstractmethod
    async def publish_telemetry(
        self, requests: AsyncIterator[pb.PublishTelemetryRequest], call: Call
    ) -> pb.PublishTelemetryResponse: ...

    @abstractmethod
    def subscribe(self, request: pb.SubscribeRequest, call: Call) -> AsyncIterator[pb.SubscribeResponse]: ...

    @abstractmethod
    def watch_mode(self, request: pb.WatchModeRequest, call: Call) -> AsyncIterator[pb.WatchModeResponse]: ...

    @abstractmethod
    async def get_status(
        self, request: pb.WeatherlightServiceGetStatusRequest, call: Call
    ) -> pb.WeatherlightServiceGetStatusResponse: ...

    @abstractmethod
    async def raise_emergency(self, request: pb.RaiseEmergencyRequest, call: Call) -> pb.RaiseEmergencyResponse: ...

    @abstractmethod
    async def signal_rollback_deadline(
        self, request: pb.SignalRollbackDeadlineRequest, call: Call
    ) -> pb.SignalRollbackDeadlineResponse: ...

    @abstractmethod
    async def acknowledge_emergency(
        self, request: pb.AcknowledgeEmergencyRequest, call: Call
    ) -> pb.AcknowledgeEmergencyResponse: ...

    @abstractmethod
    async def drain(self, request: pb.DrainRequest, call: Call) -> pb.DrainResponse: ...


class BusServicer(Servicer):
    """The embedded bus."""

    service = "BusService"
    endless = frozenset({"consume"})

    @abstractmethod
    async def publish(self, request: pb.PublishRequest, call: Call) -> pb.PublishResponse: ...

    @abstractmethod
    def consume(self, requests: AsyncIterator[pb.ConsumeRequest], call: Call) -> AsyncIterator[pb.ConsumeResponse]: ...
