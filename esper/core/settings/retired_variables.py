"""Environment variables of older deployments that have no effect, each with what replaces it.

Whoever sets one expects an effect, so the process that would have read it refuses to start. Names of services stand
here one by one: orchestrators inject others that begin alike (KASMINA_PORT, TAMIYO_SERVICE_HOST).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from esper.core.errors import ConfigError

_ROLLBACK = (
    "TOLARIA_ON_NONFINITE, TOLARIA_ON_DIVERGENCE and TOLARIA_ON_CRITICAL_GATE say what takes a run back, "
    "TOLARIA_SNAPSHOT_EVERY_STEPS how often it is kept in memory, TOLARIA_ROLLBACK_FAST_DEADLINE_S and "
    "TOLARIA_ROLLBACK_FULL_DEADLINE_S how long a restore may take; operators sign a RollbackOrder"
)
_REPORTS = "ESPER_TAMIYO_TAMIYO__PUBLISH_RETRY_S sets the first wait; closed reports are published once, as they are"
_LANES = "lanes have fixed names; ESPER_WEATHERLIGHT_WEATHERLIGHT__REDIS_URL chooses Redis"

RETIRED: Mapping[str, Mapping[str, str]] = {
    "TOLARIA_": {
        "TOLARIA_PCGRAD_ENABLED": "use TOLARIA_PCGRAD",
        "TOLARIA_ROLLBACK_*": _ROLLBACK,
        "TOLARIA_EMERGENCY_*": "`esper emergency` raises and acknowledges them; L4 halts every run at a checkpoint",
        "TOLARIA_AGGREGATION_*": "microbatches (TOLARIA_ACCUMULATE) are averaged, or combined with TOLARIA_PCGRAD",
        "TOLARIA_AGG_*": "microbatches (TOLARIA_ACCUMULATE) are averaged, or combined with TOLARIA_PCGRAD",
        "TOLARIA_SEED_*": "what is measured of seeds always stands in events.jsonl and in telemetry",
        "TOLARIA_LR_*": "TOLARIA_LR, TOLARIA_WARMUP_STEPS and TOLARIA_DECAY_FRACTION shape the learning rate",
        "TOLARIA_OPT_REBUILD_*": "the optimiser takes a seed's parameters in at a boundary; it is never rebuilt",
        "TOLARIA_PROFILER_*": "`tolaria-train --profile DIR` writes traces; step times stand in report.html",
        "TOLARIA_ASYNC_WORKER_*": "TOLARIA_DEADLINE_S is the longest wait for the control plane",
    },
    "ESPER_TAMIYO_": {
        "TAMIYO_STRICT_COMMAND_IDS": "every command must have an id of its own, always; remove the variable",
        "TAMIYO_WAL_STRICT_VALIDATION": "the log is always validated strictly; remove the variable",
        "TAMIYO_CONSERVATIVE_MODE": "risk rules decide on that mode; operators sign a PauseOrder to stop growth",
        "TAMIYO_FIELD_REPORT_RETENTION_HOURS": "use ESPER_TAMIYO_TAMIYO__REPORT_RETENTION_HOURS",
        "TAMIYO_FR_OBS_WINDOW_EPOCHS": "a report is closed when its seed's fate is known; remove the variable",
        "TAMIYO_FR_RETRY_BACKOFF_MS": _REPORTS,
        "TAMIYO_FR_RETRY_BACKOFF_MULT": _REPORTS,
        "TAMIYO_FIELD_REPORT_MAX_RETRIES": _REPORTS,
        "TAMIYO_STEP_TIMEOUT_MS": "the trainer's TOLARIA_DEADLINE_S is the longest wait for a decision",
        "TAMIYO_METADATA_TIMEOUT_MS": "the catalogue is in memory: nothing is waited for; remove the variable",
        "TAMIYO_POLICY_DIR": "policies are updated by a signed PolicyUpdate, not from a directory",
        "TAMIYO_VERIFY_UPDATES": "policy updates are always verified; remove the variable",
        "TAMIYO_UPDATE_FRESHNESS_SEC": "the signature of a PolicyUpdate carries its freshness; remove the variable",
        "TAMIYO_ENABLE_BLEND_MODE_ANN": "the policy chooses the blend; operators sign a SeedOperation to change it",
        "TAMIYO_BLEND_MODE_DEFAULT": "the policy chooses the blend; operators sign a SeedOperation to change it",
        "TAMIYO_BLEND_ALPHA_VEC_MAX": "a blend's alpha_vec has at most 64 entries, always; remove the variable",
        "TAMIYO_DEVICE": "the policy needs no device; remove the variable",
        "TAMIYO_ENABLE_COMPILE": "the policy needs no compiler; remove the variable",
        "TAMIYO_CPU_THREADS": "the policy needs no threads of its own; remove the variable",
    },
    "ESPER_KASMINA_": {
        "KASMINA_DYNAMIC_SEEDS": "tolaria-train --grow never (TOLARIA_GROW=never) trains without seeds",
        "KASMINA_STRICT_ISOLATION": "tolaria-train --isolate (TOLARIA_ISOLATE=1) keeps seed gradients apart",
        "URZA_ARTIFACT_DIR": "use ESPER_KASMINA_KASMINA__ARTIFACT_DIR",
        "URZA_DATABASE_URL": "blueprints of your own are in a library: tolaria-train --library (TOLARIA_LIBRARY)",
        "URZA_CACHE_TTL_SECONDS": "the catalogue is in memory; remove the variable",
        "KERNEL_NONCE_CACHE_SIZE": "use ESPER_KASMINA_KASMINA__MAX_NONCES",
        "KERNEL_FRESHNESS_WINDOW_MS": "each signature carries its own freshness window; remove the variable",
    },
    "ESPER_WEATHERLIGHT_": {
        "OONA_NORMAL_STREAM": _LANES,
        "OONA_EMERGENCY_STREAM": _LANES,
        "OONA_TELEMETRY_STREAM": _LANES,
        "OONA_POLICY_STREAM": _LANES,
        "OONA_MESSAGE_TTL_MS": "ESPER_WEATHERLIGHT_WEATHERLIGHT__BUS__RETENTION_S sets how long messages are kept",
        "OONA_EMERGENCY_MAX_PER_MIN": "floods are told once with their count; remove the variable",
        "OONA_EMERGENCY_THRESHOLD": "CRITICAL packets have a lane of their own; nothing is rerouted",
        "NISSA_ALERTS_ENABLED": "alert rules are always judged; remove the variable",
        "NISSA_COVERAGE_ALERT_THRESHOLD": "alert thresholds are the rules' own: docs/runbook.md lists them",
        "NISSA_COVERAGE_ALERT_CONSECUTIVE": "alert thresholds are the rules' own: docs/runbook.md lists them",
        "NISSA_BSDS_ELEVATED_RISK_THRESHOLD": "alert thresholds are the rules' own: docs/runbook.md lists them",
        "NISSA_COVERAGE_FEATURE_KEYS": "coverage is judged over every group of inputs; remove the variable",
    },
}
"""By the prefix of the settings of the process that would have read them: names, or patterns, and what to do."""


def refuse_retired(environ: Mapping[str, str], prefix: str, known: frozenset[str]) -> None:
    """Raise ConfigError for the first variable in `environ` that is retired; `known` are names of settings."""
    for pattern, remedy in RETIRED.get(prefix, {}).items():
        for name in sorted(environ):
            if name not in known and fnmatchcase(name, pattern):
                # A database's address may hold a password.
                value = "(hidden)" if "@" in environ[name] else environ[name]
                raise ConfigError(name, value, f"has no effect here: {remedy}")
