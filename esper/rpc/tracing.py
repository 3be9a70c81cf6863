"""Spans around calls, after OpenTelemetry's conventions for RPC; its API only.

The W3C context travels in metadata. A stream's metadata is sent once, so messages of a stream carry their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from esper.rpc.contract import Method
from esper.rpc.endpoint import Endpoint

Metadata = tuple[tuple[str, str], ...]
_tracer = trace.get_tracer("esper.rpc")


def begin_call(method: Method, endpoint: Endpoint) -> tuple[Span, Metadata]:
    """Open the caller's span, and give the metadata that lets the callee continue it.

    The span is never made current: nothing of the caller's happens inside it, and a stream outlives its scope.
    """
    attributes = {"rpc.system.name": "grpc", "rpc.method": method.full_name, **_address(endpoint)}
    span = _tracer.start_span(method.full_name, kind=SpanKind.CLIENT, attributes=attributes)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    return span, tuple(carrier.items())


@contextmanager
def server_span(method: Method, metadata: Mapping[str, str]) -> Iterator[Span]:
    """A span of the callee under the caller's, current while the call is answered."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": method.full_name}
    span = _tracer.start_span(
        method.full_name, context=propagate.extract(metadata), kind=SpanKind.SERVER, attributes=attributes
    )
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield span


def record_status(span: Span, code: grpc.StatusCode) -> None:
    """Note how the call ended."""
    span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name)
        span.set_status(Status(StatusCode.ERROR))


def _address(endpoint: Endpoint) -> dict[str, str | int]:
    if endpoint.path is not None:
        return {"server.address": str(endpoint.path)}
    return {"server.address": endpoint.host, "server.port": endpoint.port}
