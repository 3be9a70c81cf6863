from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SeedStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEED_STAGE_UNSPECIFIED: _ClassVar[SeedStage]
    SEED_STAGE_DORMANT: _ClassVar[SeedStage]
    SEED_STAGE_GERMINATED: _ClassVar[SeedStage]
    SEED_STAGE_TRAINING: _ClassVar[SeedStage]
    SEED_STAGE_BLENDING: _ClassVar[SeedStage]
    SEED_STAGE_SHADOWING: _ClassVar[SeedStage]
    SEED_STAGE_PROBATIONARY: _ClassVar[SeedStage]
    SEED_STAGE_FOSSILIZED: _ClassVar[SeedStage]
    SEED_STAGE_CULLED: _ClassVar[SeedStage]
    SEED_STAGE_EMBARGOED: _ClassVar[SeedStage]
    SEED_STAGE_RESETTING: _ClassVar[SeedStage]
    SEED_STAGE_TERMINATED: _ClassVar[SeedStage]

class SeedGate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEED_GATE_UNSPECIFIED: _ClassVar[SeedGate]
    SEED_GATE_G0_SANITY: _ClassVar[SeedGate]
    SEED_GATE_G1_GRADIENT_HEALTH: _ClassVar[SeedGate]
    SEED_GATE_G2_STABILITY: _ClassVar[SeedGate]
    SEED_GATE_G3_INTERFACE: _ClassVar[SeedGate]
    SEED_GATE_G4_SYSTEM_IMPACT: _ClassVar[SeedGate]
    SEED_GATE_G5_RESET: _ClassVar[SeedGate]

class GateVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_VERDICT_UNSPECIFIED: _ClassVar[GateVerdict]
    GATE_VERDICT_PASS: _ClassVar[GateVerdict]
    GATE_VERDICT_FAIL: _ClassVar[GateVerdict]
    GATE_VERDICT_EXTEND: _ClassVar[GateVerdict]
    GATE_VERDICT_WAIT: _ClassVar[GateVerdict]

class MessagePriority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_PRIORITY_UNSPECIFIED: _ClassVar[MessagePriority]
    MESSAGE_PRIORITY_LOW: _ClassVar[MessagePriority]
    MESSAGE_PRIORITY_NORMAL: _ClassVar[MessagePriority]
    MESSAGE_PRIORITY_HIGH: _ClassVar[MessagePriority]
    MESSAGE_PRIORITY_CRITICAL: _ClassVar[MessagePriority]

class TelemetryLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TELEMETRY_LEVEL_UNSPECIFIED: _ClassVar[TelemetryLevel]
    TELEMETRY_LEVEL_DEBUG: _ClassVar[TelemetryLevel]
    TELEMETRY_LEVEL_INFO: _ClassVar[TelemetryLevel]
    TELEMETRY_LEVEL_WARNING: _ClassVar[TelemetryLevel]
    TELEMETRY_LEVEL_ERROR: _ClassVar[TelemetryLevel]
    TELEMETRY_LEVEL_CRITICAL: _ClassVar[TelemetryLevel]

class HealthStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_STATUS_UNSPECIFIED: _ClassVar[HealthStatus]
    HEALTH_STATUS_HEALTHY: _ClassVar[HealthStatus]
    HEALTH_STATUS_DEGRADED: _ClassVar[HealthStatus]
    HEALTH_STATUS_UNHEALTHY: _ClassVar[HealthStatus]
    HEALTH_STATUS_CRITICAL: _ClassVar[HealthStatus]

class CircuitState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CIRCUIT_STATE_UNSPECIFIED: _ClassVar[CircuitState]
    CIRCUIT_STATE_CLOSED: _ClassVar[CircuitState]
    CIRCUIT_STATE_OPEN: _ClassVar[CircuitState]
    CIRCUIT_STATE_HALF_OPEN: _ClassVar[CircuitState]

class SystemMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SYSTEM_MODE_UNSPECIFIED: _ClassVar[SystemMode]
    SYSTEM_MODE_NORMAL: _ClassVar[SystemMode]
    SYSTEM_MODE_DEGRADED: _ClassVar[SystemMode]
    SYSTEM_MODE_EMERGENCY: _ClassVar[SystemMode]

class EmergencyLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMERGENCY_LEVEL_UNSPECIFIED: _ClassVar[EmergencyLevel]
    EMERGENCY_LEVEL_L1_NOTICE: _ClassVar[EmergencyLevel]
    EMERGENCY_LEVEL_L2_ELEVATED: _ClassVar[EmergencyLevel]
    EMERGENCY_LEVEL_L3_CONSERVATIVE: _ClassVar[EmergencyLevel]
    EMERGENCY_LEVEL_L4_HALT: _ClassVar[EmergencyLevel]

class BlendMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLEND_MODE_UNSPECIFIED: _ClassVar[BlendMode]
    BLEND_MODE_RESIDUAL: _ClassVar[BlendMode]
    BLEND_MODE_CONVEX: _ClassVar[BlendMode]
    BLEND_MODE_CHANNEL: _ClassVar[BlendMode]
    BLEND_MODE_CONFIDENCE: _ClassVar[BlendMode]

class BlendSchedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLEND_SCHEDULE_UNSPECIFIED: _ClassVar[BlendSchedule]
    BLEND_SCHEDULE_LINEAR: _ClassVar[BlendSchedule]
    BLEND_SCHEDULE_SIGMOID: _ClassVar[BlendSchedule]
    BLEND_SCHEDULE_COSINE: _ClassVar[BlendSchedule]
    BLEND_SCHEDULE_WARMUP_HOLD: _ClassVar[BlendSchedule]

class ConfidenceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONFIDENCE_KIND_UNSPECIFIED: _ClassVar[ConfidenceKind]
    CONFIDENCE_KIND_MARGIN: _ClassVar[ConfidenceKind]
    CONFIDENCE_KIND_ENTROPY: _ClassVar[ConfidenceKind]

class SeedOperationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEED_OPERATION_KIND_UNSPECIFIED: _ClassVar[SeedOperationKind]
    SEED_OPERATION_KIND_GERMINATE: _ClassVar[SeedOperationKind]
    SEED_OPERATION_KIND_FOSSILIZE: _ClassVar[SeedOperationKind]
    SEED_OPERATION_KIND_CULL: _ClassVar[SeedOperationKind]
    SEED_OPERATION_KIND_CHANGE_BLEND: _ClassVar[SeedOperationKind]
    SEED_OPERATION_KIND_ADVANCE_TO: _ClassVar[SeedOperationKind]

class DirectiveKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTIVE_KIND_UNSPECIFIED: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_BUILD: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_ATTACH: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_INCUBATE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_SET_BLEND: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_SNAPSHOT_TWIN: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_PROBE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_JUDGE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_MUTE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_FOLD: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_INSTALL_TWIN: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_FADE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_REMOVE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_DROP_TWIN: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_CHECK_RESET: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_ADJUST_OPTIMIZER: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_ROLLBACK: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_PAUSE_GROWTH: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_RESUME_GROWTH: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_HALT: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_UNMUTE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_DROP_TEACHER: _ClassVar[DirectiveKind]

class SlotKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SLOT_KIND_UNSPECIFIED: _ClassVar[SlotKind]
    SLOT_KIND_SPAN_LINEAR: _ClassVar[SlotKind]
    SLOT_KIND_SPAN_CONV: _ClassVar[SlotKind]
    SLOT_KIND_SPAN_CONV_LINEAR: _ClassVar[SlotKind]
    SLOT_KIND_RESIDUAL_LINEAR: _ClassVar[SlotKind]
    SLOT_KIND_RESIDUAL_CONV: _ClassVar[SlotKind]
    SLOT_KIND_STACK: _ClassVar[SlotKind]
    SLOT_KIND_LINEAR: _ClassVar[SlotKind]
    SLOT_KIND_SPAN_HEADS: _ClassVar[SlotKind]

class TaskType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_TYPE_UNSPECIFIED: _ClassVar[TaskType]
    TASK_TYPE_CLASSIFICATION: _ClassVar[TaskType]
    TASK_TYPE_LANGUAGE_MODEL: _ClassVar[TaskType]
    TASK_TYPE_REGRESSION: _ClassVar[TaskType]

class GrowthTrigger(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GROWTH_TRIGGER_UNSPECIFIED: _ClassVar[GrowthTrigger]
    GROWTH_TRIGGER_AUTO: _ClassVar[GrowthTrigger]
    GROWTH_TRIGGER_ALWAYS: _ClassVar[GrowthTrigger]
    GROWTH_TRIGGER_NEVER: _ClassVar[GrowthTrigger]

class StackRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STACK_RULE_UNSPECIFIED: _ClassVar[StackRule]
    STACK_RULE_KNEE: _ClassVar[StackRule]
    STACK_RULE_FORECAST: _ClassVar[StackRule]

class JudgeMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JUDGE_MODE_UNSPECIFIED: _ClassVar[JudgeMode]
    JUDGE_MODE_TWIN: _ClassVar[JudgeMode]
    JUDGE_MODE_MUTED: _ClassVar[JudgeMode]

class IncubationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INCUBATION_MODE_UNSPECIFIED: _ClassVar[IncubationMode]
    INCUBATION_MODE_NONE: _ClassVar[IncubationMode]
    INCUBATION_MODE_SHADOW: _ClassVar[IncubationMode]

class RiskReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_REASON_UNSPECIFIED: _ClassVar[RiskReason]
    RISK_REASON_TIMEOUT_INFERENCE: _ClassVar[RiskReason]
    RISK_REASON_TIMEOUT_URZA: _ClassVar[RiskReason]
    RISK_REASON_LOSS_SPIKE: _ClassVar[RiskReason]
    RISK_REASON_BLUEPRINT_QUARANTINE: _ClassVar[RiskReason]
    RISK_REASON_DEVICE_PRESSURE: _ClassVar[RiskReason]
    RISK_REASON_STEP_LATENCY: _ClassVar[RiskReason]
    RISK_REASON_ISOLATION_VIOLATION: _ClassVar[RiskReason]
    RISK_REASON_HOOK_BUDGET: _ClassVar[RiskReason]
    RISK_REASON_POLICY_RISK: _ClassVar[RiskReason]
    RISK_REASON_CPU_PRESSURE: _ClassVar[RiskReason]
    RISK_REASON_CONSERVATIVE_MODE: _ClassVar[RiskReason]
    RISK_REASON_BLUEPRINT_RISK: _ClassVar[RiskReason]
    RISK_REASON_HAZARD_HIGH: _ClassVar[RiskReason]
    RISK_REASON_HAZARD_CRITICAL: _ClassVar[RiskReason]
    RISK_REASON_LOSS_VOLATILITY: _ClassVar[RiskReason]
    RISK_REASON_GRADIENT_VARIANCE: _ClassVar[RiskReason]
    RISK_REASON_GRADIENT_CONFLICT: _ClassVar[RiskReason]
    RISK_REASON_DEGRADED_INPUTS: _ClassVar[RiskReason]
    RISK_REASON_NON_FINITE_LOSS: _ClassVar[RiskReason]

class DecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_REASON_UNSPECIFIED: _ClassVar[DecisionReason]
    DECISION_REASON_PLATEAU: _ClassVar[DecisionReason]
    DECISION_REASON_FORCED: _ClassVar[DecisionReason]
    DECISION_REASON_STILL_IMPROVING: _ClassVar[DecisionReason]
    DECISION_REASON_SATURATED: _ClassVar[DecisionReason]
    DECISION_REASON_SEED_ALIVE: _ClassVar[DecisionReason]
    DECISION_REASON_GATE_PASSED: _ClassVar[DecisionReason]
    DECISION_REASON_GATE_FAILED: _ClassVar[DecisionReason]
    DECISION_REASON_NO_SLOT: _ClassVar[DecisionReason]
    DECISION_REASON_BUDGET: _ClassVar[DecisionReason]
    DECISION_REASON_GROWTH_ENDED: _ClassVar[DecisionReason]
    DECISION_REASON_GROWTH_OFF: _ClassVar[DecisionReason]
    DECISION_REASON_WARMING_UP: _ClassVar[DecisionReason]
    DECISION_REASON_RISK: _ClassVar[DecisionReason]
    DECISION_REASON_CONSERVATIVE: _ClassVar[DecisionReason]
    DECISION_REASON_PAUSED: _ClassVar[DecisionReason]
    DECISION_REASON_EMBARGO: _ClassVar[DecisionReason]
    DECISION_REASON_TOO_LATE: _ClassVar[DecisionReason]
    DECISION_REASON_SCHEDULED: _ClassVar[DecisionReason]
    DECISION_REASON_TARGET_REACHED: _ClassVar[DecisionReason]
    DECISION_REASON_EXPLORED: _ClassVar[DecisionReason]
    DECISION_REASON_LEARNED: _ClassVar[DecisionReason]
    DECISION_REASON_NEW_TASK: _ClassVar[DecisionReason]
    DECISION_REASON_WIDENED: _ClassVar[DecisionReason]

class RejectionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECTION_REASON_UNSPECIFIED: _ClassVar[RejectionReason]
    REJECTION_REASON_MISSING_SIGNATURE: _ClassVar[RejectionReason]
    REJECTION_REASON_INVALID_SIGNATURE: _ClassVar[RejectionReason]
    REJECTION_REASON_NONCE_REPLAYED: _ClassVar[RejectionReason]
    REJECTION_REASON_MISSING_TIMESTAMP: _ClassVar[RejectionReason]
    REJECTION_REASON_ISSUED_IN_FUTURE: _ClassVar[RejectionReason]
    REJECTION_REASON_STALE_COMMAND: _ClassVar[RejectionReason]
    REJECTION_REASON_WRONG_AUDIENCE: _ClassVar[RejectionReason]
    REJECTION_REASON_WRONG_PAYLOAD_TYPE: _ClassVar[RejectionReason]
    REJECTION_REASON_MALFORMED_PAYLOAD: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_FIELD: _ClassVar[RejectionReason]
    REJECTION_REASON_MISSING_COMMAND_ID: _ClassVar[RejectionReason]
    REJECTION_REASON_COMMAND_ID_REUSED: _ClassVar[RejectionReason]
    REJECTION_REASON_VERIFIER_UNAVAILABLE: _ClassVar[RejectionReason]
    REJECTION_REASON_TOO_LARGE: _ClassVar[RejectionReason]
    REJECTION_REASON_WRONG_RUN: _ClassVar[RejectionReason]
    REJECTION_REASON_WRONG_GENERATION: _ClassVar[RejectionReason]
    REJECTION_REASON_LIFECYCLE_CONFLICT: _ClassVar[RejectionReason]
    REJECTION_REASON_GATE_REFUSED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_SLOT: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_BLUEPRINT: _ClassVar[RejectionReason]
    REJECTION_REASON_BLUEPRINT_MISFIT: _ClassVar[RejectionReason]
    REJECTION_REASON_BUDGET_EXCEEDED: _ClassVar[RejectionReason]
    REJECTION_REASON_SLOT_EMBARGOED: _ClassVar[RejectionReason]
    REJECTION_REASON_GROWTH_ENDED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_SEED: _ClassVar[RejectionReason]
    REJECTION_REASON_DEADLINE_PASSED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNSUPPORTED_ACTION: _ClassVar[RejectionReason]
    REJECTION_REASON_INVALID_BLEND: _ClassVar[RejectionReason]
    REJECTION_REASON_PAUSED: _ClassVar[RejectionReason]

class FieldReportOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIELD_REPORT_OUTCOME_UNSPECIFIED: _ClassVar[FieldReportOutcome]
    FIELD_REPORT_OUTCOME_SUCCESS: _ClassVar[FieldReportOutcome]
    FIELD_REPORT_OUTCOME_NEUTRAL: _ClassVar[FieldReportOutcome]
    FIELD_REPORT_OUTCOME_REGRESSION: _ClassVar[FieldReportOutcome]
    FIELD_REPORT_OUTCOME_ABORTED: _ClassVar[FieldReportOutcome]

class BlueprintTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLUEPRINT_TIER_UNSPECIFIED: _ClassVar[BlueprintTier]
    BLUEPRINT_TIER_SAFE: _ClassVar[BlueprintTier]
    BLUEPRINT_TIER_EXPERIMENTAL: _ClassVar[BlueprintTier]
    BLUEPRINT_TIER_HIGH_RISK: _ClassVar[BlueprintTier]

class HazardBand(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HAZARD_BAND_UNSPECIFIED: _ClassVar[HazardBand]
    HAZARD_BAND_LOW: _ClassVar[HazardBand]
    HAZARD_BAND_MEDIUM: _ClassVar[HazardBand]
    HAZARD_BAND_HIGH: _ClassVar[HazardBand]
    HAZARD_BAND_CRITICAL: _ClassVar[HazardBand]

class HandlingClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HANDLING_CLASS_UNSPECIFIED: _ClassVar[HandlingClass]
    HANDLING_CLASS_STANDARD: _ClassVar[HandlingClass]
    HANDLING_CLASS_RESTRICTED: _ClassVar[HandlingClass]
    HANDLING_CLASS_QUARANTINE: _ClassVar[HandlingClass]

class ResourceProfile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOURCE_PROFILE_UNSPECIFIED: _ClassVar[ResourceProfile]
    RESOURCE_PROFILE_CPU: _ClassVar[ResourceProfile]
    RESOURCE_PROFILE_GPU: _ClassVar[ResourceProfile]
    RESOURCE_PROFILE_MEMORY_HEAVY: _ClassVar[ResourceProfile]
    RESOURCE_PROFILE_IO_HEAVY: _ClassVar[ResourceProfile]
    RESOURCE_PROFILE_MIXED: _ClassVar[ResourceProfile]

class Provenance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROVENANCE_UNSPECIFIED: _ClassVar[Provenance]
    PROVENANCE_CURATED: _ClassVar[Provenance]
    PROVENANCE_EXTERNAL: _ClassVar[Provenance]
SEED_STAGE_UNSPECIFIED: SeedStage
SEED_STAGE_DORMANT: SeedStage
SEED_STAGE_GERMINATED: SeedStage
SEED_STAGE_TRAINING: SeedStage
SEED_STAGE_BLENDING: SeedStage
SEED_STAGE_SHADOWING: SeedStage
SEED_STAGE_PROBATIONARY: SeedStage
SEED_STAGE_FOSSILIZED: SeedStage
SEED_STAGE_CULLED: SeedStage
SEED_STAGE_EMBARGOED: SeedStage
SEED_STAGE_RESETTING: SeedStage
SEED_STAGE_TERMINATED: SeedStage
SEED_GATE_UNSPECIFIED: SeedGate
SEED_GATE_G0_SANITY: SeedGate
SEED_GATE_G1_GRADIENT_HEALTH: SeedGate
SEED_GATE_G2_STABILITY: SeedGate
SEED_GATE_G3_INTERFACE: SeedGate
SEED_GATE_G4_SYSTEM_IMPACT: SeedGate
SEED_GATE_G5_RESET: SeedGate
GATE_VERDICT_UNSPECIFIED: GateVerdict
GATE_VERDICT_PASS: GateVerdict
GATE_VERDICT_FAIL: GateVerdict
GATE_VERDICT_EXTEND: GateVerdict
GATE_VERDICT_WAIT: GateVerdict
MESSAGE_PRIORITY_UNSPECIFIED: MessagePriority
MESSAGE_PRIORITY_LOW: MessagePriority
MESSAGE_PRIORITY_NORMAL: MessagePriority
MESSAGE_PRIORITY_HIGH: MessagePriority
MESSAGE_PRIORITY_CRITICAL: MessagePriority
TELEMETRY_LEVEL_UNSPECIFIED: TelemetryLevel
TELEMETRY_LEVEL_DEBUG: TelemetryLevel
TELEMETRY_LEVEL_INFO: TelemetryLevel
TELEMETRY_LEVEL_WARNING: TelemetryLevel
TELEMETRY_LEVEL_ERROR: TelemetryLevel
TELEMETRY_LEVEL_CRITICAL: TelemetryLevel
HEALTH_STATUS_UNSPECIFIED: HealthStatus
HEALTH_STATUS_HEALTHY: HealthStatus
HEALTH_STATUS_DEGRADED: HealthStatus
HEALTH_STATUS_UNHEALTHY: HealthStatus
HEALTH_STATUS_CRITICAL: HealthStatus
CIRCUIT_STATE_UNSPECIFIED: CircuitState
CIRCUIT_STATE_CLOSED: CircuitState
CIRCUIT_STATE_OPEN: CircuitState
CIRCUIT_STATE_HALF_OPEN: CircuitState
SYSTEM_MODE_UNSPECIFIED: SystemMode
SYSTEM_MODE_NORMAL: SystemMode
SYSTEM_MODE_DEGRADED: SystemMode
SYSTEM_MODE_EMERGENCY: SystemMode
EMERGENCY_LEVEL_UNSPECIFIED: EmergencyLevel
EMERGENCY_LEVEL_L1_NOTICE: EmergencyLevel
EMERGENCY_LEVEL_L2_ELEVATED: EmergencyLevel
EMERGENCY_LEVEL_L3_CONSERVATIVE: EmergencyLevel
EMERGENCY_LEVEL_L4_HALT: EmergencyLevel
BLEND_MODE_UNSPECIFIED: BlendMode
BLEND_MODE_RESIDUAL: BlendMode
BLEND_MODE_CONVEX: BlendMode
BLEND_MODE_CHANNEL: BlendMode
BLEND_MODE_CONFIDENCE: BlendMode
BLEND_SCHEDULE_UNSPECIFIED: BlendSchedule
BLEND_SCHEDULE_LINEAR: BlendSchedule
BLEND_SCHEDULE_SIGMOID: BlendSchedule
BLEND_SCHEDULE_COSINE: BlendSchedule
BLEND_SCHEDULE_WARMUP_HOLD: BlendSchedule
CONFIDENCE_KIND_UNSPECIFIED: ConfidenceKind
CONFIDENCE_KIND_MARGIN: ConfidenceKind
CONFIDENCE_KIND_ENTROPY: ConfidenceKind
SEED_OPERATION_KIND_UNSPECIFIED: SeedOperationKind
SEED_OPERATION_KIND_GERMINATE: SeedOperationKind
SEED_OPERATION_KIND_FOSSILIZE: SeedOperationKind
SEED_OPERATION_KIND_CULL: SeedOperationKind
SEED_OPERATION_KIND_CHANGE_BLEND: SeedOperationKind
SEED_OPERATION_KIND_ADVANCE_TO: SeedOperationKind
DIRECTIVE_KIND_UNSPECIFIED: DirectiveKind
DIRECTIVE_KIND_BUILD: DirectiveKind
DIRECTIVE_KIND_ATTACH: DirectiveKind
DIRECTIVE_KIND_INCUBATE: DirectiveKind
DIRECTIVE_KIND_SET_BLEND: DirectiveKind
DIRECTIVE_KIND_SNAPSHOT_TWIN: DirectiveKind
DIRECTIVE_KIND_PROBE: DirectiveKind
DIRECTIVE_KIND_JUDGE: DirectiveKind
DIRECTIVE_KIND_MUTE: DirectiveKind
DIRECTIVE_KIND_FOLD: DirectiveKind
DIRECTIVE_KIND_INSTALL_TWIN: DirectiveKind
DIRECTIVE_KIND_FADE: DirectiveKind
DIRECTIVE_KIND_REMOVE: DirectiveKind
DIRECTIVE_KIND_DROP_TWIN: DirectiveKind
DIRECTIVE_KIND_CHECK_RESET: DirectiveKind
DIRECTIVE_KIND_ADJUST_OPTIMIZER: DirectiveKind
DIRECTIVE_KIND_ROLLBACK: DirectiveKind
DIRECTIVE_KIND_PAUSE_GROWTH: DirectiveKind
DIRECTIVE_KIND_RESUME_GROWTH: DirectiveKind
DIRECTIVE_KIND_HALT: DirectiveKind
DIRECTIVE_KIND_UNMUTE: DirectiveKind
DIRECTIVE_KIND_DROP_TEACHER: DirectiveKind
SLOT_KIND_UNSPECIFIED: SlotKind
SLOT_KIND_SPAN_LINEAR: SlotKind
SLOT_KIND_SPAN_CONV: SlotKind
SLOT_KIND_SPAN_CONV_LINEAR: SlotKind
SLOT_KIND_RESIDUAL_LINEAR: SlotKind
SLOT_KIND_RESIDUAL_CONV: SlotKind
SLOT_KIND_STACK: SlotKind
SLOT_KIND_LINEAR: SlotKind
SLOT_KIND_SPAN_HEADS: SlotKind
TASK_TYPE_UNSPECIFIED: TaskType
TASK_TYPE_CLASSIFICATION: TaskType
TASK_TYPE_LANGUAGE_MODEL: TaskType
TASK_TYPE_REGRESSION: TaskType
GROWTH_TRIGGER_UNSPECIFIED: GrowthTrigger
GROWTH_TRIGGER_AUTO: GrowthTrigger
GROWTH_TRIGGER_ALWAYS: GrowthTrigger
GROWTH_TRIGGER_NEVER: GrowthTrigger
STACK_RULE_UNSPECIFIED: StackRule
STACK_RULE_KNEE: StackRule
STACK_RULE_FORECAST: StackRule
JUDGE_MODE_UNSPECIFIED: JudgeMode
JUDGE_MODE_TWIN: JudgeMode
JUDGE_MODE_MUTED: JudgeMode
INCUBATION_MODE_UNSPECIFIED: IncubationMode
INCUBATION_MODE_NONE: IncubationMode
INCUBATION_MODE_SHADOW: IncubationMode
RISK_REASON_UNSPECIFIED: RiskReason
RISK_REASON_TIMEOUT_INFERENCE: RiskReason
RISK_REASON_TIMEOUT_URZA: RiskReason
RISK_REASON_LOSS_SPIKE: RiskReason
RISK_REASON_BLUEPRINT_QUARANTINE: RiskReason
RISK_REASON_DEVICE_PRESSURE: RiskReason
RISK_REASON_STEP_LATENCY: RiskReason
RISK_REASON_ISOLATION_VIOLATION: RiskReason
RISK_REASON_HOOK_BUDGET: RiskReason
RISK_REASON_POLICY_RISK: RiskReason
RISK_REASON_CPU_PRESSURE: RiskReason
RISK_REASON_CONSERVATIVE_MODE: RiskReason
RISK_REASON_BLUEPRINT_RISK: RiskReason
RISK_REASON_HAZARD_HIGH: RiskReason
RISK_REASON_HAZARD_CRITICAL: RiskReason
RISK_REASON_LOSS_VOLATILITY: RiskReason
RISK_REASON_GRADIENT_VARIANCE: RiskReason
RISK_REASON_GRADIENT_CONFLICT: RiskReason
RISK_REASON_DEGRADED_INPUTS: RiskReason
RISK_REASON_NON_FINITE_LOSS: RiskReason
DECISION_REASON_UNSPECIFIED: DecisionReason
DECISION_REASON_PLATEAU: DecisionReason
DECISION_REASON_FORCED: DecisionReason
DECISION_REASON_STILL_IMPROVING: DecisionReason
DECISION_REASON_SATURATED: DecisionReason
DECISION_REASON_SEED_ALIVE: DecisionReason
DECISION_REASON_GATE_PASSED: DecisionReason
DECISION_REASON_GATE_FAILED: DecisionReason
DECISION_REASON_NO_SLOT: DecisionReason
DECISION_REASON_BUDGET: DecisionReason
DECISION_REASON_GROWTH_ENDED: DecisionReason
DECISION_REASON_GROWTH_OFF: DecisionReason
DECISION_REASON_WARMING_UP: DecisionReason
DECISION_REASON_RISK: DecisionReason
DECISION_REASON_CONSERVATIVE: DecisionReason
DECISION_REASON_PAUSED: DecisionReason
DECISION_REASON_EMBARGO: DecisionReason
DECISION_REASON_TOO_LATE: DecisionReason
DECISION_REASON_SCHEDULED: DecisionReason
DECISION_REASON_TARGET_REACHED: DecisionReason
DECISION_REASON_EXPLORED: DecisionReason
DECISION_REASON_LEARNED: DecisionReason
DECISION_REASON_NEW_TASK: DecisionReason
DECISION_REASON_WIDENED: DecisionReason
REJECTION_REASON_UNSPECIFIED: RejectionReason
REJECTION_REASON_MISSING_SIGNATURE: RejectionReason
REJECTION_REASON_INVALID_SIGNATURE: RejectionReason
REJECTION_REASON_NONCE_REPLAYED: RejectionReason
REJECTION_REASON_MISSING_TIMESTAMP: RejectionReason
REJECTION_REASON_ISSUED_IN_FUTURE: RejectionReason
REJECTION_REASON_STALE_COMMAND: RejectionReason
REJECTION_REASON_WRONG_AUDIENCE: RejectionReason
REJECTION_REASON_WRONG_PAYLOAD_TYPE: RejectionReason
REJECTION_REASON_MALFORMED_PAYLOAD: RejectionReason
REJECTION_REASON_UNKNOWN_FIELD: RejectionReason
REJECTION_REASON_MISSING_COMMAND_ID: RejectionReason
REJECTION_REASON_COMMAND_ID_REUSED: RejectionReason
REJECTION_REASON_VERIFIER_UNAVAILABLE: RejectionReason
REJECTION_REASON_TOO_LARGE: RejectionReason
REJECTION_REASON_WRONG_RUN: RejectionReason
REJECTION_REASON_WRONG_GENERATION: RejectionReason
REJECTION_REASON_LIFECYCLE_CONFLICT: RejectionReason
REJECTION_REASON_GATE_REFUSED: RejectionReason
REJECTION_REASON_UNKNOWN_SLOT: RejectionReason
REJECTION_REASON_UNKNOWN_BLUEPRINT: RejectionReason
REJECTION_REASON_BLUEPRINT_MISFIT: RejectionReason
REJECTION_REASON_BUDGET_EXCEEDED: RejectionReason
REJECTION_REASON_SLOT_EMBARGOED: RejectionReason
REJECTION_REASON_GROWTH_ENDED: RejectionReason
REJECTION_REASON_UNKNOWN_SEED: RejectionReason
REJECTION_REASON_DEADLINE_PASSED: RejectionReason
REJECTION_REASON_UNSUPPORTED_ACTION: RejectionReason
REJECTION_REASON_INVALID_BLEND: RejectionReason
REJECTION_REASON_PAUSED: RejectionReason
FIELD_REPORT_OUTCOME_UNSPECIFIED: FieldReportOutcome
FIELD_REPORT_OUTCOME_SUCCESS: FieldReportOutcome
FIELD_REPORT_OUTCOME_NEUTRAL: FieldReportOutcome
FIELD_REPORT_OUTCOME_REGRESSION: FieldReportOutcome
FIELD_REPORT_OUTCOME_ABORTED: FieldReportOutcome
BLUEPRINT_TIER_UNSPECIFIED: BlueprintTier
BLUEPRINT_TIER_SAFE: BlueprintTier
BLUEPRINT_TIER_EXPERIMENTAL: BlueprintTier
BLUEPRINT_TIER_HIGH_RISK: BlueprintTier
HAZARD_BAND_UNSPECIFIED: HazardBand
HAZARD_BAND_LOW: HazardBand
HAZARD_BAND_MEDIUM: HazardBand
HAZARD_BAND_HIGH: HazardBand
HAZARD_BAND_CRITICAL: HazardBand
HANDLING_CLASS_UNSPECIFIED: HandlingClass
HANDLING_CLASS_STANDARD: HandlingClass
HANDLING_CLASS_RESTRICTED: HandlingClass
HANDLING_CLASS_QUARANTINE: HandlingClass
RESOURCE_PROFILE_UNSPECIFIED: ResourceProfile
RESOURCE_PROFILE_CPU: ResourceProfile
RESOURCE_PROFILE_GPU: ResourceProfile
RESOURCE_PROFILE_MEMORY_HEAVY: ResourceProfile
RESOURCE_PROFILE_IO_HEAVY: ResourceProfile
RESOURCE_PROFILE_MIXED: ResourceProfile
PROVENANCE_UNSPECIFIED: Provenance
PROVENANCE_CURATED: Provenance
PROVENANCE_EXTERNAL: Provenance

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class ParameterValue(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("max_parameters", "max_forward_macs", "max_training_macs", "max_seeds", "max_memory_bytes")
    MAX_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MAX_FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    MAX_TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEEDS_FIELD_NUMBER: _ClassVar[int]
    MAX_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_parameters: int
    max_forward_macs: int
    max_training_macs: int
    max_seeds: int
    max_memory_bytes: int
    def __init__(self, max_parameters: _Optional[int] = ..., max_forward_macs: _Optional[int] = ..., max_training_macs: _Optional[int] = ..., max_seeds: _Optional[int] = ..., max_memory_bytes: _Optional[int] = ...) -> None: ...
