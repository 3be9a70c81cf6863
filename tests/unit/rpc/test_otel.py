"""Traces of commands are kept whole, failures too, and of the rest one in so many."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode

from esper.core.errors import ConfigError
from esper.rpc.otel import COMMAND_ID, END_S, KEEP, UNHEARD_END_S, Heard, KeepDecisions, setup_tracing


class Recorder:
    """A tracer whose exported spans can be read."""

    def __init__(self, keep_one_in: int) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(KeepDecisions(SimpleSpanProcessor(self._exporter), keep_one_in))
        self.tracer = self.provider.get_tracer("test")

    @property
    def kept(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(keep_one_in=2**128)
    yield made
    made.provider.shutdown()


def test_a_trace_that_names_a_command_is_kept_whole(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("evaluate"):
        with recorder.tracer.start_as_current_span("lookup"):
            pass
        with recorder.tracer.start_as_current_span("sign") as sign:
            sign.set_attribute(COMMAND_ID, "c1")
    assert recorder.kept == ["lookup", "sign", "evaluate"]


def test_a_trace_that_leads_to_nothing_is_dropped(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("evaluate"), recorder.tracer.start_as_current_span("lookup"):
        pass
    assert recorder.kept == []


@pytest.mark.parametrize("attributes", [{KEEP: True}, {COMMAND_ID: "c1"}])
def test_an_attribute_keeps_a_single_span(recorder: Recorder, attributes: dict[str, str | bool]) -> None:
    with recorder.tracer.start_as_current_span("graft", attributes=attributes):
        pass
    assert recorder.kept == ["graft"]


def test_a_failure_is_kept(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("call") as span:
        span.set_status(Status(StatusCode.ERROR))
    assert recorder.kept == ["call"]


def test_what_comes_after_a_kept_root_goes_too(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("root", attributes={KEEP: True}) as root:
        context = trace.set_span_in_context(root)
    with recorder.tracer.start_as_current_span("late", context):
        pass
    assert recorder.kept == ["root", "late"]


def test_a_part_of_a_remote_trace_is_settled_when_it_ends_here(recorder: Recorder) -> None:
    remote = trace.SpanContext(trace_id=7, span_id=8, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    with recorder.tracer.start_as_current_span("ordinary", context):
        pass
    with recorder.tracer.start_as_current_span("verify", context, attributes={COMMAND_ID: "c1"}):
        pass
    assert recorder.kept == ["verify"]


def test_one_in_so_many_is_kept_by_its_id_alone() -> None:
    recorder = Recorder(keep_one_in=10)
    for number in range(1, 101):
        remote = trace.SpanContext(trace_id=number, span_id=1, is_remote=True, trace_flags=trace.TraceFlags(1))
        with recorder.tracer.start_as_current_span(
            str(number), trace.set_span_in_context(trace.NonRecordingSpan(remote))
        ):
            pass
    assert recorder.kept == [str(number) for number in range(10, 101, 10)]
    recorder.provider.shutdown()


def test_without_an_endpoint_nothing_is_set_up() -> None:
    setup_tracing("esper-test", None, {})()
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


def test_an_endpoint_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="ftp://x"):
        setup_tracing("esper-test", "ftp://x", {})


class Collector(SpanExporter):
    """Takes spans, refuses them, or keeps silent."""

    def __init__(self) -> None:
        self.result = SpanExportResult.SUCCESS
        self.answers = threading.Event()
        self.answers.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answers.wait(10.0)
        return self.result


def test_the_end_waits_shorter_for_a_collector_that_took_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    heard = Heard(collector)
    assert heard.patience_s == END_S  # nobody asked it yet
    collector.result = SpanExportResult.FAILURE
    assert heard.export(()) is SpanExportResult.FAILURE
    assert heard.patience_s == UNHEARD_END_S
    collector.result = SpanExportResult.SUCCESS
    heard.export(())
    assert heard.patience_s == END_S
    collector.answers.clear()
    asking = threading.Thread(target=heard.export, args=((),))
    asking.start()
    monkeypatch.setattr("esper.rpc.otel.END_S", -1.0)  # as if it had been silent for long
    while heard.patience_s != UNHEARD_END_S:
        pass
    collector.answers.set()
    asking.join()
    assert heard.patience_s == -1.0
