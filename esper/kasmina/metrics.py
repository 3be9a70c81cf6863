"""Kasmina's metrics and events: declared once; dashboards, alerts and the runbook are checked against them."""

from __future__ import annotations

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

INFO = TelemetryLevel.TELEMETRY_LEVEL_INFO
WARNING = TelemetryLevel.TELEMETRY_LEVEL_WARNING
ERROR = TelemetryLevel.TELEMETRY_LEVEL_ERROR
CRITICAL = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL

SEED = ("seed_id",)

SEED_STAGE = MetricSpec("kasmina.seed.stage", "state", "Stage of a seed as the number in SeedStage.", SEED)
SEED_ALPHA = MetricSpec("kasmina.seed.alpha", "ratio", "Share of a seed in its blend, 0..1.", SEED)
SEED_HEALTH = MetricSpec("kasmina.seed.health", "state", "Health of a seed as the number in HealthStatus.", SEED)
SEED_ISOLATION_VIOLATIONS = MetricSpec(
    "kasmina.seed.isolation_violations", "count", "Gradient leaks of a seed in its present stage.", SEED
)
SEED_INTERFERENCE = MetricSpec(
    "kasmina.seed.interference", "ratio", "Cosine of the host's gradients with and without the seed, -1..1.", SEED
)
BLEND_ALPHA_MEAN = MetricSpec(
    "kasmina.blend.alpha_mean", "ratio", "Mean weight of a seed in its blend, over channels or samples, 0..1.", SEED
)
BLEND_ALPHA_P95 = MetricSpec("kasmina.blend.alpha_p95", "ratio", "95th percentile of these weights.", SEED)
BLEND_SPARSITY = MetricSpec("kasmina.blend.sparsity", "ratio", "Share of these weights that are 0.", SEED)
BLEND_CLAMPED = MetricSpec("kasmina.blend.clamped_fraction", "ratio", "Share of these weights that a bound cut.", SEED)
BLEND_GATE_MEAN = MetricSpec(
    "kasmina.blend.gate_mean", "ratio", "Mean of a confidence gate over the last batch, before alpha and bounds.", SEED
)
SEED_INCUBATION = MetricSpec("kasmina.seed.incubation_steps", "count", "Steps that a seed has incubated.", SEED)
SEED_DISTILLATION = MetricSpec(
    "kasmina.seed.distillation_loss", "nats", "Divergence of a host with its incubating seed from the teacher.", SEED
)
SEEDS_ACTIVE = MetricSpec("kasmina.seeds.active", "count", "Seeds in the host or on their way in or out.")
ISOLATION_VIOLATIONS = MetricSpec("kasmina.isolation.violations", "count", "Gradient leaks of all living seeds.")
ACCEPTED = MetricSpec("kasmina.command_verifier.accepted_total", "count", "Envelopes believed since the start.")
REJECTIONS = MetricSpec(
    "kasmina.command_verifier.rejections_total", "count", "Envelopes not believed since the start.", ("reason",)
)
REFUSALS = MetricSpec("kasmina.commands.refused_total", "count", "Believed commands that don't act.", ("reason",))
VALIDATION_LATENCY = MetricSpec(
    "kasmina.command_verifier.validation_latency_ms", "ms", "From receipt of the last command to its commit."
)
NONCES = MetricSpec("kasmina.nonce_ledger.size", "count", "Live nonces.")
NONCE_EVICTIONS = MetricSpec("kasmina.nonce_ledger.evictions_total", "count", "Live nonces given up for the fence.")
NONCE_TTL = MetricSpec("kasmina.nonce_ledger.ttl_seconds", "s", "How long a nonce is remembered at most.")
PREFETCH_REQUESTS = MetricSpec("kasmina.prefetch.requests_total", "count", "Prefetches since the start.", ("status",))
PREFETCH_INFLIGHT = MetricSpec("kasmina.prefetch.inflight", "count", "Prefetches going on.")
PREFETCH_LATENCY = MetricSpec("kasmina.prefetch.latency_ms", "ms", "Request to verified artefact, mean.")
PREFETCH_LAST_LATENCY = MetricSpec("kasmina.prefetch.last_latency_ms", "ms", "Request to verified artefact, last one.")
PREFETCH_VERIFY = MetricSpec("kasmina.prefetch.verify_ms", "ms", "Urza's verification of files, last one.")
PREFETCH_ATTACH_LATENCY = MetricSpec(
    "kasmina.prefetch.attach_latency_ms", "ms", "Request to the seed's attachment at a boundary, last one."
)
CACHE_LOCK_WAIT = MetricSpec("kasmina.cache.lock_wait_ms", "ms", "Wait for the lock of an artefact, last one.")
CACHE_SIZE = MetricSpec("kasmina.cache.kernel_size", "count", "Verified artefacts at hand, built-in ones aside.")
CACHE_EVICTIONS = MetricSpec("kasmina.cache.kernel_evictions", "count", "Artefacts given up for others.")
CACHE_HIT_RATE = MetricSpec("kasmina.cache.kernel_hit_rate", "ratio", "Share of artefacts that were at hand, 0..1.")
WORKER_CALLS = MetricSpec(
    "kasmina.worker.calls_total", "count", "Blocking calls since the start, by what became of them.", ("fate",)
)
BREAKER_STATE = MetricSpec("kasmina.breaker.state", "state", "State as the number in CircuitState.", ("breaker",))
BREAKER_FAILURES = MetricSpec("kasmina.breaker.failures", "count", "Failures in a row.", ("breaker",))

METRICS: tuple[MetricSpec, ...] = (
    SEED_STAGE,
    SEED_ALPHA,
    SEED_HEALTH,
    SEED_ISOLATION_VIOLATIONS,
    SEED_INTERFERENCE,
    BLEND_ALPHA_MEAN,
    BLEND_ALPHA_P95,
    BLEND_SPARSITY,
    BLEND_CLAMPED,
    BLEND_GATE_MEAN,
    SEED_INCUBATION,
    SEED_DISTILLATION,
    SEEDS_ACTIVE,
    ISOLATION_VIOLATIONS,
    ACCEPTED,
    REJECTIONS,
    REFUSALS,
    VALIDATION_LATENCY,
    NONCES,
    NONCE_EVICTIONS,
    NONCE_TTL,
    PREFETCH_REQUESTS,
    PREFETCH_INFLIGHT,
    PREFETCH_LATENCY,
    PREFETCH_LAST_LATENCY,
    PREFETCH_VERIFY,
    PREFETCH_ATTACH_LATENCY,
    CACHE_LOCK_WAIT,
    CACHE_SIZE,
    CACHE_EVICTIONS,
    CACHE_HIT_RATE,
    WORKER_CALLS,
    BREAKER_STATE,
    BREAKER_FAILURES,
)

RUN_OPENED = EventSpec("run_opened", INFO, "A run was opened or resumed.", ("generation", "replayed"))
RUN_CLOSED = EventSpec("run_closed", INFO, "A run was closed.", ("reason",))
SEED_STAGE_CHANGED = EventSpec(
    "seed_stage", INFO, "A seed moved from one stage to another.", ("seed_id", "from_stage", "to_stage", "command_id")
)
SEED_OPERATION = EventSpec(
    "seed_operation", INFO, "A command acts on a seed.", ("seed_id", "operation", "command_id", "issued_by")
)
BLEND_CONFIG = EventSpec(
    "blend_config",
    INFO,
    "How a seed is blended in, and who said so; `alpha_vec_len` is 0 but for CHANNEL.",
    ("seed_id", "mode", "schedule", "source", "alpha_vec_len"),
)
GATE_WITHOUT_LOGITS = EventSpec(
    "confidence_gate_missing_logits",
    WARNING,
    "Samples without a confidence: the host's logits are not finite or of one class; there the seed is silent.",
    ("seed_id", "samples"),
)
SEED_PAUSED = EventSpec("seed_paused", WARNING, "A seed is out of the forward pass, its state kept.", ("seed_id",))
SEED_RESUMED = EventSpec("seed_resumed", INFO, "A paused seed goes on where it was.", ("seed_id", "paused_steps"))
COMMAND_REJECTED = EventSpec(
    "command_rejected",
    CRITICAL,
    "A request was not believed: signature, replay, time or form; `count` where one event tells of many.",
    ("reason", "command_id", "count"),
)
COMMAND_REFUSED = EventSpec(
    "command_refused",
    WARNING,
    "A believed command doesn't act; `count` where one event tells of many.",
    ("reason", "command_id", "issued_by", "count"),
)
GATE_EVENT = EventSpec(
    "gate_event",
    INFO,
    "A gate passed, wants one more window, or waits for its evidence.",
    ("seed_id", "gate", "verdict"),
)
GATE_FAILURE = EventSpec("gate_failure", WARNING, "A gate failed: the seed waits for its cull.", ("seed_id", "gate"))
DIRECTIVE_FAILED = EventSpec(
    "directive_failed", ERROR, "The executor could not carry out a directive and undid it.", ("seed_id", "kind")
)
RESET_INCOMPLETE = EventSpec(
    "reset_incomplete", CRITICAL, "Something of a removed seed is left; its slot stays closed.", ("seed_id", "slot_id")
)
GROWTH_ENDED = EventSpec("growth_ended", WARNING, "Too many seeds in a row were culled: growth is over.", ("culls",))
GROWTH_PAUSED = EventSpec("growth_paused", WARNING, "No new seeds until growth is resumed.", ("command_id",))
GROWTH_RESUMED = EventSpec("growth_resumed", INFO, "New seeds are allowed again.", ("command_id",))
EMERGENCY_ORDERED = EventSpec("emergency_ordered", CRITICAL, "A command raised an emergency.", ("level", "command_id"))
ROLLBACK_ORDERED = EventSpec(
    "rollback_ordered", WARNING, "A command asks for the last good checkpoint.", ("command_id",)
)
REPLAY_DIVERGED = EventSpec(
    "replay_diverged", CRITICAL, "A replayed command came out differently than recorded.", ("command_id",)
)
ANSWER_REPEATED = EventSpec(
    "answer_repeated", WARNING, "The trainer lost an answer; it was given again.", ("lost_step",)
)
TEACHER_REGISTERED = EventSpec("teacher_registered", INFO, "A teacher was registered.", ("teacher_id",))
TEACHER_DEREGISTERED = EventSpec("teacher_deregistered", WARNING, "The teacher was forgotten, the fence raised.")
REGISTRY_RESET = EventSpec("registry_reset", WARNING, "Every seed is being removed, the fence raised.", ("removed",))
NONCE_LEDGER_TRUNCATED = EventSpec(
    "nonce_ledger_truncated", WARNING, "Live nonces were given up; the fence rose.", ("removed", "size")
)
PREFETCH_REQUESTED = EventSpec("prefetch_requested", INFO, "An artefact is asked for.", ("blueprint_id",))
PREFETCH_READY = EventSpec("prefetch_ready", INFO, "An artefact is verified and at hand.", ("blueprint_id",))
PREFETCH_ERROR = EventSpec("prefetch_error", WARNING, "An artefact is missing or damaged.", ("blueprint_id",))
PREFETCH_TIMEOUT = EventSpec("prefetch_timeout", CRITICAL, "Urza didn't answer in time.", ("blueprint_id",))
PREFETCH_CANCELED = EventSpec("prefetch_canceled", INFO, "Nobody wants an artefact any more.", ("blueprint_id",))
CACHE_LOCK_CONTENTION = EventSpec(
    "cache_lock_contention", WARNING, "An artefact's lock was waited for too long.", ("artifact", "wait_ms")
)
BREAKER_EVENT = EventSpec("breaker_event", WARNING, "A circuit breaker changed its state.", ("breaker", "state"))

EVENTS: tuple[EventSpec, ...] = (
    RUN_OPENED,
    RUN_CLOSED,
    SEED_STAGE_CHANGED,
    SEED_OPERATION,
    BLEND_CONFIG,
    GATE_WITHOUT_LOGITS,
    SEED_PAUSED,
    SEED_RESUMED,
    COMMAND_REJECTED,
    COMMAND_REFUSED,
    GATE_EVENT,
    GATE_FAILURE,
    DIRECTIVE_FAILED,
    RESET_INCOMPLETE,
    GROWTH_ENDED,
    GROWTH_PAUSED,
    GROWTH_RESUMED,
    EMERGENCY_ORDERED,
    ROLLBACK_ORDERED,
    REPLAY_DIVERGED,
    ANSWER_REPEATED,
    TEACHER_REGISTERED,
    TEACHER_DEREGISTERED,
    REGISTRY_RESET,
    NONCE_LEDGER_TRUNCATED,
    PREFETCH_REQUESTED,
    PREFETCH_READY,
    PREFETCH_ERROR,
    PREFETCH_TIMEOUT,
    PREFETCH_CANCELED,
    CACHE_LOCK_CONTENTION,
    BREAKER_EVENT,
)
