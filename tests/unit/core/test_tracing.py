from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from esper.core.tracing import context_of, current_trace, tracer
from esper.leyline import TraceContext


def test_without_a_span_there_is_no_trace() -> None:
    assert current_trace() is None
    with tracer("esper.test").start_as_current_span("unrecorded"):
        assert current_trace() is None


def test_a_trace_goes_on_from_a_message_field() -> None:
    spans = TracerProvider().get_tracer("test")
    with spans.start_as_current_span("first") as first:
        carried = current_trace()
    assert carried is not None
    second = spans.start_span("second", context=context_of(carried))
    assert second.get_span_context().trace_id == first.get_span_context().trace_id
    assert second.parent is not None
    assert second.parent.span_id == first.get_span_context().span_id


def test_no_context_and_a_malformed_one_start_a_new_trace() -> None:
    for carried in (None, TraceContext(), TraceContext(traceparent="not a traceparent")):
        assert not trace.get_current_span(context_of(carried)).get_span_context().is_valid


def test_trace_state_is_kept() -> None:
    carried = TraceContext(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01", tracestate="vendor=value")
    state = trace.get_current_span(context_of(carried)).get_span_context().trace_state
    assert state["vendor"] == "value"
