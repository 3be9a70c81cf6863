import datetime

from esper.leyline.v1 import catalog_pb2 as _catalog_pb2
from esper.leyline.v1 import command_pb2 as _command_pb2
from esper.leyline.v1 import security_pb2 as _security_pb2
from esper.leyline.v1 import state_pb2 as _state_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KasminaRunSpec(_message.Message):
    __slots__ = ("training_run_id", "seed", "generation", "total_steps", "manifest", "budget", "life", "resume", "named_blueprint_ids", "gives_up_course", "own_blueprints")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    NAMED_BLUEPRINT_IDS_FIELD_NUMBER: _ClassVar[int]
    GIVES_UP_COURSE_FIELD_NUMBER: _ClassVar[int]
    OWN_BLUEPRINTS_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    seed: int
    generation: int
    total_steps: int
    manifest: _state_pb2.HostManifest
    budget: _types_pb2.Budget
    life: _state_pb2.LifeSettings
    resume: _state_pb2.RunStateBlob
    named_blueprint_ids: _containers.RepeatedScalarFieldContainer[str]
    gives_up_course: bool
    own_blueprints: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Blueprint]
    def __init__(self, training_run_id: _Optional[str] = ..., seed: _Optional[int] = ..., generation: _Optional[int] = ..., total_steps: _Optional[int] = ..., manifest: _Optional[_Union[_state_pb2.HostManifest, _Mapping]] = ..., budget: _Optional[_Union[_types_pb2.Budget, _Mapping]] = ..., life: _Optional[_Union[_state_pb2.LifeSettings, _Mapping]] = ..., resume: _Optional[_Union[_state_pb2.RunStateBlob, _Mapping]] = ..., named_blueprint_ids: _Optional[_Iterable[str]] = ..., gives_up_course: bool = ..., own_blueprints: _Optional[_Iterable[_Union[_catalog_pb2.Blueprint, _Mapping]]] = ...) -> None: ...

class RunClosure(_message.Message):
    __slots__ = ("training_run_id", "generation", "step", "reason")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    generation: int
    step: int
    reason: str
    def __init__(self, training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class KasminaServiceOpenRunRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class RefusedSlot(_message.Message):
    __slots__ = ("slot_id", "reason")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    reason: str
    def __init__(self, slot_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReplayedCommand(_message.Message):
    __slots__ = ("command_id", "decision_step", "delivery_step", "issued_by")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_STEP_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_STEP_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BY_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    decision_step: int
    delivery_step: int
    issued_by: str
    def __init__(self, command_id: _Optional[str] = ..., decision_step: _Optional[int] = ..., delivery_step: _Optional[int] = ..., issued_by: _Optional[str] = ...) -> None: ...

class KasminaServiceOpenRunResponse(_message.Message):
    __slots__ = ("run_token", "accepted_slots", "refused_slots", "replay", "seeds", "growth")
    RUN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    run_token: str
    accepted_slots: _containers.RepeatedScalarFieldContainer[str]
    refused_slots: _containers.RepeatedCompositeFieldContainer[RefusedSlot]
    replay: _containers.RepeatedCompositeFieldContainer[ReplayedCommand]
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedState]
    growth: _state_pb2.GrowthState
    def __init__(self, run_token: _Optional[str] = ..., accepted_slots: _Optional[_Iterable[str]] = ..., refused_slots: _Optional[_Iterable[_Union[RefusedSlot, _Mapping]]] = ..., replay: _Optional[_Iterable[_Union[ReplayedCommand, _Mapping]]] = ..., seeds: _Optional[_Iterable[_Union[_state_pb2.SeedState, _Mapping]]] = ..., growth: _Optional[_Union[_state_pb2.GrowthState, _Mapping]] = ...) -> None: ...

class KasminaServiceCloseRunRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class KasminaServiceCloseRunResponse(_message.Message):
    __slots__ = ("seeds", "growth")
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedState]
    growth: _state_pb2.GrowthState
    def __init__(self, seeds: _Optional[_Iterable[_Union[_state_pb2.SeedState, _Mapping]]] = ..., growth: _Optional[_Union[_state_pb2.GrowthState, _Mapping]] = ...) -> None: ...

class ApplyCommandRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class ApplyCommandResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: _command_pb2.CommandOutcome
    def __init__(self, outcome: _Optional[_Union[_command_pb2.CommandOutcome, _Mapping]] = ...) -> None: ...

class GetCommandRequest(_message.Message):
    __slots__ = ("command_id",)
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    def __init__(self, command_id: _Optional[str] = ...) -> None: ...

class GetCommandResponse(_message.Message):
    __slots__ = ("found", "outcome")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    found: bool
    outcome: _command_pb2.CommandOutcome
    def __init__(self, found: bool = ..., outcome: _Optional[_Union[_command_pb2.CommandOutcome, _Mapping]] = ...) -> None: ...

class AdvanceRequest(_message.Message):
    __slots__ = ("generation", "step", "observations", "reports", "slots", "is_epoch_end", "trace", "last_answered_step", "delivery_only", "training_macs")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    IS_EPOCH_END_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    LAST_ANSWERED_STEP_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_ONLY_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    observations: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedObservation]
    reports: _containers.RepeatedCompositeFieldContainer[_command_pb2.DirectiveReport]
    slots: _containers.RepeatedCompositeFieldContainer[_state_pb2.SlotSignal]
    is_epoch_end: bool
    trace: _types_pb2.TraceContext
    last_answered_step: int
    delivery_only: bool
    training_macs: int
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., observations: _Optional[_Iterable[_Union[_state_pb2.SeedObservation, _Mapping]]] = ..., reports: _Optional[_Iterable[_Union[_command_pb2.DirectiveReport, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[_state_pb2.SlotSignal, _Mapping]]] = ..., is_epoch_end: bool = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ..., last_answered_step: _Optional[int] = ..., delivery_only: bool = ..., training_macs: _Optional[int] = ...) -> None: ...

class AdvanceResponse(_message.Message):
    __slots__ = ("generation", "step", "directives", "transitions", "gates", "seeds", "growth", "outcomes")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVES_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    directives: _containers.RepeatedCompositeFieldContainer[_command_pb2.SeedDirective]
    transitions: _containers.RepeatedCompositeFieldContainer[_command_pb2.StageTransition]
    gates: _containers.RepeatedCompositeFieldContainer[_command_pb2.GateEvidence]
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedState]
    growth: _state_pb2.GrowthState
    outcomes: _containers.RepeatedCompositeFieldContainer[_command_pb2.CommandOutcome]
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., directives: _Optional[_Iterable[_Union[_command_pb2.SeedDirective, _Mapping]]] = ..., transitions: _Optional[_Iterable[_Union[_command_pb2.StageTransition, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[_command_pb2.GateEvidence, _Mapping]]] = ..., seeds: _Optional[_Iterable[_Union[_state_pb2.SeedState, _Mapping]]] = ..., growth: _Optional[_Union[_state_pb2.GrowthState, _Mapping]] = ..., outcomes: _Optional[_Iterable[_Union[_command_pb2.CommandOutcome, _Mapping]]] = ...) -> None: ...

class KasminaServiceGetRunStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KasminaServiceGetRunStateResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _state_pb2.RunStateBlob
    def __init__(self, state: _Optional[_Union[_state_pb2.RunStateBlob, _Mapping]] = ...) -> None: ...

class ListSeedsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSeedsResponse(_message.Message):
    __slots__ = ("seeds",)
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedRecord]
    def __init__(self, seeds: _Optional[_Iterable[_Union[_state_pb2.SeedRecord, _Mapping]]] = ...) -> None: ...

class ExportSeedStatesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExportSeedStatesResponse(_message.Message):
    __slots__ = ("step", "seeds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedState]
    def __init__(self, step: _Optional[int] = ..., seeds: _Optional[_Iterable[_Union[_state_pb2.SeedState, _Mapping]]] = ...) -> None: ...

class KasminaServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BreakerStatus(_message.Message):
    __slots__ = ("name", "state", "failures")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: _types_pb2.CircuitState
    failures: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.CircuitState, str]] = ..., failures: _Optional[int] = ...) -> None: ...

class RejectionCount(_message.Message):
    __slots__ = ("reason", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: _types_pb2.RejectionReason
    count: int
    def __init__(self, reason: _Optional[_Union[_types_pb2.RejectionReason, str]] = ..., count: _Optional[int] = ...) -> None: ...

class KasminaServiceGetStatusResponse(_message.Message):
    __slots__ = ("health", "open_runs", "accepted", "rejected", "nonces", "fence", "ledger_seq", "breakers", "started_at")
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    OPEN_RUNS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    NONCES_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SEQ_FIELD_NUMBER: _ClassVar[int]
    BREAKERS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    health: _types_pb2.HealthStatus
    open_runs: int
    accepted: int
    rejected: _containers.RepeatedCompositeFieldContainer[RejectionCount]
    nonces: int
    fence: _timestamp_pb2.Timestamp
    ledger_seq: int
    breakers: _containers.RepeatedCompositeFieldContainer[BreakerStatus]
    started_at: _timestamp_pb2.Timestamp
    def __init__(self, health: _Optional[_Union[_types_pb2.HealthStatus, str]] = ..., open_runs: _Optional[int] = ..., accepted: _Optional[int] = ..., rejected: _Optional[_Iterable[_Union[RejectionCount, _Mapping]]] = ..., nonces: _Optional[int] = ..., fence: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ledger_seq: _Optional[int] = ..., breakers: _Optional[_Iterable[_Union[BreakerStatus, _Mapping]]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TeacherRegistration(_message.Message):
    __slots__ = ("training_run_id", "teacher_id", "weights_digest", "size_bytes")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TEACHER_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    teacher_id: str
    weights_digest: str
    size_bytes: int
    def __init__(self, training_run_id: _Optional[str] = ..., teacher_id: _Optional[str] = ..., weights_digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class RegisterTeacherRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class RegisterTeacherResponse(_message.Message):
    __slots__ = ("teacher_id",)
    TEACHER_ID_FIELD_NUMBER: _ClassVar[int]
    teacher_id: str
    def __init__(self, teacher_id: _Optional[str] = ...) -> None: ...

class TeacherReset(_message.Message):
    __slots__ = ("training_run_id", "rationale")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    rationale: str
    def __init__(self, training_run_id: _Optional[str] = ..., rationale: _Optional[str] = ...) -> None: ...

class ResetTeacherRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class ResetTeacherResponse(_message.Message):
    __slots__ = ("was_registered",)
    WAS_REGISTERED_FIELD_NUMBER: _ClassVar[int]
    was_registered: bool
    def __init__(self, was_registered: bool = ...) -> None: ...

class RegistryReset(_message.Message):
    __slots__ = ("training_run_id", "rationale")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    rationale: str
    def __init__(self, training_run_id: _Optional[str] = ..., rationale: _Optional[str] = ...) -> None: ...

class ResetRegistryRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class ResetRegistryResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: int
    def __init__(self, removed: _Optional[int] = ...) -> None: ...

class PrefetchKernelRequest(_message.Message):
    __slots__ = ("blueprint_id",)
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    def __init__(self, blueprint_id: _Optional[str] = ...) -> None: ...

class PrefetchKernelResponse(_message.Message):
    __slots__ = ("update",)
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    update: _catalog_pb2.PrefetchUpdate
    def __init__(self, update: _Optional[_Union[_catalog_pb2.PrefetchUpdate, _Mapping]] = ...) -> None: ...

class FetchArtifactRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class FetchArtifactResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...
