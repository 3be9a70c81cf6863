"""Trace context as a message field: one trace goes through streams, ledgers and restarts.

Libraries use OpenTelemetry's API only; a process decides at its start whether anything is recorded.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from esper.leyline import TraceContext

_PROPAGATOR = TraceContextTextMapPropagator()


def tracer(name: str) -> trace.Tracer:
    """The tracer of one package, e.g. "esper.kasmina"."""
    return trace.get_tracer(name)


def current_trace() -> TraceContext | None:
    """The open span's context in W3C form, or None where there is no span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if "traceparent" not in carrier:
        return None
    return TraceContext(traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate"))


def context_of(context: TraceContext | None) -> Context:
    """The context that a span continues; an empty one, which starts a trace, for None or a malformed value."""
    if context is None or not context.traceparent:
        return Context()
    carrier = {"traceparent": context.traceparent}
    if context.tracestate:
        carrier["tracestate"] = context.tracestate
    return _PROPAGATOR.extract(carrier, Context())
