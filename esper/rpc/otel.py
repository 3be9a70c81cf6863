"""Traces of a process: OTLP over grpc, and which of them are worth keeping.

Sampling looks at what a trace turned out to be: all spans of one trace in this process wait for their root to end,
and are kept if one of them names a command, asks to be kept or failed, else one trace in a hundred. Every process
chooses the same ones of those, and traces of commands are whole because each of their parts names the command.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from esper.rpc.endpoint import collector_url, is_local_host

log = logging.getLogger("esper.traces")
COMMAND_ID = "esper.command.id"
KEEP = "esper.keep"
KEEP_ONE_IN = 100
MAX_OPEN_TRACES = 1024
MAX_SPANS_PER_TRACE = 512
# A run ends three processes one after the other: together they wait less than two seconds for a collector.
END_S = 0.5
# A collector that took nothing when it was last asked won't take the last traces either.
UNHEARD_END_S = 0.1
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class KeepDecisions(SpanProcessor):
    """Hands whole traces to the next processor, or drops them, when their local root ends."""

    def __init__(self, following: SpanProcessor, keep_one_in: int = KEEP_ONE_IN) -> None:
        self._following = following
        self._keep_one_in = keep_one_in
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._kept: OrderedDict[int, None] = OrderedDict()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._following.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            ready = self._settle(span)
        for each in ready:
            self._following.on_end(each)

    def shutdown(self) -> None:
        self._following.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._following.force_flush(timeout_millis)

    def _settle(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Spans that can go now: none while the root is open, all or none when it ends."""
        trace_id = span.context.trace_id
        if trace_id in self._kept:
            return [span]
        spans = self._waiting.setdefault(trace_id, [])
        if len(spans) < MAX_SPANS_PER_TRACE:
            spans.append(span)
        if span.parent is not None and not span.parent.is_remote:
            if len(self._waiting) > MAX_OPEN_TRACES:
                self._waiting.popitem(last=False)
            return []
        del self._waiting[trace_id]
        if trace_id % self._keep_one_in and not any(_is_worth_keeping(each) for each in spans):
            return []
        self._kept[trace_id] = None
        if len(self._kept) > MAX_OPEN_TRACES:
            self._kept.popitem(last=False)
        return spans


class Heard(SpanExporter):
    """Passes spans on, and knows whether the collector takes them."""

    def __init__(self, following: SpanExporter) -> None:
        self._following = following
        self._began_s: float | None = None
        self._has_failed = False

    @property
    def patience_s(self) -> float:
        """How long the end waits for it: shorter where the last export failed, or waits for an answer still."""
        began_s = self._began_s
        is_stuck = began_s is not None and time.monotonic() - began_s > END_S
        return UNHEARD_END_S if self._has_failed or is_stuck else END_S

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._began_s = time.monotonic()
        result = SpanExportResult.FAILURE
        try:
            result = self._following.export(spans)
        finally:
            self._has_failed, self._began_s = result is not SpanExportResult.SUCCESS, None
        return result

    def shutdown(self) -> None:
        self._following.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._following.force_flush(timeout_millis)


def _is_worth_keeping(span: ReadableSpan) -> bool:
    attributes = span.attributes or {}
    return bool(attributes.get(COMMAND_ID) or attributes.get(KEEP)) or span.status.status_code is StatusCode.ERROR


def setup_tracing(
    service_name: str, endpoint: str | None, environ: Mapping[str, str] = os.environ, *, keep_one_in: int = KEEP_ONE_IN
) -> Callable[[], None]:
    """Send this process's spans to `endpoint`, or where OTEL_* says, or nowhere. Call the result at the end."""
    place = endpoint or next((environ[name] for name in ENDPOINT_VARIABLES if environ.get(name)), None)
    if place is None:
        return _nothing
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return _nothing
    provider = TracerProvider(
        resource=Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME", service_name)}),
        shutdown_on_exit=False,  # it would wait for a collector as long as that likes
    )
    exporter = Heard(_exporter(endpoint, place))
    provider.add_span_processor(KeepDecisions(BatchSpanProcessor(exporter), keep_one_in))
    trace.set_tracer_provider(provider)
    return partial(_end, provider, exporter, place)


def _end(provider: TracerProvider, exporter: Heard, place: str) -> None:
    """Send what waits, as far as the collector takes it in time: nobody's end is delayed by it."""
    ending = threading.Thread(target=provider.shutdown, name="end of traces", daemon=True)
    patience_s = exporter.patience_s
    ending.start()
    ending.join(patience_s)
    if ending.is_alive():
        log.warning("the last traces are lost: the collector at %s did not take them within %g s", place, patience_s)


def _exporter(endpoint: str | None, place: str) -> SpanExporter:
    # Costs a quarter of a second to import: only processes that trace pay it.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    if endpoint is not None:
        address = collector_url(endpoint)
    else:
        address = place if "://" in place else f"http://{place}"
    options: Any = (("grpc.enable_http_proxy", 0),) if is_local_host(urlsplit(address).hostname or "") else None
    if endpoint is None:
        return OTLPSpanExporter(channel_options=options)
    return OTLPSpanExporter(endpoint=address, insecure=address.startswith("http://"), channel_options=options)


def _nothing() -> None:
    return
