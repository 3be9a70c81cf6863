import datetime

from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PolicySignalId(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_SIGNAL_ID_UNSPECIFIED: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_SMOOTHED_LOSS: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_LOSS_SLOPE: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_SLOPE_THRESHOLD: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_SATURATION_FLOOR: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_LOSS_STANDARD_ERROR: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_GRADIENT_NORM: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_STEPS_SINCE_CHANGE: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_PARAMETERS_LEFT: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_STEPS_LEFT: _ClassVar[PolicySignalId]
    POLICY_SIGNAL_ID_SATURATION: _ClassVar[PolicySignalId]

class RiskEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_EFFECT_UNSPECIFIED: _ClassVar[RiskEffect]
    RISK_EFFECT_NOTE: _ClassVar[RiskEffect]
    RISK_EFFECT_HOLD: _ClassVar[RiskEffect]
    RISK_EFFECT_CONSERVATIVE: _ClassVar[RiskEffect]
POLICY_SIGNAL_ID_UNSPECIFIED: PolicySignalId
POLICY_SIGNAL_ID_SMOOTHED_LOSS: PolicySignalId
POLICY_SIGNAL_ID_LOSS_SLOPE: PolicySignalId
POLICY_SIGNAL_ID_SLOPE_THRESHOLD: PolicySignalId
POLICY_SIGNAL_ID_SATURATION_FLOOR: PolicySignalId
POLICY_SIGNAL_ID_LOSS_STANDARD_ERROR: PolicySignalId
POLICY_SIGNAL_ID_GRADIENT_NORM: PolicySignalId
POLICY_SIGNAL_ID_STEPS_SINCE_CHANGE: PolicySignalId
POLICY_SIGNAL_ID_PARAMETERS_LEFT: PolicySignalId
POLICY_SIGNAL_ID_STEPS_LEFT: PolicySignalId
POLICY_SIGNAL_ID_SATURATION: PolicySignalId
RISK_EFFECT_UNSPECIFIED: RiskEffect
RISK_EFFECT_NOTE: RiskEffect
RISK_EFFECT_HOLD: RiskEffect
RISK_EFFECT_CONSERVATIVE: RiskEffect

class DecisionMetadata(_message.Message):
    __slots__ = ("policy", "risk", "coverage", "selection", "reasons", "conservative", "detail")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    policy: PolicyMetadata
    risk: RiskMetadata
    coverage: CoverageSummary
    selection: SelectionContext
    reasons: _containers.RepeatedScalarFieldContainer[_types_pb2.DecisionReason]
    conservative: bool
    detail: str
    def __init__(self, policy: _Optional[_Union[PolicyMetadata, _Mapping]] = ..., risk: _Optional[_Union[RiskMetadata, _Mapping]] = ..., coverage: _Optional[_Union[CoverageSummary, _Mapping]] = ..., selection: _Optional[_Union[SelectionContext, _Mapping]] = ..., reasons: _Optional[_Iterable[_Union[_types_pb2.DecisionReason, str]]] = ..., conservative: bool = ..., detail: _Optional[str] = ...) -> None: ...

class PolicyMetadata(_message.Message):
    __slots__ = ("policy_id", "version", "action", "log_probability", "value", "observation_digest", "signals")
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    version: str
    action: str
    log_probability: float
    value: float
    observation_digest: str
    signals: _containers.RepeatedCompositeFieldContainer[PolicySignal]
    def __init__(self, policy_id: _Optional[str] = ..., version: _Optional[str] = ..., action: _Optional[str] = ..., log_probability: _Optional[float] = ..., value: _Optional[float] = ..., observation_digest: _Optional[str] = ..., signals: _Optional[_Iterable[_Union[PolicySignal, _Mapping]]] = ...) -> None: ...

class PolicySignal(_message.Message):
    __slots__ = ("id", "value")
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    id: PolicySignalId
    value: float
    def __init__(self, id: _Optional[_Union[PolicySignalId, str]] = ..., value: _Optional[float] = ...) -> None: ...

class RiskMetadata(_message.Message):
    __slots__ = ("score", "findings")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    score: float
    findings: _containers.RepeatedCompositeFieldContainer[RiskFinding]
    def __init__(self, score: _Optional[float] = ..., findings: _Optional[_Iterable[_Union[RiskFinding, _Mapping]]] = ...) -> None: ...

class RiskFinding(_message.Message):
    __slots__ = ("reason", "effect", "level", "measured", "threshold")
    REASON_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    reason: _types_pb2.RiskReason
    effect: RiskEffect
    level: _types_pb2.TelemetryLevel
    measured: float
    threshold: float
    def __init__(self, reason: _Optional[_Union[_types_pb2.RiskReason, str]] = ..., effect: _Optional[_Union[RiskEffect, str]] = ..., level: _Optional[_Union[_types_pb2.TelemetryLevel, str]] = ..., measured: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class CoverageSummary(_message.Message):
    __slots__ = ("average", "groups", "provenance")
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    average: float
    groups: _containers.RepeatedCompositeFieldContainer[CoverageGroup]
    provenance: str
    def __init__(self, average: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[CoverageGroup, _Mapping]]] = ..., provenance: _Optional[str] = ...) -> None: ...

class CoverageGroup(_message.Message):
    __slots__ = ("group", "present", "expected")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    group: str
    present: int
    expected: int
    def __init__(self, group: _Optional[str] = ..., present: _Optional[int] = ..., expected: _Optional[int] = ...) -> None: ...

class SelectionContext(_message.Message):
    __slots__ = ("slot_id", "blueprint_id", "candidates")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    blueprint_id: str
    candidates: _containers.RepeatedCompositeFieldContainer[SelectionCandidate]
    def __init__(self, slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[SelectionCandidate, _Mapping]]] = ...) -> None: ...

class SelectionCandidate(_message.Message):
    __slots__ = ("slot_id", "blueprint_id", "score", "excluded", "parameters", "forward_macs")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    blueprint_id: str
    score: float
    excluded: str
    parameters: int
    forward_macs: int
    def __init__(self, slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., score: _Optional[float] = ..., excluded: _Optional[str] = ..., parameters: _Optional[int] = ..., forward_macs: _Optional[int] = ...) -> None: ...

class PolicyUpdate(_message.Message):
    __slots__ = ("update_id", "policy_id", "version", "issued_at", "trigger", "weights", "weights_digest")
    UPDATE_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    update_id: str
    policy_id: str
    version: str
    issued_at: _timestamp_pb2.Timestamp
    trigger: TriggerSettings
    weights: bytes
    weights_digest: str
    def __init__(self, update_id: _Optional[str] = ..., policy_id: _Optional[str] = ..., version: _Optional[str] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trigger: _Optional[_Union[TriggerSettings, _Mapping]] = ..., weights: _Optional[bytes] = ..., weights_digest: _Optional[str] = ...) -> None: ...

class TriggerSettings(_message.Message):
    __slots__ = ("trigger", "slope_threshold", "saturation_floor", "warmup_steps", "slope_window_steps", "blueprint_ids", "saturation_share", "stack_steps", "target_depth", "span_units", "span_factor", "blend", "stack_rule")
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    SLOPE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SATURATION_FLOOR_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    SLOPE_WINDOW_STEPS_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_IDS_FIELD_NUMBER: _ClassVar[int]
    SATURATION_SHARE_FIELD_NUMBER: _ClassVar[int]
    STACK_STEPS_FIELD_NUMBER: _ClassVar[int]
    TARGET_DEPTH_FIELD_NUMBER: _ClassVar[int]
    SPAN_UNITS_FIELD_NUMBER: _ClassVar[int]
    SPAN_FACTOR_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    STACK_RULE_FIELD_NUMBER: _ClassVar[int]
    trigger: _types_pb2.GrowthTrigger
    slope_threshold: float
    saturation_floor: float
    warmup_steps: int
    slope_window_steps: int
    blueprint_ids: _containers.RepeatedScalarFieldContainer[str]
    saturation_share: float
    stack_steps: _containers.RepeatedScalarFieldContainer[int]
    target_depth: int
    span_units: int
    span_factor: float
    blend: BlendSettings
    stack_rule: _types_pb2.StackRule
    def __init__(self, trigger: _Optional[_Union[_types_pb2.GrowthTrigger, str]] = ..., slope_threshold: _Optional[float] = ..., saturation_floor: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., slope_window_steps: _Optional[int] = ..., blueprint_ids: _Optional[_Iterable[str]] = ..., saturation_share: _Optional[float] = ..., stack_steps: _Optional[_Iterable[int]] = ..., target_depth: _Optional[int] = ..., span_units: _Optional[int] = ..., span_factor: _Optional[float] = ..., blend: _Optional[_Union[BlendSettings, _Mapping]] = ..., stack_rule: _Optional[_Union[_types_pb2.StackRule, str]] = ...) -> None: ...

class BlendSettings(_message.Message):
    __slots__ = ("mode", "schedule", "schedule_steps", "alpha_target", "alpha_vec", "confidence", "gate_slope", "gate_threshold", "share_min", "share_max")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_STEPS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_TARGET_FIELD_NUMBER: _ClassVar[int]
    ALPHA_VEC_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    GATE_SLOPE_FIELD_NUMBER: _ClassVar[int]
    GATE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SHARE_MIN_FIELD_NUMBER: _ClassVar[int]
    SHARE_MAX_FIELD_NUMBER: _ClassVar[int]
    mode: _types_pb2.BlendMode
    schedule: _types_pb2.BlendSchedule
    schedule_steps: int
    alpha_target: float
    alpha_vec: _containers.RepeatedScalarFieldContainer[float]
    confidence: _types_pb2.ConfidenceKind
    gate_slope: float
    gate_threshold: float
    share_min: float
    share_max: float
    def __init__(self, mode: _Optional[_Union[_types_pb2.BlendMode, str]] = ..., schedule: _Optional[_Union[_types_pb2.BlendSchedule, str]] = ..., schedule_steps: _Optional[int] = ..., alpha_target: _Optional[float] = ..., alpha_vec: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Union[_types_pb2.ConfidenceKind, str]] = ..., gate_slope: _Optional[float] = ..., gate_threshold: _Optional[float] = ..., share_min: _Optional[float] = ..., share_max: _Optional[float] = ...) -> None: ...
