"""An OTLP receiver on loopback that keeps the spans it is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedSpan:
    """One span, with the service that it is from."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    status: int
    links: tuple[str, ...] = ()
    start_ns: int = 0
    end_ns: int = 0
    """Of the Unix epoch."""


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Context manager; `endpoint` is HOST:PORT."""

    def __init__(self) -> None:
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._arrived:
            for resource in request.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                self._spans += [_received(service, span) for scope in resource.scope_spans for span in scope.spans]
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def received(self) -> list[ReceivedSpan]:
        """The spans so far."""
        with self._arrived:
            return list(self._spans)

    def until(self, condition: Callable[[list[ReceivedSpan]], bool], timeout_s: float = 30.0) -> list[ReceivedSpan]:
        """The spans as soon as the condition holds."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while not condition(self._spans):
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0 or not self._arrived.wait(remaining_s):
                    raise AssertionError(f"not complete after {timeout_s:g} s: {[span.name for span in self._spans]}")
            return list(self._spans)

    def __enter__(self) -> Receiver:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()


def _received(service: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        status=span.status.code,
        links=tuple(link.span_id.hex() for link in span.links),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
