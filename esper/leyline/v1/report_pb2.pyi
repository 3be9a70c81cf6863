import datetime

from esper.leyline.v1 import command_pb2 as _command_pb2
from esper.leyline.v1 import policy_pb2 as _policy_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FieldReport(_message.Message):
    __slots__ = ("report_id", "command_id", "training_run_id", "generation", "seed_id", "slot_id", "blueprint_id", "opened_at", "closed_at", "opened_step", "closed_step", "decision", "delta", "outcome", "gates", "follow_ups", "notes")
    REPORT_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FIELD_NUMBER: _ClassVar[int]
    OPENED_STEP_FIELD_NUMBER: _ClassVar[int]
    CLOSED_STEP_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_UPS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    report_id: str
    command_id: str
    training_run_id: str
    generation: int
    seed_id: str
    slot_id: str
    blueprint_id: str
    opened_at: _timestamp_pb2.Timestamp
    closed_at: _timestamp_pb2.Timestamp
    opened_step: int
    closed_step: int
    decision: _policy_pb2.DecisionMetadata
    delta: FieldReportDelta
    outcome: _types_pb2.FieldReportOutcome
    gates: _containers.RepeatedCompositeFieldContainer[_command_pb2.GateEvidence]
    follow_ups: _containers.RepeatedScalarFieldContainer[str]
    notes: str
    def __init__(self, report_id: _Optional[str] = ..., command_id: _Optional[str] = ..., training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., seed_id: _Optional[str] = ..., slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., opened_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., closed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., opened_step: _Optional[int] = ..., closed_step: _Optional[int] = ..., decision: _Optional[_Union[_policy_pb2.DecisionMetadata, _Mapping]] = ..., delta: _Optional[_Union[FieldReportDelta, _Mapping]] = ..., outcome: _Optional[_Union[_types_pb2.FieldReportOutcome, str]] = ..., gates: _Optional[_Iterable[_Union[_command_pb2.GateEvidence, _Mapping]]] = ..., follow_ups: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ...) -> None: ...

class FieldReportDelta(_message.Message):
    __slots__ = ("loss_delta", "parameter_delta", "gain", "gain_standard_error", "forward_macs_delta", "risk_score", "steps", "tamiyo_latency_ms", "hook_latency_ms")
    LOSS_DELTA_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_DELTA_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    GAIN_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_DELTA_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TAMIYO_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    HOOK_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    loss_delta: float
    parameter_delta: int
    gain: float
    gain_standard_error: float
    forward_macs_delta: int
    risk_score: float
    steps: int
    tamiyo_latency_ms: float
    hook_latency_ms: float
    def __init__(self, loss_delta: _Optional[float] = ..., parameter_delta: _Optional[int] = ..., gain: _Optional[float] = ..., gain_standard_error: _Optional[float] = ..., forward_macs_delta: _Optional[int] = ..., risk_score: _Optional[float] = ..., steps: _Optional[int] = ..., tamiyo_latency_ms: _Optional[float] = ..., hook_latency_ms: _Optional[float] = ...) -> None: ...
