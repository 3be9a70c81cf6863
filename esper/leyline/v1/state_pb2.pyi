from esper.leyline.v1 import command_pb2 as _command_pb2
from esper.leyline.v1 import policy_pb2 as _policy_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SystemStatePacket(_message.Message):
    __slots__ = ("training_run_id", "generation", "packet_index", "step", "epoch", "metrics", "recent_steps", "slots", "seeds", "growth", "hardware", "mode", "isolation_violations", "trace", "is_epoch_end")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PACKET_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    RECENT_STEPS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    IS_EPOCH_END_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    generation: int
    packet_index: int
    step: int
    epoch: int
    metrics: TrainingMetrics
    recent_steps: _containers.RepeatedCompositeFieldContainer[StepSample]
    slots: _containers.RepeatedCompositeFieldContainer[SlotSignal]
    seeds: _containers.RepeatedCompositeFieldContainer[SeedState]
    growth: GrowthState
    hardware: HardwareContext
    mode: _types_pb2.SystemMode
    isolation_violations: int
    trace: _types_pb2.TraceContext
    is_epoch_end: bool
    def __init__(self, training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., packet_index: _Optional[int] = ..., step: _Optional[int] = ..., epoch: _Optional[int] = ..., metrics: _Optional[_Union[TrainingMetrics, _Mapping]] = ..., recent_steps: _Optional[_Iterable[_Union[StepSample, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[SlotSignal, _Mapping]]] = ..., seeds: _Optional[_Iterable[_Union[SeedState, _Mapping]]] = ..., growth: _Optional[_Union[GrowthState, _Mapping]] = ..., hardware: _Optional[_Union[HardwareContext, _Mapping]] = ..., mode: _Optional[_Union[_types_pb2.SystemMode, str]] = ..., isolation_violations: _Optional[int] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ..., is_epoch_end: bool = ...) -> None: ...

class StepSample(_message.Message):
    __slots__ = ("step", "loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    loss: float
    def __init__(self, step: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class TrainingMetrics(_message.Message):
    __slots__ = ("loss", "smoothed_loss", "smoothed_loss_standard_error", "gradient_norm", "gradient_norm_variance", "gradient_conflict_rate", "learning_rate", "momentum", "training_accuracy", "parameters", "forward_macs", "training_macs", "samples_per_s", "step_latency_ms", "hook_latency_ms", "apply_latency_ms", "finalize_latency_ms", "input_wait_ms", "tamiyo_latency_ms", "kasmina_latency_ms")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CONFLICT_RATE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    TRAINING_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    HOOK_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    APPLY_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    FINALIZE_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    INPUT_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    TAMIYO_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    KASMINA_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    loss: float
    smoothed_loss: float
    smoothed_loss_standard_error: float
    gradient_norm: float
    gradient_norm_variance: float
    gradient_conflict_rate: float
    learning_rate: float
    momentum: float
    training_accuracy: float
    parameters: int
    forward_macs: int
    training_macs: int
    samples_per_s: float
    step_latency_ms: float
    hook_latency_ms: float
    apply_latency_ms: float
    finalize_latency_ms: float
    input_wait_ms: float
    tamiyo_latency_ms: float
    kasmina_latency_ms: float
    def __init__(self, loss: _Optional[float] = ..., smoothed_loss: _Optional[float] = ..., smoothed_loss_standard_error: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., gradient_norm_variance: _Optional[float] = ..., gradient_conflict_rate: _Optional[float] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., training_accuracy: _Optional[float] = ..., parameters: _Optional[int] = ..., forward_macs: _Optional[int] = ..., training_macs: _Optional[int] = ..., samples_per_s: _Optional[float] = ..., step_latency_ms: _Optional[float] = ..., hook_latency_ms: _Optional[float] = ..., apply_latency_ms: _Optional[float] = ..., finalize_latency_ms: _Optional[float] = ..., input_wait_ms: _Optional[float] = ..., tamiyo_latency_ms: _Optional[float] = ..., kasmina_latency_ms: _Optional[float] = ...) -> None: ...

class SlotSignal(_message.Message):
    __slots__ = ("slot_id", "gradient_norm", "width", "in_features", "out_features", "depth")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    IN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUT_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    gradient_norm: float
    width: int
    in_features: int
    out_features: int
    depth: int
    def __init__(self, slot_id: _Optional[str] = ..., gradient_norm: _Optional[float] = ..., width: _Optional[int] = ..., in_features: _Optional[int] = ..., out_features: _Optional[int] = ..., depth: _Optional[int] = ...) -> None: ...

class SeedState(_message.Message):
    __slots__ = ("seed_id", "stage", "slot_id", "blueprint_id", "alpha", "age_steps", "gradient_norm", "rms_ratio", "gain", "gain_standard_error", "interference", "parameters", "forward_macs", "health", "verdict", "gate", "stage_step", "command_id", "muted_gain", "muted_gain_standard_error", "is_folded", "is_paused")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    AGE_STEPS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    RMS_RATIO_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    GAIN_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    INTERFERENCE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_STEP_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    MUTED_GAIN_FIELD_NUMBER: _ClassVar[int]
    MUTED_GAIN_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    IS_FOLDED_FIELD_NUMBER: _ClassVar[int]
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    stage: _types_pb2.SeedStage
    slot_id: str
    blueprint_id: str
    alpha: float
    age_steps: int
    gradient_norm: float
    rms_ratio: float
    gain: float
    gain_standard_error: float
    interference: float
    parameters: int
    forward_macs: int
    health: _types_pb2.HealthStatus
    verdict: _types_pb2.GateVerdict
    gate: _types_pb2.SeedGate
    stage_step: int
    command_id: str
    muted_gain: float
    muted_gain_standard_error: float
    is_folded: bool
    is_paused: bool
    def __init__(self, seed_id: _Optional[str] = ..., stage: _Optional[_Union[_types_pb2.SeedStage, str]] = ..., slot_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., alpha: _Optional[float] = ..., age_steps: _Optional[int] = ..., gradient_norm: _Optional[float] = ..., rms_ratio: _Optional[float] = ..., gain: _Optional[float] = ..., gain_standard_error: _Optional[float] = ..., interference: _Optional[float] = ..., parameters: _Optional[int] = ..., forward_macs: _Optional[int] = ..., health: _Optional[_Union[_types_pb2.HealthStatus, str]] = ..., verdict: _Optional[_Union[_types_pb2.GateVerdict, str]] = ..., gate: _Optional[_Union[_types_pb2.SeedGate, str]] = ..., stage_step: _Optional[int] = ..., command_id: _Optional[str] = ..., muted_gain: _Optional[float] = ..., muted_gain_standard_error: _Optional[float] = ..., is_folded: bool = ..., is_paused: bool = ...) -> None: ...

class GrowthState(_message.Message):
    __slots__ = ("looks_since_fossil", "culls_in_row", "germinated", "judged", "kept", "ended", "paused", "embargoes", "added_parameters", "emergency", "teacher_digest", "artifact_timeouts")
    LOOKS_SINCE_FOSSIL_FIELD_NUMBER: _ClassVar[int]
    CULLS_IN_ROW_FIELD_NUMBER: _ClassVar[int]
    GERMINATED_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    EMBARGOES_FIELD_NUMBER: _ClassVar[int]
    ADDED_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_FIELD_NUMBER: _ClassVar[int]
    TEACHER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    looks_since_fossil: int
    culls_in_row: int
    germinated: int
    judged: int
    kept: int
    ended: bool
    paused: bool
    embargoes: _containers.RepeatedCompositeFieldContainer[Embargo]
    added_parameters: int
    emergency: _types_pb2.EmergencyLevel
    teacher_digest: str
    artifact_timeouts: int
    def __init__(self, looks_since_fossil: _Optional[int] = ..., culls_in_row: _Optional[int] = ..., germinated: _Optional[int] = ..., judged: _Optional[int] = ..., kept: _Optional[int] = ..., ended: bool = ..., paused: bool = ..., embargoes: _Optional[_Iterable[_Union[Embargo, _Mapping]]] = ..., added_parameters: _Optional[int] = ..., emergency: _Optional[_Union[_types_pb2.EmergencyLevel, str]] = ..., teacher_digest: _Optional[str] = ..., artifact_timeouts: _Optional[int] = ...) -> None: ...

class Embargo(_message.Message):
    __slots__ = ("slot_id", "until_step")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STEP_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    until_step: int
    def __init__(self, slot_id: _Optional[str] = ..., until_step: _Optional[int] = ...) -> None: ...

class HardwareContext(_message.Message):
    __slots__ = ("device_type", "memory_total_bytes", "memory_used_bytes", "cpu_cores", "processor_wait")
    DEVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_WAIT_FIELD_NUMBER: _ClassVar[int]
    device_type: str
    memory_total_bytes: int
    memory_used_bytes: int
    cpu_cores: int
    processor_wait: float
    def __init__(self, device_type: _Optional[str] = ..., memory_total_bytes: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., cpu_cores: _Optional[int] = ..., processor_wait: _Optional[float] = ...) -> None: ...

class SeedObservation(_message.Message):
    __slots__ = ("seed_id", "step", "alpha", "gradient_norm", "rms_ratio", "isolation_violations", "smoothed_loss", "smoothed_loss_at_graft", "smoothed_loss_standard_error", "is_schedule_done", "probe", "judgement", "incubation_score", "incubation_steps", "gradients_finite", "evaluations", "blend", "distillation_loss")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    RMS_RATIO_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_AT_GRAFT_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    IS_SCHEDULE_DONE_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    JUDGEMENT_FIELD_NUMBER: _ClassVar[int]
    INCUBATION_SCORE_FIELD_NUMBER: _ClassVar[int]
    INCUBATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FINITE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    DISTILLATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    step: int
    alpha: float
    gradient_norm: float
    rms_ratio: float
    isolation_violations: int
    smoothed_loss: float
    smoothed_loss_at_graft: float
    smoothed_loss_standard_error: float
    is_schedule_done: bool
    probe: ProbeResult
    judgement: JudgeResult
    incubation_score: PairedScore
    incubation_steps: int
    gradients_finite: bool
    evaluations: _containers.RepeatedCompositeFieldContainer[StackEvaluation]
    blend: BlendFigures
    distillation_loss: float
    def __init__(self, seed_id: _Optional[str] = ..., step: _Optional[int] = ..., alpha: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., rms_ratio: _Optional[float] = ..., isolation_violations: _Optional[int] = ..., smoothed_loss: _Optional[float] = ..., smoothed_loss_at_graft: _Optional[float] = ..., smoothed_loss_standard_error: _Optional[float] = ..., is_schedule_done: bool = ..., probe: _Optional[_Union[ProbeResult, _Mapping]] = ..., judgement: _Optional[_Union[JudgeResult, _Mapping]] = ..., incubation_score: _Optional[_Union[PairedScore, _Mapping]] = ..., incubation_steps: _Optional[int] = ..., gradients_finite: bool = ..., evaluations: _Optional[_Iterable[_Union[StackEvaluation, _Mapping]]] = ..., blend: _Optional[_Union[BlendFigures, _Mapping]] = ..., distillation_loss: _Optional[float] = ...) -> None: ...

class BlendFigures(_message.Message):
    __slots__ = ("alpha_mean", "alpha_p95", "sparsity", "clamped_fraction", "gate_mean", "gateless_samples")
    ALPHA_MEAN_FIELD_NUMBER: _ClassVar[int]
    ALPHA_P95_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    CLAMPED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    GATE_MEAN_FIELD_NUMBER: _ClassVar[int]
    GATELESS_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    alpha_mean: float
    alpha_p95: float
    sparsity: float
    clamped_fraction: float
    gate_mean: float
    gateless_samples: int
    def __init__(self, alpha_mean: _Optional[float] = ..., alpha_p95: _Optional[float] = ..., sparsity: _Optional[float] = ..., clamped_fraction: _Optional[float] = ..., gate_mean: _Optional[float] = ..., gateless_samples: _Optional[int] = ...) -> None: ...

class StackEvaluation(_message.Message):
    __slots__ = ("step", "twin", "mean_twin_score", "clipped_share", "part")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    MEAN_TWIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_SHARE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    step: int
    twin: PairedScore
    mean_twin_score: float
    clipped_share: float
    part: int
    def __init__(self, step: _Optional[int] = ..., twin: _Optional[_Union[PairedScore, _Mapping]] = ..., mean_twin_score: _Optional[float] = ..., clipped_share: _Optional[float] = ..., part: _Optional[int] = ...) -> None: ...

class ProbeResult(_message.Message):
    __slots__ = ("interface_matches", "mismatch", "muted", "interference")
    INTERFACE_MATCHES_FIELD_NUMBER: _ClassVar[int]
    MISMATCH_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    INTERFERENCE_FIELD_NUMBER: _ClassVar[int]
    interface_matches: bool
    mismatch: str
    muted: PairedScore
    interference: float
    def __init__(self, interface_matches: bool = ..., mismatch: _Optional[str] = ..., muted: _Optional[_Union[PairedScore, _Mapping]] = ..., interference: _Optional[float] = ...) -> None: ...

class JudgeResult(_message.Message):
    __slots__ = ("look", "twin", "mean_twin_score", "muted")
    LOOK_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    MEAN_TWIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    look: int
    twin: PairedScore
    mean_twin_score: float
    muted: PairedScore
    def __init__(self, look: _Optional[int] = ..., twin: _Optional[_Union[PairedScore, _Mapping]] = ..., mean_twin_score: _Optional[float] = ..., muted: _Optional[_Union[PairedScore, _Mapping]] = ...) -> None: ...

class PairedScore(_message.Message):
    __slots__ = ("mean", "variance", "samples", "documents", "standard_error")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    mean: float
    variance: float
    samples: int
    documents: int
    standard_error: float
    def __init__(self, mean: _Optional[float] = ..., variance: _Optional[float] = ..., samples: _Optional[int] = ..., documents: _Optional[int] = ..., standard_error: _Optional[float] = ...) -> None: ...

class HostManifest(_message.Message):
    __slots__ = ("model", "weights_digest", "submodules", "slots", "parameters", "forward_macs", "task", "optimizer_family")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SUBMODULES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FAMILY_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights_digest: str
    submodules: _containers.RepeatedCompositeFieldContainer[SubmoduleSpec]
    slots: _containers.RepeatedCompositeFieldContainer[SlotSpec]
    parameters: int
    forward_macs: int
    task: _types_pb2.TaskType
    optimizer_family: str
    def __init__(self, model: _Optional[str] = ..., weights_digest: _Optional[str] = ..., submodules: _Optional[_Iterable[_Union[SubmoduleSpec, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[SlotSpec, _Mapping]]] = ..., parameters: _Optional[int] = ..., forward_macs: _Optional[int] = ..., task: _Optional[_Union[_types_pb2.TaskType, str]] = ..., optimizer_family: _Optional[str] = ...) -> None: ...

class SubmoduleSpec(_message.Message):
    __slots__ = ("path", "class_name", "parameters", "output_shape", "dtype")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    path: str
    class_name: str
    parameters: int
    output_shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, path: _Optional[str] = ..., class_name: _Optional[str] = ..., parameters: _Optional[int] = ..., output_shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class SlotSpec(_message.Message):
    __slots__ = ("slot_id", "kind", "read_path", "write_path", "in_features", "out_features", "width", "read_positions", "write_positions", "read_kernel", "write_kernel", "is_foldable", "fold_obstacle", "order", "depth", "block_parameters", "block_forward_macs", "width_unit", "between_kernel")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    READ_PATH_FIELD_NUMBER: _ClassVar[int]
    WRITE_PATH_FIELD_NUMBER: _ClassVar[int]
    IN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUT_FEATURES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    READ_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    WRITE_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    READ_KERNEL_FIELD_NUMBER: _ClassVar[int]
    WRITE_KERNEL_FIELD_NUMBER: _ClassVar[int]
    IS_FOLDABLE_FIELD_NUMBER: _ClassVar[int]
    FOLD_OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_UNIT_FIELD_NUMBER: _ClassVar[int]
    BETWEEN_KERNEL_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    kind: _types_pb2.SlotKind
    read_path: str
    write_path: str
    in_features: int
    out_features: int
    width: int
    read_positions: int
    write_positions: int
    read_kernel: int
    write_kernel: int
    is_foldable: bool
    fold_obstacle: str
    order: int
    depth: int
    block_parameters: int
    block_forward_macs: int
    width_unit: int
    between_kernel: int
    def __init__(self, slot_id: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.SlotKind, str]] = ..., read_path: _Optional[str] = ..., write_path: _Optional[str] = ..., in_features: _Optional[int] = ..., out_features: _Optional[int] = ..., width: _Optional[int] = ..., read_positions: _Optional[int] = ..., write_positions: _Optional[int] = ..., read_kernel: _Optional[int] = ..., write_kernel: _Optional[int] = ..., is_foldable: bool = ..., fold_obstacle: _Optional[str] = ..., order: _Optional[int] = ..., depth: _Optional[int] = ..., block_parameters: _Optional[int] = ..., block_forward_macs: _Optional[int] = ..., width_unit: _Optional[int] = ..., between_kernel: _Optional[int] = ...) -> None: ...

class LifeSettings(_message.Message):
    __slots__ = ("judge", "window_steps", "incubation", "incubation_steps", "isolate", "embargo_steps", "margin_relative", "margin_absolute", "tau", "min_samples", "growth_end_step", "max_culls_in_row", "reaction_steps", "fade_steps", "stability_limit", "stack", "judge_samples")
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_STEPS_FIELD_NUMBER: _ClassVar[int]
    INCUBATION_FIELD_NUMBER: _ClassVar[int]
    INCUBATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    ISOLATE_FIELD_NUMBER: _ClassVar[int]
    EMBARGO_STEPS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_RELATIVE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_END_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_CULLS_IN_ROW_FIELD_NUMBER: _ClassVar[int]
    REACTION_STEPS_FIELD_NUMBER: _ClassVar[int]
    FADE_STEPS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    JUDGE_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    judge: _types_pb2.JudgeMode
    window_steps: int
    incubation: _types_pb2.IncubationMode
    incubation_steps: int
    isolate: bool
    embargo_steps: int
    margin_relative: float
    margin_absolute: float
    tau: float
    min_samples: int
    growth_end_step: int
    max_culls_in_row: int
    reaction_steps: int
    fade_steps: int
    stability_limit: float
    stack: StackJudging
    judge_samples: int
    def __init__(self, judge: _Optional[_Union[_types_pb2.JudgeMode, str]] = ..., window_steps: _Optional[int] = ..., incubation: _Optional[_Union[_types_pb2.IncubationMode, str]] = ..., incubation_steps: _Optional[int] = ..., isolate: bool = ..., embargo_steps: _Optional[int] = ..., margin_relative: _Optional[float] = ..., margin_absolute: _Optional[float] = ..., tau: _Optional[float] = ..., min_samples: _Optional[int] = ..., growth_end_step: _Optional[int] = ..., max_culls_in_row: _Optional[int] = ..., reaction_steps: _Optional[int] = ..., fade_steps: _Optional[int] = ..., stability_limit: _Optional[float] = ..., stack: _Optional[_Union[StackJudging, _Mapping]] = ..., judge_samples: _Optional[int] = ...) -> None: ...

class StackJudging(_message.Message):
    __slots__ = ("margin", "error_rate", "evaluations", "max_clipped_share", "window_fraction", "window_recoveries", "recovery_steps", "parts")
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIPPED_SHARE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FRACTION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    margin: float
    error_rate: float
    evaluations: int
    max_clipped_share: float
    window_fraction: float
    window_recoveries: float
    recovery_steps: int
    parts: int
    def __init__(self, margin: _Optional[float] = ..., error_rate: _Optional[float] = ..., evaluations: _Optional[int] = ..., max_clipped_share: _Optional[float] = ..., window_fraction: _Optional[float] = ..., window_recoveries: _Optional[float] = ..., recovery_steps: _Optional[int] = ..., parts: _Optional[int] = ...) -> None: ...

class RunStateBlob(_message.Message):
    __slots__ = ("state_type", "state", "digest", "step")
    STATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    state_type: str
    state: bytes
    digest: str
    step: int
    def __init__(self, state_type: _Optional[str] = ..., state: _Optional[bytes] = ..., digest: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class KasminaRunState(_message.Message):
    __slots__ = ("training_run_id", "generation", "step", "applied_seq", "seeds", "growth", "directives_issued", "slots", "training_macs", "training_macs_step")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVES_ISSUED_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MACS_STEP_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    generation: int
    step: int
    applied_seq: int
    seeds: _containers.RepeatedCompositeFieldContainer[SeedRecord]
    growth: GrowthState
    directives_issued: int
    slots: _containers.RepeatedCompositeFieldContainer[SlotSignal]
    training_macs: int
    training_macs_step: int
    def __init__(self, training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., applied_seq: _Optional[int] = ..., seeds: _Optional[_Iterable[_Union[SeedRecord, _Mapping]]] = ..., growth: _Optional[_Union[GrowthState, _Mapping]] = ..., directives_issued: _Optional[int] = ..., slots: _Optional[_Iterable[_Union[SlotSignal, _Mapping]]] = ..., training_macs: _Optional[int] = ..., training_macs_step: _Optional[int] = ...) -> None: ...

class SeedRecord(_message.Message):
    __slots__ = ("state", "germination", "germinated_step", "grafted_step", "window_end_step", "extended", "pending", "observation", "gates", "look", "evaluations", "recovery_steps", "paused_step")
    STATE_FIELD_NUMBER: _ClassVar[int]
    GERMINATION_FIELD_NUMBER: _ClassVar[int]
    GERMINATED_STEP_FIELD_NUMBER: _ClassVar[int]
    GRAFTED_STEP_FIELD_NUMBER: _ClassVar[int]
    WINDOW_END_STEP_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_STEP_FIELD_NUMBER: _ClassVar[int]
    state: SeedState
    germination: _command_pb2.SeedOperation
    germinated_step: int
    grafted_step: int
    window_end_step: int
    extended: bool
    pending: _containers.RepeatedCompositeFieldContainer[_command_pb2.SeedDirective]
    observation: SeedObservation
    gates: _containers.RepeatedCompositeFieldContainer[_command_pb2.GateEvidence]
    look: int
    evaluations: _containers.RepeatedCompositeFieldContainer[StackEvaluation]
    recovery_steps: int
    paused_step: int
    def __init__(self, state: _Optional[_Union[SeedState, _Mapping]] = ..., germination: _Optional[_Union[_command_pb2.SeedOperation, _Mapping]] = ..., germinated_step: _Optional[int] = ..., grafted_step: _Optional[int] = ..., window_end_step: _Optional[int] = ..., extended: bool = ..., pending: _Optional[_Iterable[_Union[_command_pb2.SeedDirective, _Mapping]]] = ..., observation: _Optional[_Union[SeedObservation, _Mapping]] = ..., gates: _Optional[_Iterable[_Union[_command_pb2.GateEvidence, _Mapping]]] = ..., look: _Optional[int] = ..., evaluations: _Optional[_Iterable[_Union[StackEvaluation, _Mapping]]] = ..., recovery_steps: _Optional[int] = ..., paused_step: _Optional[int] = ...) -> None: ...

class TamiyoRunState(_message.Message):
    __slots__ = ("training_run_id", "packet_index", "step", "commands_issued", "seeds_named", "window", "next_slot", "conservative", "conservative_reason", "conservative_since_step", "clean_packets", "last_change_step", "smoothed_loss", "smoothed_gradient_norm", "smoothed_accuracy", "open_commands", "trigger", "evidence", "isolation_violations", "retry_step", "policy_version", "first_loss", "artifact_timeouts", "step_macs_ratio", "training_macs", "policy_digest", "steepest_fall", "jumped_from")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PACKET_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_ISSUED_FIELD_NUMBER: _ClassVar[int]
    SEEDS_NAMED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    NEXT_SLOT_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_REASON_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_SINCE_STEP_FIELD_NUMBER: _ClassVar[int]
    CLEAN_PACKETS_FIELD_NUMBER: _ClassVar[int]
    LAST_CHANGE_STEP_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LOSS_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    OPEN_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_STEP_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    FIRST_LOSS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    STEP_MACS_RATIO_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MACS_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STEEPEST_FALL_FIELD_NUMBER: _ClassVar[int]
    JUMPED_FROM_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    packet_index: int
    step: int
    commands_issued: int
    seeds_named: int
    window: _containers.RepeatedCompositeFieldContainer[LossPoint]
    next_slot: int
    conservative: bool
    conservative_reason: _types_pb2.RiskReason
    conservative_since_step: int
    clean_packets: int
    last_change_step: int
    smoothed_loss: float
    smoothed_gradient_norm: float
    smoothed_accuracy: float
    open_commands: _containers.RepeatedCompositeFieldContainer[OpenCommand]
    trigger: _policy_pb2.TriggerSettings
    evidence: _containers.RepeatedCompositeFieldContainer[SlotEvidence]
    isolation_violations: int
    retry_step: int
    policy_version: str
    first_loss: float
    artifact_timeouts: int
    step_macs_ratio: float
    training_macs: int
    policy_digest: str
    steepest_fall: float
    jumped_from: float
    def __init__(self, training_run_id: _Optional[str] = ..., packet_index: _Optional[int] = ..., step: _Optional[int] = ..., commands_issued: _Optional[int] = ..., seeds_named: _Optional[int] = ..., window: _Optional[_Iterable[_Union[LossPoint, _Mapping]]] = ..., next_slot: _Optional[int] = ..., conservative: bool = ..., conservative_reason: _Optional[_Union[_types_pb2.RiskReason, str]] = ..., conservative_since_step: _Optional[int] = ..., clean_packets: _Optional[int] = ..., last_change_step: _Optional[int] = ..., smoothed_loss: _Optional[float] = ..., smoothed_gradient_norm: _Optional[float] = ..., smoothed_accuracy: _Optional[float] = ..., open_commands: _Optional[_Iterable[_Union[OpenCommand, _Mapping]]] = ..., trigger: _Optional[_Union[_policy_pb2.TriggerSettings, _Mapping]] = ..., evidence: _Optional[_Iterable[_Union[SlotEvidence, _Mapping]]] = ..., isolation_violations: _Optional[int] = ..., retry_step: _Optional[int] = ..., policy_version: _Optional[str] = ..., first_loss: _Optional[float] = ..., artifact_timeouts: _Optional[int] = ..., step_macs_ratio: _Optional[float] = ..., training_macs: _Optional[int] = ..., policy_digest: _Optional[str] = ..., steepest_fall: _Optional[float] = ..., jumped_from: _Optional[float] = ...) -> None: ...

class OpenCommand(_message.Message):
    __slots__ = ("command_id", "seed_id", "operation", "deadline_step")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_STEP_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    seed_id: str
    operation: _types_pb2.SeedOperationKind
    deadline_step: int
    def __init__(self, command_id: _Optional[str] = ..., seed_id: _Optional[str] = ..., operation: _Optional[_Union[_types_pb2.SeedOperationKind, str]] = ..., deadline_step: _Optional[int] = ...) -> None: ...

class LossPoint(_message.Message):
    __slots__ = ("step", "loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    loss: float
    def __init__(self, step: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class SlotEvidence(_message.Message):
    __slots__ = ("slot_id", "judged", "gain_sum", "forward_macs_sum")
    SLOT_ID_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    GAIN_SUM_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_SUM_FIELD_NUMBER: _ClassVar[int]
    slot_id: str
    judged: int
    gain_sum: float
    forward_macs_sum: float
    def __init__(self, slot_id: _Optional[str] = ..., judged: _Optional[int] = ..., gain_sum: _Optional[float] = ..., forward_macs_sum: _Optional[float] = ...) -> None: ...
