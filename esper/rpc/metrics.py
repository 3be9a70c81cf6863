"""Metrics of calls and of the event loop, exposed to Prometheus by the process that serves."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from esper.core.telemetry import EventSpec, MetricSpec
from esper.leyline import TelemetryLevel

CALL_SECONDS = Histogram(
    "rpc_server_call_duration_seconds",
    "Time from the request to the status, by method and status.",
    ["method", "code"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0),
)
CALLS_REFUSED = Counter("rpc_server_calls_refused_total", "Calls refused because too many were in flight.", ["method"])
CALLS_WITHOUT_DEADLINE = Counter(
    "rpc_server_calls_without_deadline_total", "Calls that brought no deadline and got the server's own.", ["method"]
)
CALLS_IN_FLIGHT = Gauge("rpc_server_calls_in_flight", "Calls being answered.")
ANSWERS_REFUSED = Counter(
    "rpc_client_answers_refused_total", "Answers to own calls that couldn't be used, by method.", ["method"]
)
LOOP_LAG_SECONDS = Gauge("rpc_server_loop_lag_seconds", "How late the event loop woke up from its last short sleep.")
UNEXPECTED_ERRORS = Counter(
    "rpc_server_unexpected_errors_total", "Calls that ended with an error outside the error tree.", ["method"]
)
DEPENDENCY_VIOLATIONS = Counter(
    "rpc_server_dependency_violations_total", "Calls refused because something that they name is not there.", ["method"]
)

# What the service level objectives count: calls that are answered once; streams last as long as somebody listens.
CALLS = Counter("rpc_server_calls_total", "Calls with one answer that have ended.", ["method"])
CALLS_FAILED = Counter("rpc_server_calls_failed_total", "Those that ended by the server's fault.", ["method"])
CALLS_SLOW = Counter("rpc_server_calls_slow_total", "Those that took more than a quarter of a second.", ["method"])
SLOW_S = 0.25
FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

METRICS: tuple[MetricSpec, ...] = ()
DEPENDENCY_VIOLATION = EventSpec(
    "dependency_guard.violation",
    TelemetryLevel.TELEMETRY_LEVEL_ERROR,
    "A call named something that is not there; `count` where one event tells of many",
    ("method", "subsystem", "kind", "identifier", "count"),
)
EVENTS: tuple[EventSpec, ...] = (DEPENDENCY_VIOLATION,)


def begin(method: str) -> None:
    """Let a served method's counters begin at 0: one that appeared with its first event would hide it."""
    for counter in (
        CALLS_REFUSED,
        CALLS_WITHOUT_DEADLINE,
        UNEXPECTED_ERRORS,
        DEPENDENCY_VIOLATIONS,
        CALLS,
        CALLS_FAILED,
        CALLS_SLOW,
    ):
        counter.labels(method)


def ended(method: str, code: str, took_s: float, *, is_stream: bool) -> None:
    """Count a call that has ended with the status `code`."""
    CALL_SECONDS.labels(method, code).observe(took_s)
    if is_stream:
        return
    CALLS.labels(method).inc()
    CALLS_FAILED.labels(method).inc(code in FAILURES)
    CALLS_SLOW.labels(method).inc(took_s > SLOW_S)
