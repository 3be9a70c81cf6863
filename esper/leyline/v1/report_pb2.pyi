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
    __slots__ = ("report_id", "command_id", "training_run_id", "generation", "seed_id", "slot_id", "blueprint_id", "opened_at", "closed_at", "opened_step", "closed_step", "decision", "delta", "outcome", "gates", "follow_ups", "notes", "observation", "opened_training_macs", "opened_forward_macs")
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
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    OPENED_TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    OPENED_FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
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
    observation: Observation
    opened_training_macs: int
    opened_forward_macs: int
    def __init__(self, report_id: _Optional[str] = ..., command_id: _Optional[str] = ..., training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., seed_id: _Optional[str] = ..., slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., opened_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., closed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., opened_step: _Optional[int] = ..., closed_step: _Optional[int] = ..., decision: _Optional[_Union[_policy_pb2.DecisionMetadata, _Mapping]] = ..., delta: _Optional[_Union[FieldReportDelta, _Mapping]] = ..., outcome: _Optional[_Union[_types_pb2.FieldReportOutcome, str]] = ..., gates: _Optional[_Iterable[_Union[_command_pb2.GateEvidence, _Mapping]]] = ..., follow_ups: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., opened_training_macs: _Optional[int] = ..., opened_forward_macs: _Optional[int] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("version", "features", "candidates", "chosen", "wait_probability")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    version: str
    features: _containers.RepeatedCompositeFieldContainer[ObservedFeature]
    candidates: _containers.RepeatedCompositeFieldContainer[ObservedCandidate]
    chosen: int
    wait_probability: float
    def __init__(self, version: _Optional[str] = ..., features: _Optional[_Iterable[_Union[ObservedFeature, _Mapping]]] = ..., candidates: _Optional[_Iterable[_Union[ObservedCandidate, _Mapping]]] = ..., chosen: _Optional[int] = ..., wait_probability: _Optional[float] = ...) -> None: ...

class ObservedFeature(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class ObservedCandidate(_message.Message):
    __slots__ = ("slot_id", "blueprint_id", "parameters", "score", "probability", "features")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    blueprint_id: str
    parameters: _containers.RepeatedCompositeFieldContainer[_types_pb2.ParameterValue]
    score: float
    probability: float
    features: _containers.RepeatedCompositeFieldContainer[ObservedFeature]
    def __init__(self, slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[_types_pb2.ParameterValue, _Mapping]]] = ..., score: _Optional[float] = ..., probability: _Optional[float] = ..., features: _Optional[_Iterable[_Union[ObservedFeature, _Mapping]]] = ...) -> None: ...

class FieldReportDelta(_message.Message):
    __slots__ = ("loss_delta", "parameter_delta", "gain", "gain_standard_error", "forward_macs_delta", "risk_score", "steps", "tamiyo_latency_ms", "hook_latency_ms", "gain_at_equal_macs", "effect", "twin_score", "judgement_macs", "run_macs")
    LOSS_DELTA_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_DELTA_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    GAIN_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_DELTA_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TAMIYO_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    HOOK_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    GAIN_AT_EQUAL_MACS_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    TWIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    JUDGEMENT_MACS_FIELD_NUMBER: _ClassVar[int]
    RUN_MACS_FIELD_NUMBER: _ClassVar[int]
    loss_delta: float
    parameter_delta: int
    gain: float
    gain_standard_error: float
    forward_macs_delta: int
    risk_score: float
    steps: int
    tamiyo_latency_ms: float
    hook_latency_ms: float
    gain_at_equal_macs: float
    effect: float
    twin_score: float
    judgement_macs: int
    run_macs: int
    def __init__(self, loss_delta: _Optional[float] = ..., parameter_delta: _Optional[int] = ..., gain: _Optional[float] = ..., gain_standard_error: _Optional[float] = ..., forward_macs_delta: _Optional[int] = ..., risk_score: _Optional[float] = ..., steps: _Optional[int] = ..., tamiyo_latency_ms: _Optional[float] = ..., hook_latency_ms: _Optional[float] = ..., gain_at_equal_macs: _Optional[float] = ..., effect: _Optional[float] = ..., twin_score: _Optional[float] = ..., judgement_macs: _Optional[int] = ..., run_macs: _Optional[int] = ...) -> None: ...
