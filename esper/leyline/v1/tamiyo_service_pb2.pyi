import datetime

from esper.leyline.v1 import catalog_pb2 as _catalog_pb2
from esper.leyline.v1 import command_pb2 as _command_pb2
from esper.leyline.v1 import policy_pb2 as _policy_pb2
from esper.leyline.v1 import report_pb2 as _report_pb2
from esper.leyline.v1 import security_pb2 as _security_pb2
from esper.leyline.v1 import state_pb2 as _state_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PolicyUpdateRejection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_UPDATE_REJECTION_UNSPECIFIED: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_UNKNOWN_POLICY: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_STALE_VERSION: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_INVALID_SETTINGS: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_DIGEST_MISMATCH: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_UNSUPPORTED_WEIGHTS: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_FEATURE_VERSION: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_INVALID_WEIGHTS: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_REPLAYED: _ClassVar[PolicyUpdateRejection]
    POLICY_UPDATE_REJECTION_UNAUTHENTIC: _ClassVar[PolicyUpdateRejection]
POLICY_UPDATE_REJECTION_UNSPECIFIED: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_UNKNOWN_POLICY: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_STALE_VERSION: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_INVALID_SETTINGS: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_DIGEST_MISMATCH: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_UNSUPPORTED_WEIGHTS: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_FEATURE_VERSION: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_INVALID_WEIGHTS: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_REPLAYED: PolicyUpdateRejection
POLICY_UPDATE_REJECTION_UNAUTHENTIC: PolicyUpdateRejection

class TamiyoRunSpec(_message.Message):
    __slots__ = ("training_run_id", "seed", "generation", "total_steps", "manifest", "budget", "life", "trigger", "kasmina_audience", "resume", "replay", "latency_rules", "own_blueprints")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    KASMINA_AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    LATENCY_RULES_FIELD_NUMBER: _ClassVar[int]
    OWN_BLUEPRINTS_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    seed: int
    generation: int
    total_steps: int
    manifest: _state_pb2.HostManifest
    budget: _types_pb2.Budget
    life: _state_pb2.LifeSettings
    trigger: _policy_pb2.TriggerSettings
    kasmina_audience: str
    resume: _state_pb2.RunStateBlob
    replay: _containers.RepeatedCompositeFieldContainer[IssuedCommand]
    latency_rules: bool
    own_blueprints: _containers.RepeatedCompositeFieldContainer[_catalog_pb2.Blueprint]
    def __init__(self, training_run_id: _Optional[str] = ..., seed: _Optional[int] = ..., generation: _Optional[int] = ..., total_steps: _Optional[int] = ..., manifest: _Optional[_Union[_state_pb2.HostManifest, _Mapping]] = ..., budget: _Optional[_Union[_types_pb2.Budget, _Mapping]] = ..., life: _Optional[_Union[_state_pb2.LifeSettings, _Mapping]] = ..., trigger: _Optional[_Union[_policy_pb2.TriggerSettings, _Mapping]] = ..., kasmina_audience: _Optional[str] = ..., resume: _Optional[_Union[_state_pb2.RunStateBlob, _Mapping]] = ..., replay: _Optional[_Iterable[_Union[IssuedCommand, _Mapping]]] = ..., latency_rules: bool = ..., own_blueprints: _Optional[_Iterable[_Union[_catalog_pb2.Blueprint, _Mapping]]] = ...) -> None: ...

class IssuedCommand(_message.Message):
    __slots__ = ("command_id", "decision_step")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_STEP_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    decision_step: int
    def __init__(self, command_id: _Optional[str] = ..., decision_step: _Optional[int] = ...) -> None: ...

class TamiyoServiceOpenRunRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class TamiyoServiceOpenRunResponse(_message.Message):
    __slots__ = ("run_token", "policy_id", "policy_version", "policy_digest")
    RUN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_token: str
    policy_id: str
    policy_version: str
    policy_digest: str
    def __init__(self, run_token: _Optional[str] = ..., policy_id: _Optional[str] = ..., policy_version: _Optional[str] = ..., policy_digest: _Optional[str] = ...) -> None: ...

class TamiyoServiceCloseRunRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class TamiyoServiceCloseRunResponse(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: int
    def __init__(self, reports: _Optional[int] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("packet",)
    PACKET_FIELD_NUMBER: _ClassVar[int]
    packet: _state_pb2.SystemStatePacket
    def __init__(self, packet: _Optional[_Union[_state_pb2.SystemStatePacket, _Mapping]] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("packet", "want_state")
    PACKET_FIELD_NUMBER: _ClassVar[int]
    WANT_STATE_FIELD_NUMBER: _ClassVar[int]
    packet: _state_pb2.SystemStatePacket
    want_state: bool
    def __init__(self, packet: _Optional[_Union[_state_pb2.SystemStatePacket, _Mapping]] = ..., want_state: bool = ...) -> None: ...

class ControlResponse(_message.Message):
    __slots__ = ("decision", "state")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    state: _state_pb2.RunStateBlob
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., state: _Optional[_Union[_state_pb2.RunStateBlob, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("packet_index", "generation", "commands", "command_ids", "metadata", "replayed_command_ids", "latency_ms", "trace")
    PACKET_INDEX_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_COMMAND_IDS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    packet_index: int
    generation: int
    commands: _containers.RepeatedCompositeFieldContainer[_security_pb2.SignedCommand]
    command_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata: _policy_pb2.DecisionMetadata
    replayed_command_ids: _containers.RepeatedScalarFieldContainer[str]
    latency_ms: float
    trace: _types_pb2.TraceContext
    def __init__(self, packet_index: _Optional[int] = ..., generation: _Optional[int] = ..., commands: _Optional[_Iterable[_Union[_security_pb2.SignedCommand, _Mapping]]] = ..., command_ids: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Union[_policy_pb2.DecisionMetadata, _Mapping]] = ..., replayed_command_ids: _Optional[_Iterable[str]] = ..., latency_ms: _Optional[float] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class SubmitOutcomeRequest(_message.Message):
    __slots__ = ("step", "outcomes", "gates", "transitions", "reports", "seeds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    outcomes: _containers.RepeatedCompositeFieldContainer[_command_pb2.CommandOutcome]
    gates: _containers.RepeatedCompositeFieldContainer[_command_pb2.GateEvidence]
    transitions: _containers.RepeatedCompositeFieldContainer[_command_pb2.StageTransition]
    reports: _containers.RepeatedCompositeFieldContainer[_command_pb2.DirectiveReport]
    seeds: _containers.RepeatedCompositeFieldContainer[_state_pb2.SeedState]
    def __init__(self, step: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_command_pb2.CommandOutcome, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[_command_pb2.GateEvidence, _Mapping]]] = ..., transitions: _Optional[_Iterable[_Union[_command_pb2.StageTransition, _Mapping]]] = ..., reports: _Optional[_Iterable[_Union[_command_pb2.DirectiveReport, _Mapping]]] = ..., seeds: _Optional[_Iterable[_Union[_state_pb2.SeedState, _Mapping]]] = ...) -> None: ...

class SubmitOutcomeResponse(_message.Message):
    __slots__ = ("closed_report_ids",)
    CLOSED_REPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    closed_report_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, closed_report_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class TamiyoServiceGetRunStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TamiyoServiceGetRunStateResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _state_pb2.RunStateBlob
    def __init__(self, state: _Optional[_Union[_state_pb2.RunStateBlob, _Mapping]] = ...) -> None: ...

class ListFieldReportsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFieldReportsResponse(_message.Message):
    __slots__ = ("reports", "next_page_token")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[_report_pb2.FieldReport]
    next_page_token: str
    def __init__(self, reports: _Optional[_Iterable[_Union[_report_pb2.FieldReport, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class TamiyoServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TamiyoServiceGetStatusResponse(_message.Message):
    __slots__ = ("health", "open_runs", "decisions", "commands", "reports", "log_repaired", "policy_version", "started_at", "rejected")
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    OPEN_RUNS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    LOG_REPAIRED_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    health: _types_pb2.HealthStatus
    open_runs: int
    decisions: int
    commands: int
    reports: int
    log_repaired: bool
    policy_version: str
    started_at: _timestamp_pb2.Timestamp
    rejected: int
    def __init__(self, health: _Optional[_Union[_types_pb2.HealthStatus, str]] = ..., open_runs: _Optional[int] = ..., decisions: _Optional[int] = ..., commands: _Optional[int] = ..., reports: _Optional[int] = ..., log_repaired: bool = ..., policy_version: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rejected: _Optional[int] = ...) -> None: ...

class FlushHistoryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushHistoryResponse(_message.Message):
    __slots__ = ("reports", "open")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    reports: int
    open: int
    def __init__(self, reports: _Optional[int] = ..., open: _Optional[int] = ...) -> None: ...

class ApplyPolicyUpdateRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class ApplyPolicyUpdateResponse(_message.Message):
    __slots__ = ("accepted", "rejection", "detail", "policy_version")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    rejection: PolicyUpdateRejection
    detail: str
    policy_version: str
    def __init__(self, accepted: bool = ..., rejection: _Optional[_Union[PolicyUpdateRejection, str]] = ..., detail: _Optional[str] = ..., policy_version: _Optional[str] = ...) -> None: ...
