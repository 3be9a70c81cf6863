"""Every metric and event that the trainer emits, declared once."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

_INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
_WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING
_ERROR = TelemetryLevel.TELEMETRY_LEVEL_ERROR
_CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL

TRAINING_LOSS = MetricSpec("tolaria.training.loss", "loss", "smoothed training loss")
TRAINING_ACCURACY = MetricSpec("tolaria.training.accuracy", "ratio", "accuracy on the judging data after an epoch")
TRAINING_LATENCY = MetricSpec("tolaria.training.latency_ms", "ms", "mean step time since the last packet")
HOOK_LATENCY = MetricSpec(
    "tolaria.hook.latency_ms", "ms", "own work at one boundary: packet and directives, without waiting"
)
APPLY_LATENCY = MetricSpec("tolaria.apply.latency_ms", "ms", "directives executed at one boundary")
WAIT_LATENCY = MetricSpec("tolaria.wait.latency_ms", "ms", "waiting for the control plane at one boundary")
INPUT_WAIT = MetricSpec(
    "tolaria.training.input_wait_ms", "ms", "mean wait of a step for its batch: by the device where it fetches ahead"
)
H2D_COPY = MetricSpec("tolaria.training.h2d_copy_ms", "ms", "mean copy of a batch that is fetched ahead, by the device")
EPOCH_LATENCY = MetricSpec("tolaria.epoch.latency_ms", "ms", "time of the last epoch, its evaluation included")
EPOCHS_TOTAL = MetricSpec("tolaria.epochs.total", "count", "epochs done")
SEEDS_ACTIVE = MetricSpec("tolaria.seeds.active", "count", "seeds that are neither permanent nor removed")
SEED_ALPHA = MetricSpec("tolaria.seed.alpha", "ratio", "alpha that a seed's next step uses", ("seed_id", "stage"))
MODE_CONSERVATIVE = MetricSpec("tolaria.mode.conservative", "bool", "1 in conservative mode")
PARAMETERS = MetricSpec("tolaria.model.parameters", "count", "trainable parameters, seeds included")
TRAINING_MACS = MetricSpec("tolaria.training.macs", "count", "training multiply-accumulates so far, growth included")
TIMEOUT_TOTAL = MetricSpec("tolaria.timeout.total", "count", "packets without an answer in time")
TIMEOUTS = {
    "tamiyo": MetricSpec("tolaria.timeout.tamiyo_total", "count", "deadlines that Tamiyo missed"),
    "kasmina": MetricSpec("tolaria.timeout.kasmina_total", "count", "deadlines that Kasmina missed"),
}
LAST_CALL = {
    "tamiyo": MetricSpec("tolaria.timeout.tamiyo_last_ms", "ms", "the last call to Tamiyo, 0 if it was late"),
    "kasmina": MetricSpec("tolaria.timeout.kasmina_last_ms", "ms", "the last call to Kasmina, 0 if it was late"),
}
BREAKER_STATE = MetricSpec(
    "tolaria.breaker.state", "state", "breaker of a service, as the number in CircuitState", ("service",)
)
WORKER_CALLS = MetricSpec("tolaria.worker.calls_total", "count", "packets worked on, by what became of them", ("fate",))
ANSWERS_REFUSED = MetricSpec(
    "tolaria.answers.refused_total", "count", "packets whose answer couldn't be used, of any service"
)
LR_ENABLED = MetricSpec(
    "tolaria.lr_controller.enabled",
    "bool",
    "1 while schedule, order or rollback changes the rate, from packet to packet",
)
LR_CURRENT = MetricSpec("tolaria.lr_controller.current_lr", "lr", "learning rate of the last step")
OPT_REBUILDS = MetricSpec(
    "tolaria.opt.rebuilds_total", "count", "times that the optimiser was wired anew: grafts, folds, removals"
)
OPT_FAILURES = MetricSpec("tolaria.opt.rebuild_failures_total", "count", "those that failed and were undone")
OPT_LATENCY = MetricSpec(
    "tolaria.opt.rebuild_latency_ms", "ms", "directives of the last boundary at which the optimiser was wired anew"
)
PROFILER_ENABLED = MetricSpec("tolaria.profiler.enabled", "bool", "1 in a run that traces some of its steps")
PROFILER_TRACES = MetricSpec("tolaria.profiler.traces_emitted_total", "count", "traces written")
PROFILER_FAILURES = MetricSpec("tolaria.profiler.traces_failed_total", "count", "traces that could not be written")
CHECKPOINT_BYTES = MetricSpec("tolaria.checkpoint.size_bytes", "bytes", "size of the last checkpoint")
CHECKPOINT_LATENCY = MetricSpec("tolaria.checkpoint.latency_ms", "ms", "time to make the last checkpoint durable")
EMERGENCY_LEVEL = MetricSpec("tolaria.emergency.level", "enum", "gravest open emergency that the run knows, 0 for none")
EMERGENCY_HALTED = MetricSpec("tolaria.emergency.halt", "bool", "1 once an emergency has halted the run")
EMERGENCY_SENT = MetricSpec(
    "tolaria.emergency.broadcasts_total", "count", "emergencies of the trainer's that Weatherlight has"
)
EMERGENCY_FAILURES = MetricSpec(
    "tolaria.emergency.broadcast_failures_total", "count", "failed tries to give Weatherlight an emergency"
)
EMERGENCY_QUEUED = MetricSpec("tolaria.emergency.queued", "count", "emergencies that wait for Weatherlight")
EMERGENCY_LATENCY = MetricSpec(
    "tolaria.emergency.last_broadcast_latency_ms", "ms", "time that Weatherlight took for the trainer's last emergency"
)

ROLLBACK_SIZE = MetricSpec("tolaria.rollback.fast_size_bytes", "bytes", "size of the snapshots in memory")
ROLLBACK_SNAPSHOTS = MetricSpec("tolaria.rollback.snapshots_total", "count", "snapshots kept in memory")
ROLLBACK_SNAPSHOT_LATENCY = MetricSpec(
    "tolaria.rollback.snapshot_latency_ms", "ms", "time of the training thread for the last snapshot"
)
ROLLBACK_HITS = MetricSpec("tolaria.rollback.fast_hits_total", "count", "restores from memory")
ROLLBACK_MISSES = MetricSpec(
    "tolaria.rollback.fast_misses_total", "count", "restores that memory could not serve in time, or at all"
)
ROLLBACK_FAILURES = MetricSpec("tolaria.rollback.failures_total", "count", "restores that nothing could serve")
ROLLBACK_LATE = MetricSpec(
    "tolaria.rollback.deadline_exceeded_total", "count", "restores that missed the deadline of their tier"
)
ROLLBACK_LATENCY = MetricSpec("tolaria.rollback.restore_latency_ms", "ms", "time that the last restore took")

EPOCH_HOOK_LATENCY = MetricSpec(
    "tolaria.epoch_hook.latency_ms", "ms", "own work at a boundary, without waiting and directives, mean of an epoch"
)
COMPILE_GRAPHS = MetricSpec("tolaria.compile.graphs_total", "count", "graphs compiled of the run's blocks")
COMPILE_BREAKS = MetricSpec(
    "tolaria.compile.breaks_total", "count", "places at which compiled blocks are cut into graphs"
)
COMPILE_AGAIN = MetricSpec("tolaria.compile.recompilations_total", "count", "graphs compiled of code that had one")
COMPILE_FALLBACKS = MetricSpec("tolaria.compile.fallback_total", "count", "times that compiled code was given up")
GRAPH_CAPTURES = MetricSpec("tolaria.graph.captures_total", "count", "training steps recorded as CUDA graphs")
GRAPH_CAPTURE_MS = MetricSpec("tolaria.graph.capture_ms", "ms", "time of the training thread for the last recording")
GRAPH_REPLAYS = MetricSpec("tolaria.graph.replays_total", "count", "steps that a CUDA graph made, of both arms")
GRAPH_EAGER = MetricSpec(
    "tolaria.graph.eager_total", "count", "steps made without a CUDA graph where graphs are on, by why", ("reason",)
)
GRAPH_FALLBACKS = MetricSpec(
    "tolaria.graph.fallback_total",
    "count",
    "networks whose step, or what it measures of seeds, could not be recorded, by why",
    ("reason",),
)
GRAPH_POOL = MetricSpec("tolaria.graph.pool_bytes", "bytes", "the most memory that graphs have held for themselves")
_AGG = "tolaria.grad_agg"
AGG_MICROBATCHES = MetricSpec(f"{_AGG}.microbatches_total", "count", "microbatches passed")
AGG_PCGRAD = MetricSpec(f"{_AGG}.pcgrad_applied", "bool", "1 where conflicts between gradients are projected out")
AGG_CONFLICTS = MetricSpec(f"{_AGG}.conflicts", "count", "pairs of sources in conflict, over the last epoch")
AGG_CONFLICT_RATIO = MetricSpec(f"{_AGG}.conflict_ratio", "ratio", "share of pairs in conflict, over the last epoch")
AGG_WEIGHTS_MEAN = MetricSpec(f"{_AGG}.weights_mean", "ratio", "mean weight of the seeds in surgery")
AGG_TEACHER_SHARE = MetricSpec(
    f"{_AGG}.teacher_share", "ratio", "the host's own part in what it and its seeds pull at in the host"
)
_SEED = ("seed_id", "stage")
SEED_WEIGHT = MetricSpec(f"{_AGG}.seed.weight", "ratio", "weight of a seed in surgery", _SEED)
SEED_NORM = MetricSpec(f"{_AGG}.seed.norm", "grad", "norm of what came through a seed, its own slice included", _SEED)
SEED_SHARE = MetricSpec(f"{_AGG}.seed.share", "ratio", "a seed's norm in the sum of all, the host's included", _SEED)
SEED_SHARE_DELTA = MetricSpec(f"{_AGG}.seed.share_delta", "ratio", "change of a seed's share since the last", _SEED)
SEED_ALPHA_MEAN = MetricSpec(f"{_AGG}.seed.alpha", "ratio", "mean weight that a seed's blend gives it", _SEED)
SEED_CONFLICTS = MetricSpec(
    f"{_AGG}.seed.conflicts", "count", "measured steps and others that pull the host the other way", _SEED
)
SEED_CONFLICT_RATIO = MetricSpec(f"{_AGG}.seed.conflict_ratio", "ratio", "their share", _SEED)
SEED_PARAMS = MetricSpec(f"{_AGG}.seed.params", "elems", "a seed's own parameters", _SEED)
SEED_MASK_FRACTION = MetricSpec(f"{_AGG}.seed.mask_fraction", "ratio", "their share in all that learn", _SEED)
SEED_TEACHER_SHARE = MetricSpec(
    f"{_AGG}.seed.teacher_share", "ratio", "what a seed pulls at in the host, in the sum of what all do", _SEED
)
SEED_LAYER_NORM = MetricSpec(
    f"{_AGG}.seed.layer_norm", "grad", "norm of a seed's gradient of one parameter, the largest few", (*_SEED, "layer")
)

METRICS = (
    EPOCH_HOOK_LATENCY,
    COMPILE_GRAPHS,
    COMPILE_BREAKS,
    COMPILE_AGAIN,
    COMPILE_FALLBACKS,
    GRAPH_CAPTURES,
    GRAPH_CAPTURE_MS,
    GRAPH_REPLAYS,
    GRAPH_EAGER,
    GRAPH_FALLBACKS,
    GRAPH_POOL,
    AGG_MICROBATCHES,
    AGG_PCGRAD,
    AGG_CONFLICTS,
    AGG_CONFLICT_RATIO,
    AGG_WEIGHTS_MEAN,
    AGG_TEACHER_SHARE,
    SEED_WEIGHT,
    SEED_NORM,
    SEED_SHARE,
    SEED_SHARE_DELTA,
    SEED_ALPHA_MEAN,
    SEED_CONFLICTS,
    SEED_CONFLICT_RATIO,
    SEED_PARAMS,
    SEED_MASK_FRACTION,
    SEED_TEACHER_SHARE,
    SEED_LAYER_NORM,
    TRAINING_LOSS,
    TRAINING_ACCURACY,
    TRAINING_LATENCY,
    HOOK_LATENCY,
    APPLY_LATENCY,
    WAIT_LATENCY,
    INPUT_WAIT,
    H2D_COPY,
    LR_ENABLED,
    LR_CURRENT,
    OPT_REBUILDS,
    OPT_FAILURES,
    OPT_LATENCY,
    PROFILER_ENABLED,
    PROFILER_TRACES,
    PROFILER_FAILURES,
    EPOCH_LATENCY,
    EPOCHS_TOTAL,
    SEEDS_ACTIVE,
    SEED_ALPHA,
    MODE_CONSERVATIVE,
    PARAMETERS,
    TRAINING_MACS,
    TIMEOUT_TOTAL,
    *TIMEOUTS.values(),
    *LAST_CALL.values(),
    BREAKER_STATE,
    WORKER_CALLS,
    ANSWERS_REFUSED,
    CHECKPOINT_BYTES,
    CHECKPOINT_LATENCY,
    EMERGENCY_LEVEL,
    EMERGENCY_HALTED,
    EMERGENCY_SENT,
    EMERGENCY_FAILURES,
    EMERGENCY_QUEUED,
    EMERGENCY_LATENCY,
    ROLLBACK_SIZE,
    ROLLBACK_SNAPSHOTS,
    ROLLBACK_SNAPSHOT_LATENCY,
    ROLLBACK_HITS,
    ROLLBACK_MISSES,
    ROLLBACK_FAILURES,
    ROLLBACK_LATE,
    ROLLBACK_LATENCY,
)

RUN_STARTED = EventSpec("tolaria.run_started", _INFO, "a run begins or goes on", ("generation", "total_steps"))
RUN_FINISHED = EventSpec("tolaria.run_finished", _INFO, "a run is over", ("weights_digest", "kept"))
SEED_GRAFTED = EventSpec("tolaria.seed_grafted", _INFO, "a seed joined the host", ("seed_id", "max_logit_delta"))
SEED_FOLDED = EventSpec("tolaria.seed_folded", _INFO, "a seed became part of the host", ("seed_id", "folded"))
SEED_REMOVED = EventSpec("tolaria.seed_removed", _INFO, "a seed is gone from the host", ("seed_id",))
COMPILED = EventSpec(
    "tolaria.compiled",
    _INFO,
    "the run's blocks were compiled, once more or otherwise",
    ("name", "graphs", "graph_breaks", "recompilations", "fallbacks"),
)
GRAPH_CAPTURED = EventSpec(
    "tolaria.graph_captured", _INFO, "training steps were recorded as CUDA graphs", ("name", "captures", "capture_ms")
)
GRAPH_FALLBACK = EventSpec(
    "tolaria.graph_fallback", _WARNING, "a training step can't be recorded and stays eager", ("name", "reason")
)
DIRECTIVE_FAILED = EventSpec(
    "tolaria.directive_failed", _ERROR, "a directive failed and was undone", ("seed_id", "directive")
)
NOTICE_INFO = EventSpec("tolaria.notice", _INFO, "something out of the ordinary", ("name",))
NOTICE_WARNING = EventSpec("tolaria.warning", _WARNING, "something that needs a look", ("name",))
NOTICE_ERROR = EventSpec("tolaria.error", _ERROR, "something failed and was handled", ("name",))
NOTICE_CRITICAL = EventSpec("tolaria.critical", _CRITICAL, "someone has to act", ("name",))
EMERGENCY_ESCALATED = EventSpec("tolaria.emergency.escalated", _CRITICAL, "the trainer raises an emergency", ("name",))
TAMIYO_TIMEOUT = EventSpec("tolaria.tamiyo_timeout", _WARNING, "Tamiyo missed a deadline", ("name",))
KASMINA_TIMEOUT = EventSpec("tolaria.kasmina_timeout", _WARNING, "Kasmina missed a deadline", ("name",))
BREAKER_OPENED = EventSpec(
    "tolaria.breaker_opened", _WARNING, "a service that hangs isn't asked for a while", ("name",)
)
BREAKER_CLOSED = EventSpec("tolaria.breaker_closed", _INFO, "a service that hung answers again", ("name",))
EMERGENCY_HALT = EventSpec("tolaria.emergency.halt", _CRITICAL, "an emergency halts the run", ("name",))
ROLLBACK_MISSED = EventSpec(
    "tolaria.rollback.deadline_exceeded", _CRITICAL, "no older state could be restored in time", ("name",)
)
ROLLBACK_FAILED = EventSpec(
    "tolaria.rollback.restore_failed", _CRITICAL, "no older state could be restored at all", ("name",)
)

SEED_CONFLICT_HIGH = EventSpec(
    "seed_conflict_high",
    _WARNING,
    "a seed pulls the host against the others in many of the measured steps",
    ("name", *_SEED, "conflict_ratio"),
)
SEED_SHARE_JUMP = EventSpec(
    "seed_share_jump",
    _WARNING,
    "a seed's share of the gradient changed much in an epoch",
    ("name", *_SEED, "share", "share_delta"),
)
SEED_HEALTH = EventSpec(
    "seed_health",
    _INFO,
    "a seed's figures of an epoch, in small",
    (*_SEED, "share", "alpha", "conflicts", "weight", "alpha_p95", "sparsity", "clamped_fraction"),
)
EPOCH_HOOK_LATENCY_HIGH = EventSpec(
    "epoch_hook_latency_high", _WARNING, "boundaries' own work took long in an epoch", ("name", "latency_ms")
)
EPOCH_BUDGET_EXCEEDED = EventSpec(
    "tolaria.epoch_budget_exceeded", _WARNING, "an epoch took longer than its budget", ("name", "latency_ms")
)
TRACE_WRITTEN = EventSpec("tolaria.profiler.trace_written", _INFO, "a trace of some steps was written", ("name",))
TRACE_FAILED = EventSpec("tolaria.profiler.export_failed", _WARNING, "a trace could not be written", ("name",))

EVENTS = (
    EPOCH_BUDGET_EXCEEDED,
    TRACE_WRITTEN,
    TRACE_FAILED,
    SEED_CONFLICT_HIGH,
    SEED_SHARE_JUMP,
    SEED_HEALTH,
    EPOCH_HOOK_LATENCY_HIGH,
    RUN_STARTED,
    RUN_FINISHED,
    SEED_GRAFTED,
    SEED_FOLDED,
    SEED_REMOVED,
    COMPILED,
    GRAPH_CAPTURED,
    GRAPH_FALLBACK,
    DIRECTIVE_FAILED,
    NOTICE_INFO,
    NOTICE_WARNING,
    NOTICE_ERROR,
    NOTICE_CRITICAL,
    EMERGENCY_ESCALATED,
    EMERGENCY_HALT,
    ROLLBACK_MISSED,
    ROLLBACK_FAILED,
    TAMIYO_TIMEOUT,
    KASMINA_TIMEOUT,
    BREAKER_OPENED,
    BREAKER_CLOSED,
)
