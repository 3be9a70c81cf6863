"""The four shapes of an RPC as class attributes of a synchronous client.

`apply_command = Unary(Request, Response)` is a typed method: the RPC's name comes from the attribute's, its
serialisers from the descriptors, its deadline from the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from esper.core.errors import ServiceUnavailable
from esper.rpc.call import RUN_TOKEN
from esper.rpc.clients.channel import Channel
from esper.rpc.contract import Method, methods
from esper.rpc.status import from_rpc_error
from esper.rpc.tracing import begin_call, record_status

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)
ReqIn = TypeVar("ReqIn", bound=Message, contravariant=True)
ResOut = TypeVar("ResOut", bound=Message, covariant=True)


class Client:
    """A client of one service. Its token and metadata go with every call."""

    service: ClassVar[str]

    def __init__(
        self, channel: Channel, *, token: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._channel = channel
        own = {**(metadata or {}), **({RUN_TOKEN: token} if token is not None else {})}
        self._metadata = tuple(own.items())
        self._methods = methods(self.service)

    def invoke(self, attribute: str, request: Any, timeout_s: float) -> Any:
        """One response, whether the requests stream or not."""
        method = self._methods[attribute]
        self._require_open(method)
        span, trace_metadata = begin_call(method, self._channel.endpoint)
        code = grpc.StatusCode.OK
        try:
            return self._stub(method)(request, timeout=timeout_s, metadata=self._metadata + trace_metadata)
        except grpc.RpcError as error:
            code = error.code()
            raise from_rpc_error(error, self._place(method), timeout_s) from error
        finally:
            record_status(span, code)
            span.end()

    def stream(self, attribute: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """Responses as they come. The call begins at once, and ends when the iterator is closed or collected."""
        method = self._methods[attribute]
        self._require_open(method)
        span, trace_metadata = begin_call(method, self._channel.endpoint)
        call = self._stub(method)(request, timeout=timeout_s, metadata=self._metadata + trace_metadata)

        def responses() -> Iterator[Any]:
            code = grpc.StatusCode.CANCELLED
            try:
                yield from call
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
                raise from_rpc_error(error, self._place(method), timeout_s) from error
            finally:
                call.cancel()
                record_status(span, code)
                span.end()

        return responses()

    def _require_open(self, method: Method) -> None:
        if self._channel.is_closed:
            raise ServiceUnavailable("rpc", "channel", self._place(method), "it was closed; open another one")

    def _stub(self, method: Method) -> Any:
        requests = "stream" if method.requests_stream else "unary"
        make = getattr(self._channel.raw, f"{requests}_{'stream' if method.responses_stream else 'unary'}")
        return make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def _place(self, method: Method) -> str:
        return f"{method.full_name} at {self._channel.endpoint}"


class UnaryCall(Protocol[ReqIn, ResOut]):
    def __call__(self, request: ReqIn, *, timeout_s: float) -> ResOut: ...


class ClientStreamCall(Protocol[ReqIn, ResOut]):
    def __call__(self, requests: Iterator[ReqIn], *, timeout_s: float) -> ResOut: ...


class ServerStreamCall(Protocol[ReqIn, ResOut]):
    def __call__(self, request: ReqIn, *, timeout_s: float) -> Iterator[ResOut]: ...


class BothStreamCall(Protocol[ReqIn, ResOut]):
    def __call__(self, requests: Iterator[ReqIn], *, timeout_s: float) -> Iterator[ResOut]: ...


class _Rpc(Generic[Req, Res]):
    """An RPC by its message classes; the attribute's name says which one."""

    def __init__(self, request: type[Req], response: type[Res]) -> None:
        self.request = request
        self.response = response
        self.name = ""

    def __set_name__(self, owner: type[Client], name: str) -> None:
        self.name = name


class Unary(_Rpc[Req, Res]):
    """One request, one response."""

    def __get__(self, client: Client, owner: type[Client]) -> UnaryCall[Req, Res]:
        def call(request: Req, *, timeout_s: float) -> Any:
            return client.invoke(self.name, request, timeout_s)

        return call


class ClientStream(_Rpc[Req, Res]):
    """Many requests, one response."""

    def __get__(self, client: Client, owner: type[Client]) -> ClientStreamCall[Req, Res]:
        def call(requests: Iterator[Req], *, timeout_s: float) -> Any:
            return client.invoke(self.name, requests, timeout_s)

        return call


class ServerStream(_Rpc[Req, Res]):
    """One request, many responses."""

    def __get__(self, client: Client, owner: type[Client]) -> ServerStreamCall[Req, Res]:
        def call(request: Req, *, timeout_s: float) -> Iterator[Any]:
            return client.stream(self.name, request, timeout_s)

        return call


class BothStream(_Rpc[Req, Res]):
    """Many requests, many responses."""

    def __get__(self, client: Client, owner: type[Client]) -> BothStreamCall[Req, Res]:
        def call(requests: Iterator[Req], *, timeout_s: float) -> Iterator[Any]:
            return client.stream(self.name, requests, timeout_s)

        return call
