"""The panels of the overview, by row. Titles are written here; names, units and meanings come from the registries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.telemetry import MetricSpec
from esper.kasmina import metrics as kasmina
from esper.nissa import metrics as nissa
from esper.oona import metrics as oona
from esper.simic import metrics as simic
from esper.tamiyo import metrics as tamiyo
from esper.tolaria import metrics as tolaria
from esper.urza import metrics as urza
from esper.weatherlight import metrics as weatherlight

STAT, SERIES = "stat", "timeseries"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression of PromQL and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Registered metrics are drawn as they are; a Query says something about them."""

    title: str
    shown: Sequence[MetricSpec | Query]
    kind: str = SERIES
    unit: str | None = None


def legend_of(spec: MetricSpec) -> str:
    """The name's last words, and the labels that tell its series apart."""
    words = " ".join(spec.name.split(".")[1:]).replace("_", " ")
    return " ".join([words, *(f"{{{{{label}}}}}" for label in (*spec.attributes, "run"))])


def events(title: str, **labels: str) -> Query:
    """How often events happen, by name."""
    matched = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return Query(f"sum by (event) (increase(esper_telemetry_events_total{{{matched}}}[1m]))", title)


def under(prefix: str, registry: object) -> list[MetricSpec]:
    """Every registered metric whose name begins so."""
    return [spec for spec in registry.METRICS if spec.name.startswith(prefix)]  # type: ignore[attr-defined]


ROWS: dict[str, tuple[Panel, ...]] = {
    "Plane": (
        Panel("Mode (1 normal, 2 degraded, 3 emergency)", [weatherlight.MODE], STAT),
        Panel("Services lost", [weatherlight.SERVICES_LOST], STAT),
        Panel("Alerts standing", [nissa.ALERTS_ACTIVE], STAT),
        Panel("Telemetry packets taken", [Query("sum(esper_telemetry_packets_total)", "packets")], STAT),
        Panel("Field reports taken", [Query("sum(esper_field_reports_total)", "reports")], STAT),
        Panel("Open emergencies", [weatherlight.EMERGENCIES_OPEN], STAT),
    ),
    "Objectives": (
        Panel("How fast error budgets burn (1: used up in 30 days)", [Query("esper:slo_burn:rate1h", "{{slo}}, 1 h")]),
        Panel("Alerts of Prometheus", [Query('sum by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}")]),
    ),
    "Run": (
        Panel("Training loss", [tolaria.TRAINING_LOSS]),
        Panel("Accuracy on the judging data", [tolaria.TRAINING_ACCURACY]),
        Panel(
            "Step time, and time at boundaries", [tolaria.TRAINING_LATENCY, tolaria.HOOK_LATENCY, tolaria.WAIT_LATENCY]
        ),
        Panel("Parameters", [tolaria.PARAMETERS]),
        Panel("Time of an epoch", [tolaria.EPOCH_LATENCY]),
        Panel("Learning rate", [tolaria.LR_CURRENT]),
        Panel("Wait for a batch, and its copy where batches are fetched ahead", [tolaria.INPUT_WAIT, tolaria.H2D_COPY]),
    ),
    "Seeds": (
        Panel("Alpha", [kasmina.SEED_ALPHA]),
        Panel("Stage (as SeedStage numbers them)", [kasmina.SEED_STAGE]),
        Panel("Health (3 and above is unwell)", [kasmina.SEED_HEALTH]),
        Panel("Isolation violations", [kasmina.ISOLATION_VIOLATIONS]),
        Panel("Blends", under("kasmina.blend.", kasmina)),
        Panel("Gates, stages and refusals, a minute", [events("{{event}}", source="kasmina")]),
        Panel(
            "Gradients: share, conflicts, part in what the host is pulled at",
            [tolaria.SEED_SHARE, tolaria.SEED_CONFLICT_RATIO, tolaria.SEED_TEACHER_SHARE, tolaria.AGG_TEACHER_SHARE],
        ),
        Panel("Surgery: share of pairs in conflict", [tolaria.AGG_CONFLICT_RATIO, tolaria.AGG_WEIGHTS_MEAN]),
    ),
    "Decisions": (
        Panel("Coverage of Tamiyo's inputs", [tamiyo.FEATURE_COVERAGE]),
        Panel("Coverage by group", under("tamiyo.coverage.group.", tamiyo)),
        Panel("Risk", [tamiyo.RISK_SCORE, tamiyo.BLUEPRINT_RISK]),
        Panel("Time to decide", [tamiyo.INFERENCE_LATENCY, tamiyo.LATE_INFERENCE]),
        Panel(
            "Deadlines missed, and breakers (1 closed, 2 open, 3 half-open)",
            [*tolaria.TIMEOUTS.values(), tolaria.BREAKER_STATE],
        ),
        Panel(
            "Field reports by outcome, a minute",
            [Query("sum by (outcome) (increase(esper_field_reports_total[1m]))", "{{outcome}}")],
        ),
    ),
    "Commands": (
        Panel(
            "Believed and refused",
            [
                kasmina.ACCEPTED,
                kasmina.REJECTIONS,
                kasmina.REFUSALS,
            ],
        ),
        Panel("Nonces held", [kasmina.NONCES, kasmina.NONCE_EVICTIONS]),
    ),
    "Prefetch": (
        Panel(
            "By end, and answers of Urza",
            [kasmina.PREFETCH_REQUESTS, kasmina.PREFETCH_INFLIGHT, urza.ANSWERED],
        ),
        Panel(
            "Request to artefact (mean, last), to attachment, wait for the lock",
            [
                kasmina.PREFETCH_LATENCY,
                kasmina.PREFETCH_LAST_LATENCY,
                kasmina.PREFETCH_ATTACH_LATENCY,
                kasmina.CACHE_LOCK_WAIT,
            ],
        ),
        Panel("Cache of artefacts", under("kasmina.cache.kernel", kasmina)),
        Panel("Breakers of Kasmina", under("kasmina.breaker.", kasmina)),
    ),
    "Rollback": (
        Panel(
            "From memory, not from memory, failed, late",
            [tolaria.ROLLBACK_HITS, tolaria.ROLLBACK_MISSES, tolaria.ROLLBACK_FAILURES, tolaria.ROLLBACK_LATE],
        ),
        Panel(
            "Time of the last restore, snapshot and missed deadline",
            [tolaria.ROLLBACK_LATENCY, tolaria.ROLLBACK_SNAPSHOT_LATENCY, weatherlight.ROLLBACK_LATENCY],
        ),
        Panel("Snapshots in memory", [tolaria.ROLLBACK_SIZE]),
        Panel("Checkpoints", [tolaria.CHECKPOINT_LATENCY]),
    ),
    "Emergency": (
        Panel(
            "Level (0 none, 4 halt): the plane's and each run's",
            [weatherlight.EMERGENCY_LEVEL, tolaria.EMERGENCY_LEVEL],
        ),
        Panel(
            "Raised, by Tamiyo, acknowledged",
            [
                weatherlight.EMERGENCIES_RAISED,
                weatherlight.EMERGENCIES_OF_TAMIYO,
                weatherlight.EMERGENCIES_ACKNOWLEDGED,
            ],
        ),
        Panel(
            "Time to arrive: at Weatherlight, and as the trainer saw it",
            [weatherlight.EMERGENCY_LATENCY, tolaria.EMERGENCY_LATENCY],
        ),
        Panel("CRITICAL events, a minute", [events("{{event}}", level="critical")]),
    ),
    "Graphs": (
        Panel("Compiled graphs, recompilations, breaks, fallbacks", under("tolaria.compile.", tolaria)),
        Panel("CUDA graphs: captures, replays, eager steps and fallbacks by reason", under("tolaria.graph.", tolaria)),
        Panel("Step time beside them", [tolaria.TRAINING_LATENCY]),
    ),
    "Bus and telemetry": (
        Panel("What the slowest group has not handled", [oona.QUEUE_DEPTH]),
        Panel("Time to be durable", [oona.PUBLISH_LATENCY]),
        Panel(
            "Packets by source, a minute",
            [Query("sum by (source) (increase(esper_telemetry_packets_total[1m]))", "{{source}}")],
        ),
        Panel(
            "Dropped, refused, put aside",
            [weatherlight.PACKETS_DROPPED, weatherlight.PACKETS_REFUSED, oona.DEAD_LETTERS],
        ),
        Panel(
            "Calls: 99th percentile",
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, method) (rate(rpc_server_call_duration_seconds_bucket[1m])))",
                    "{{method}}",
                )
            ],
            unit="s",
        ),
        Panel("How late event loops wake up", [Query("rpc_server_loop_lag_seconds", "{{service}}")], unit="s"),
        Panel("Alerts delivered, failed, waiting", under("nissa.delivery.", nissa)),
        Panel("Duties begun anew", [weatherlight.DUTY_RESTARTS]),
    ),
}
REGISTRIES = {
    "tolaria": tolaria,
    "tamiyo": tamiyo,
    "simic": simic,
    "kasmina": kasmina,
    "weatherlight": weatherlight,
    "oona": oona,
    "urza": urza,
    "nissa": nissa,
}
