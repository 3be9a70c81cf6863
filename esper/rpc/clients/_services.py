"""The RPCs of the four services: each stated once, for the synchronous and the asyncio clients alike."""

from __future__ import annotations

from esper import leyline as pb
from esper.rpc.clients._shapes import BothStream, ClientStream, ServerStream, Unary


class KasminaRpcs:
    """Authority over seeds."""

    service = "KasminaService"

    open_run = Unary(pb.KasminaServiceOpenRunRequest, pb.KasminaServiceOpenRunResponse)
    close_run = Unary(pb.KasminaServiceCloseRunRequest, pb.KasminaServiceCloseRunResponse)
    apply_command = Unary(pb.ApplyCommandRequest, pb.ApplyCommandResponse)
    get_command = Unary(pb.GetCommandRequest, pb.GetCommandResponse)
    advance = Unary(pb.AdvanceRequest, pb.AdvanceResponse)
    get_run_state = Unary(pb.KasminaServiceGetRunStateRequest, pb.KasminaServiceGetRunStateResponse)
    list_seeds = Unary(pb.ListSeedsRequest, pb.ListSeedsResponse)
    export_seed_states = ServerStream(pb.ExportSeedStatesRequest, pb.ExportSeedStatesResponse)
    get_status = Unary(pb.KasminaServiceGetStatusRequest, pb.KasminaServiceGetStatusResponse)
    register_teacher = Unary(pb.RegisterTeacherRequest, pb.RegisterTeacherResponse)
    reset_teacher = Unary(pb.ResetTeacherRequest, pb.ResetTeacherResponse)
    reset_registry = Unary(pb.ResetRegistryRequest, pb.ResetRegistryResponse)
    prefetch_kernel = ServerStream(pb.PrefetchKernelRequest, pb.PrefetchKernelResponse)
    fetch_artifact = ServerStream(pb.FetchArtifactRequest, pb.FetchArtifactResponse)


class TamiyoRpcs:
    """Policy and risk."""

    service = "TamiyoService"

    open_run = Unary(pb.TamiyoServiceOpenRunRequest, pb.TamiyoServiceOpenRunResponse)
    close_run = Unary(pb.TamiyoServiceCloseRunRequest, pb.TamiyoServiceCloseRunResponse)
    evaluate = Unary(pb.EvaluateRequest, pb.EvaluateResponse)
    control = BothStream(pb.ControlRequest, pb.ControlResponse)
    submit_outcome = Unary(pb.SubmitOutcomeRequest, pb.SubmitOutcomeResponse)
    get_run_state = Unary(pb.TamiyoServiceGetRunStateRequest, pb.TamiyoServiceGetRunStateResponse)
    list_field_reports = Unary(pb.ListFieldReportsRequest, pb.ListFieldReportsResponse)
    get_status = Unary(pb.TamiyoServiceGetStatusRequest, pb.TamiyoServiceGetStatusResponse)
    flush_history = Unary(pb.FlushHistoryRequest, pb.FlushHistoryResponse)
    apply_policy_update = Unary(pb.ApplyPolicyUpdateRequest, pb.ApplyPolicyUpdateResponse)


class WeatherlightRpcs:
    """Supervisor and telemetry router."""

    service = "WeatherlightService"

    register_service = Unary(pb.RegisterServiceRequest, pb.RegisterServiceResponse)
    heartbeat = Unary(pb.HeartbeatRequest, pb.HeartbeatResponse)
    publish_telemetry = ClientStream(pb.PublishTelemetryRequest, pb.PublishTelemetryResponse)
    subscribe = ServerStream(pb.SubscribeRequest, pb.SubscribeResponse)
    watch_mode = ServerStream(pb.WatchModeRequest, pb.WatchModeResponse)
    get_status = Unary(pb.WeatherlightServiceGetStatusRequest, pb.WeatherlightServiceGetStatusResponse)
    raise_emergency = Unary(pb.RaiseEmergencyRequest, pb.RaiseEmergencyResponse)
    signal_rollback_deadline = Unary(pb.SignalRollbackDeadlineRequest, pb.SignalRollbackDeadlineResponse)
    acknowledge_emergency = Unary(pb.AcknowledgeEmergencyRequest, pb.AcknowledgeEmergencyResponse)
    drain = Unary(pb.DrainRequest, pb.DrainResponse)


class BusRpcs:
    """The embedded bus."""

    service = "BusService"

    publish = Unary(pb.PublishRequest, pb.PublishResponse)
    consume = BothStream(pb.ConsumeRequest, pb.ConsumeResponse)
