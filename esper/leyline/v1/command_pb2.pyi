import datetime

from esper.leyline.v1 import policy_pb2 as _policy_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdaptationCommand(_message.Message):
    __slots__ = ("command_id", "training_run_id", "generation", "step", "issued_by", "deadline_steps", "seed", "optimizer", "circuit_breaker", "pause", "resume", "rollback", "emergency", "prune", "metadata", "trace")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_BREAKER_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    training_run_id: str
    generation: int
    step: int
    issued_by: str
    deadline_steps: int
    seed: SeedOperation
    optimizer: OptimizerAdjustment
    circuit_breaker: CircuitBreakerOrder
    pause: PauseOrder
    resume: ResumeOrder
    rollback: RollbackOrder
    emergency: EmergencyOrder
    prune: PruneOrder
    metadata: _policy_pb2.DecisionMetadata
    trace: _types_pb2.TraceContext
    def __init__(self, command_id: _Optional[str] = ..., training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., issued_by: _Optional[str] = ..., deadline_steps: _Optional[int] = ..., seed: _Optional[_Union[SeedOperation, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerAdjustment, _Mapping]] = ..., circuit_breaker: _Optional[_Union[CircuitBreakerOrder, _Mapping]] = ..., pause: _Optional[_Union[PauseOrder, _Mapping]] = ..., resume: _Optional[_Union[ResumeOrder, _Mapping]] = ..., rollback: _Optional[_Union[RollbackOrder, _Mapping]] = ..., emergency: _Optional[_Union[EmergencyOrder, _Mapping]] = ..., prune: _Optional[_Union[PruneOrder, _Mapping]] = ..., metadata: _Optional[_Union[_policy_pb2.DecisionMetadata, _Mapping]] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class SeedOperation(_message.Message):
    __slots__ = ("seed_id", "operation", "slot_id", "blueprint_id", "parameters", "initialization_seed", "blend", "target_stage", "include_teacher")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INITIALIZATION_SEED_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    TARGET_STAGE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TEACHER_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    operation: _types_pb2.SeedOperationKind
    slot_id: str
    blueprint_id: str
    parameters: _containers.RepeatedCompositeFieldContainer[_types_pb2.ParameterValue]
    initialization_seed: int
    blend: BlendConfig
    target_stage: _types_pb2.SeedStage
    include_teacher: bool
    def __init__(self, seed_id: _Optional[str] = ..., operation: _Optional[_Union[_types_pb2.SeedOperationKind, str]] = ..., slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[_types_pb2.ParameterValue, _Mapping]]] = ..., initialization_seed: _Optional[int] = ..., blend: _Optional[_Union[BlendConfig, _Mapping]] = ..., target_stage: _Optional[_Union[_types_pb2.SeedStage, str]] = ..., include_teacher: bool = ...) -> None: ...

class BlendConfig(_message.Message):
    __slots__ = ("mode", "alpha_target", "alpha_start", "schedule", "schedule_steps", "alpha_vec", "confidence", "gate_slope", "gate_threshold", "share_min", "share_max")
    MODE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_TARGET_FIELD_NUMBER: _ClassVar[int]
    ALPHA_START_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_STEPS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_VEC_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    GATE_SLOPE_FIELD_NUMBER: _ClassVar[int]
    GATE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SHARE_MIN_FIELD_NUMBER: _ClassVar[int]
    SHARE_MAX_FIELD_NUMBER: _ClassVar[int]
    mode: _types_pb2.BlendMode
    alpha_target: float
    alpha_start: float
    schedule: _types_pb2.BlendSchedule
    schedule_steps: int
    alpha_vec: _containers.RepeatedScalarFieldContainer[float]
    confidence: _types_pb2.ConfidenceKind
    gate_slope: float
    gate_threshold: float
    share_min: float
    share_max: float
    def __init__(self, mode: _Optional[_Union[_types_pb2.BlendMode, str]] = ..., alpha_target: _Optional[float] = ..., alpha_start: _Optional[float] = ..., schedule: _Optional[_Union[_types_pb2.BlendSchedule, str]] = ..., schedule_steps: _Optional[int] = ..., alpha_vec: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Union[_types_pb2.ConfidenceKind, str]] = ..., gate_slope: _Optional[float] = ..., gate_threshold: _Optional[float] = ..., share_min: _Optional[float] = ..., share_max: _Optional[float] = ...) -> None: ...

class OptimizerAdjustment(_message.Message):
    __slots__ = ("learning_rate_factor", "momentum", "weight_decay")
    LEARNING_RATE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    learning_rate_factor: float
    momentum: float
    weight_decay: float
    def __init__(self, learning_rate_factor: _Optional[float] = ..., momentum: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class CircuitBreakerOrder(_message.Message):
    __slots__ = ("breaker", "desired_state", "rationale")
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    DESIRED_STATE_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    breaker: str
    desired_state: _types_pb2.CircuitState
    rationale: str
    def __init__(self, breaker: _Optional[str] = ..., desired_state: _Optional[_Union[_types_pb2.CircuitState, str]] = ..., rationale: _Optional[str] = ...) -> None: ...

class PauseOrder(_message.Message):
    __slots__ = ("rationale", "seed_id")
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    rationale: str
    seed_id: str
    def __init__(self, rationale: _Optional[str] = ..., seed_id: _Optional[str] = ...) -> None: ...

class ResumeOrder(_message.Message):
    __slots__ = ("rationale", "seed_id")
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    rationale: str
    seed_id: str
    def __init__(self, rationale: _Optional[str] = ..., seed_id: _Optional[str] = ...) -> None: ...

class RollbackOrder(_message.Message):
    __slots__ = ("rationale", "to_step")
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    TO_STEP_FIELD_NUMBER: _ClassVar[int]
    rationale: str
    to_step: int
    def __init__(self, rationale: _Optional[str] = ..., to_step: _Optional[int] = ...) -> None: ...

class EmergencyOrder(_message.Message):
    __slots__ = ("level", "rationale")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    level: _types_pb2.EmergencyLevel
    rationale: str
    def __init__(self, level: _Optional[_Union[_types_pb2.EmergencyLevel, str]] = ..., rationale: _Optional[str] = ...) -> None: ...

class PruneOrder(_message.Message):
    __slots__ = ("seed_id", "rationale")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    rationale: str
    def __init__(self, seed_id: _Optional[str] = ..., rationale: _Optional[str] = ...) -> None: ...

class CommandOutcome(_message.Message):
    __slots__ = ("command_id", "accepted", "rejection", "detail", "directives", "transitions", "ledger_seq", "delivery_step", "recorded_at", "verify_latency_ms", "trace", "repeated_id", "issued_by")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVES_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SEQ_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_STEP_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    VERIFY_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    REPEATED_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BY_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    accepted: bool
    rejection: _types_pb2.RejectionReason
    detail: str
    directives: _containers.RepeatedCompositeFieldContainer[SeedDirective]
    transitions: _containers.RepeatedCompositeFieldContainer[StageTransition]
    ledger_seq: int
    delivery_step: int
    recorded_at: _timestamp_pb2.Timestamp
    verify_latency_ms: float
    trace: _types_pb2.TraceContext
    repeated_id: bool
    issued_by: str
    def __init__(self, command_id: _Optional[str] = ..., accepted: bool = ..., rejection: _Optional[_Union[_types_pb2.RejectionReason, str]] = ..., detail: _Optional[str] = ..., directives: _Optional[_Iterable[_Union[SeedDirective, _Mapping]]] = ..., transitions: _Optional[_Iterable[_Union[StageTransition, _Mapping]]] = ..., ledger_seq: _Optional[int] = ..., delivery_step: _Optional[int] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., verify_latency_ms: _Optional[float] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ..., repeated_id: bool = ..., issued_by: _Optional[str] = ...) -> None: ...

class SeedDirective(_message.Message):
    __slots__ = ("directive_id", "seed_id", "kind", "command_id", "at_step", "slot_id", "blueprint_id", "parameters", "artifact_digest", "initialization_seed", "blend", "duration_steps", "look", "optimizer", "rationale", "isolate", "to_step", "teacher_digest", "part", "parts")
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INITIALIZATION_SEED_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    DURATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    ISOLATE_FIELD_NUMBER: _ClassVar[int]
    TO_STEP_FIELD_NUMBER: _ClassVar[int]
    TEACHER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    seed_id: str
    kind: _types_pb2.DirectiveKind
    command_id: str
    at_step: int
    slot_id: str
    blueprint_id: str
    parameters: _containers.RepeatedCompositeFieldContainer[_types_pb2.ParameterValue]
    artifact_digest: str
    initialization_seed: int
    blend: BlendConfig
    duration_steps: int
    look: int
    optimizer: OptimizerAdjustment
    rationale: str
    isolate: bool
    to_step: int
    teacher_digest: str
    part: int
    parts: int
    def __init__(self, directive_id: _Optional[str] = ..., seed_id: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.DirectiveKind, str]] = ..., command_id: _Optional[str] = ..., at_step: _Optional[int] = ..., slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[_types_pb2.ParameterValue, _Mapping]]] = ..., artifact_digest: _Optional[str] = ..., initialization_seed: _Optional[int] = ..., blend: _Optional[_Union[BlendConfig, _Mapping]] = ..., duration_steps: _Optional[int] = ..., look: _Optional[int] = ..., optimizer: _Optional[_Union[OptimizerAdjustment, _Mapping]] = ..., rationale: _Optional[str] = ..., isolate: bool = ..., to_step: _Optional[int] = ..., teacher_digest: _Optional[str] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ...) -> None: ...

class DirectiveReport(_message.Message):
    __slots__ = ("directive_id", "seed_id", "kind", "step", "succeeded", "failure", "max_logit_delta", "added_parameters", "added_forward_macs", "remains", "digest_matched", "parameters_finite", "folded")
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGIT_DELTA_FIELD_NUMBER: _ClassVar[int]
    ADDED_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    REMAINS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_MATCHED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FINITE_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    seed_id: str
    kind: _types_pb2.DirectiveKind
    step: int
    succeeded: bool
    failure: str
    max_logit_delta: float
    added_parameters: int
    added_forward_macs: int
    remains: _containers.RepeatedScalarFieldContainer[str]
    digest_matched: bool
    parameters_finite: bool
    folded: bool
    def __init__(self, directive_id: _Optional[str] = ..., seed_id: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.DirectiveKind, str]] = ..., step: _Optional[int] = ..., succeeded: bool = ..., failure: _Optional[str] = ..., max_logit_delta: _Optional[float] = ..., added_parameters: _Optional[int] = ..., added_forward_macs: _Optional[int] = ..., remains: _Optional[_Iterable[str]] = ..., digest_matched: bool = ..., parameters_finite: bool = ..., folded: bool = ...) -> None: ...

class StageTransition(_message.Message):
    __slots__ = ("seed_id", "from_stage", "to_stage", "step", "command_id", "reason", "gate")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    from_stage: _types_pb2.SeedStage
    to_stage: _types_pb2.SeedStage
    step: int
    command_id: str
    reason: str
    gate: _types_pb2.SeedGate
    def __init__(self, seed_id: _Optional[str] = ..., from_stage: _Optional[_Union[_types_pb2.SeedStage, str]] = ..., to_stage: _Optional[_Union[_types_pb2.SeedStage, str]] = ..., step: _Optional[int] = ..., command_id: _Optional[str] = ..., reason: _Optional[str] = ..., gate: _Optional[_Union[_types_pb2.SeedGate, str]] = ...) -> None: ...

class GateEvidence(_message.Message):
    __slots__ = ("seed_id", "gate", "verdict", "step", "quantity", "measured", "threshold", "standard_error", "samples", "detail", "twin", "stack", "documents")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    gate: _types_pb2.SeedGate
    verdict: _types_pb2.GateVerdict
    step: int
    quantity: str
    measured: float
    threshold: float
    standard_error: float
    samples: int
    detail: str
    twin: TwinTest
    stack: StackTest
    documents: int
    def __init__(self, seed_id: _Optional[str] = ..., gate: _Optional[_Union[_types_pb2.SeedGate, str]] = ..., verdict: _Optional[_Union[_types_pb2.GateVerdict, str]] = ..., step: _Optional[int] = ..., quantity: _Optional[str] = ..., measured: _Optional[float] = ..., threshold: _Optional[float] = ..., standard_error: _Optional[float] = ..., samples: _Optional[int] = ..., detail: _Optional[str] = ..., twin: _Optional[_Union[TwinTest, _Mapping]] = ..., stack: _Optional[_Union[StackTest, _Mapping]] = ..., documents: _Optional[int] = ...) -> None: ...

class StackTest(_message.Message):
    __slots__ = ("look", "evaluations", "graft_step", "margin", "z_threshold", "gain", "document_error", "wander_error", "standard_error", "z", "clipped_share", "gain_at_equal_flops", "forecast_grown", "forecast_twin", "forecast_twin_at_equal_flops")
    LOOK_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    GRAFT_STEP_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    Z_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ERROR_FIELD_NUMBER: _ClassVar[int]
    WANDER_ERROR_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_SHARE_FIELD_NUMBER: _ClassVar[int]
    GAIN_AT_EQUAL_FLOPS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_GROWN_FIELD_NUMBER: _ClassVar[int]
    FORECAST_TWIN_FIELD_NUMBER: _ClassVar[int]
    FORECAST_TWIN_AT_EQUAL_FLOPS_FIELD_NUMBER: _ClassVar[int]
    look: int
    evaluations: int
    graft_step: int
    margin: float
    z_threshold: float
    gain: float
    document_error: float
    wander_error: float
    standard_error: float
    z: float
    clipped_share: float
    gain_at_equal_flops: float
    forecast_grown: float
    forecast_twin: float
    forecast_twin_at_equal_flops: float
    def __init__(self, look: _Optional[int] = ..., evaluations: _Optional[int] = ..., graft_step: _Optional[int] = ..., margin: _Optional[float] = ..., z_threshold: _Optional[float] = ..., gain: _Optional[float] = ..., document_error: _Optional[float] = ..., wander_error: _Optional[float] = ..., standard_error: _Optional[float] = ..., z: _Optional[float] = ..., clipped_share: _Optional[float] = ..., gain_at_equal_flops: _Optional[float] = ..., forecast_grown: _Optional[float] = ..., forecast_twin: _Optional[float] = ..., forecast_twin_at_equal_flops: _Optional[float] = ...) -> None: ...

class TwinTest(_message.Message):
    __slots__ = ("look", "mean_twin_score", "gain", "variance", "samples", "tau", "margin", "z", "z_threshold")
    LOOK_FIELD_NUMBER: _ClassVar[int]
    MEAN_TWIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    Z_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    look: int
    mean_twin_score: float
    gain: float
    variance: float
    samples: int
    tau: float
    margin: float
    z: float
    z_threshold: float
    def __init__(self, look: _Optional[int] = ..., mean_twin_score: _Optional[float] = ..., gain: _Optional[float] = ..., variance: _Optional[float] = ..., samples: _Optional[int] = ..., tau: _Optional[float] = ..., margin: _Optional[float] = ..., z: _Optional[float] = ..., z_threshold: _Optional[float] = ...) -> None: ...
