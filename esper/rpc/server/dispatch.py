"""From a servicer's methods to grpc handlers.

Around each call: deadline, limit of calls in flight, span, parsing, validation, error mapping, drain. Single requests
arrive validated, unless they are signed envelopes, which their verifier judges; messages of a stream arrive unjudged.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from esper.core.errors import (
    AsyncTimeoutError,
    BackPressure,
    DependencyViolationError,
    EsperError,
    ServiceUnavailable,
    UnparsableMessage,
)
from esper.core.messages.validation import require_valid
from esper.leyline import SignedCommand
from esper.rpc import metrics
from esper.rpc.contract import Method, methods
from esper.rpc.server.bases import Servicer
from esper.rpc.server.call import Call
from esper.rpc.server.mishaps import Mishaps
from esper.rpc.server.parse import parsed, parsed_each
from esper.rpc.status import DETAILS_KEY, code_of, to_status
from esper.rpc.tasks import until_set
from esper.rpc.tracing import record_status, server_span

RETRY_AFTER_S = 0.1
Context = grpc.aio.ServicerContext


@dataclass(kw_only=True, slots=True)
class Gate:
    """What all calls of a server share: how many are in flight, and whether it drains.

    Streams last: all together leave a quarter of the room to single calls such as heartbeats, and those of one token
    half of it to others.
    """

    max_in_flight: int
    deadline_s: float
    in_flight: int = 0
    streams: Counter[str] = field(default_factory=Counter)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    mishaps: Mishaps = field(default_factory=Mishaps)

    def refusal(self, token: str, *, is_stream: bool) -> str | None:
        """Why there is no room for one more call; None if there is."""
        if self.in_flight >= self.max_in_flight:
            return f"{self.in_flight} calls are in flight, as many as this server takes"
        if is_stream and self.streams[token] >= max(1, self.max_in_flight // 2):
            return f"{self.streams[token]} streams of one token are open, as many as one may have here"
        if is_stream and self.streams.total() >= max(1, self.max_in_flight * 3 // 4):
            return f"{self.streams.total()} streams are open, as many as this server takes"
        return None


def handler_of(servicer: Servicer, gate: Gate) -> grpc.GenericRpcHandler[Any, Any]:
    """All RPCs of a servicer."""
    table = methods(servicer.service)
    handlers = {method.name: _handler(method, servicer, gate) for method in table.values()}
    full_name = next(iter(table.values())).service
    return grpc.method_handlers_generic_handler(full_name, handlers)


def _handler(method: Method, servicer: Servicer, gate: Gate) -> grpc.RpcMethodHandler[Any, Any]:
    metrics.begin(method.full_name)
    answer = getattr(servicer, method.attribute)
    is_endless = method.attribute in servicer.endless
    wrap = _streaming(method, answer, gate, is_endless) if method.responses_stream else _single(method, answer, gate)
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = getattr(grpc, f"{method.shape}_rpc_method_handler")
    # No deserializer: what fails in grpc's hands is UNKNOWN to the caller and a traceback to us.
    return make(wrap, response_serializer=method.response.SerializeToString)


def _single(method: Method, answer: Callable[[Any, Call], Awaitable[Any]], gate: Gate) -> Callable[..., Any]:
    """One response."""

    async def handle(raw: Any, context: Context[Any, Any]) -> Any:
        async with _answering(method, context, gate) as call:
            return await answer(_request(method, raw, gate), call)

    return handle


def _streaming(
    method: Method, answer: Callable[[Any, Call], AsyncIterator[Any]], gate: Gate, is_endless: bool
) -> Callable[..., Any]:
    """Any number of responses. A drain cuts streams that are endless, or that wait for a request."""

    async def handle(raw: Any, context: Context[Any, Any]) -> None:
        async with _answering(method, context, gate) as call:
            responses = answer(_request(method, raw, gate), call)
            if is_endless:
                responses = until_set(responses, gate.draining)
            async for response in responses:
                await context.write(response)
            if gate.draining.is_set() and (is_endless or method.requests_stream):
                raise ServiceUnavailable("rpc", "service", method.service, "it is draining; connect again later")

    return handle


def _request(method: Method, raw: Any, gate: Gate) -> Any:
    """The request, proven valid. Streams are judged message by message and signed envelopes by their verifier."""
    if method.requests_stream:
        return parsed_each(method.request, until_set(raw, gate.draining))
    request = parsed(method.request, raw)
    if not _is_signed(request):
        require_valid(request)
    return request


def _is_signed(request: Message) -> bool:
    command = request.DESCRIPTOR.fields_by_name.get("command")
    return command is not None and command.message_type is SignedCommand.DESCRIPTOR


@asynccontextmanager
async def _answering(method: Method, context: Context[Any, Any], gate: Gate) -> AsyncIterator[Call]:
    """Everything around one call; an error inside becomes its status."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    limit_s = _limit_s(method, context.time_remaining(), gate)
    call = Call(
        method=method.full_name,
        peer=context.peer(),
        metadata=metadata,
        deadline_monotonic_s=time.monotonic() + limit_s,
        draining=gate.draining,
    )
    began, code = time.perf_counter(), grpc.StatusCode.CANCELLED
    failure: Exception | None = None
    with server_span(method, metadata) as span:
        try:
            async with _in_flight(gate, method, call.token), asyncio.timeout(limit_s) as limit:
                yield call
            code = grpc.StatusCode.OK
        except TimeoutError as error:
            failure = AsyncTimeoutError(method.full_name, limit_s) if limit.expired() else error
        except Exception as error:  # noqa: BLE001 - the edge of the process
            failure = error
        finally:
            code = _code(failure) if failure is not None else code
            record_status(span, code)
            took_s = time.perf_counter() - began
            metrics.ended(method.full_name, code.name, took_s, is_stream=method.responses_stream)
    if failure is not None:
        await _abort(context, method, failure, gate.mishaps)


def _limit_s(method: Method, brought_s: float | None, gate: Gate) -> float:
    """The deadline that the call brought, else the server's own."""
    if brought_s is not None:
        return brought_s
    metrics.CALLS_WITHOUT_DEADLINE.labels(method.full_name).inc()
    return gate.deadline_s


def _code(failure: Exception) -> grpc.StatusCode:
    return code_of(failure) if isinstance(failure, EsperError) else grpc.StatusCode.INTERNAL


async def _abort(context: Context[Any, Any], method: Method, failure: Exception, mishaps: Mishaps) -> None:
    """End the call with the status of the failure. One from outside the tree is our bug: logged here, silent there."""
    code, message = grpc.StatusCode.INTERNAL, "internal error; the server's log has it"
    details: tuple[tuple[str, bytes], ...] = ()
    if isinstance(failure, EsperError):
        status = to_status(failure)
        code, message, details = code_of(failure), status.message, ((DETAILS_KEY, status.SerializeToString()),)
        if isinstance(failure, UnparsableMessage):
            mishaps.unparsable(method.full_name, context.peer(), failure)
        elif isinstance(failure, DependencyViolationError) and not isinstance(failure, ServiceUnavailable):
            mishaps.violation(method.full_name, failure)
    else:
        metrics.UNEXPECTED_ERRORS.labels(method.full_name).inc()
        mishaps.unexpected(method.full_name, failure)
    try:
        await context.abort(code, message, details)
    except grpc.aio.InternalError as error:
        # The caller has gone; grpc would write a traceback for each that does.
        raise asyncio.CancelledError from error


@asynccontextmanager
async def _in_flight(gate: Gate, method: Method, token: str) -> AsyncIterator[None]:
    is_stream = method.requests_stream or method.responses_stream
    if (refusal := gate.refusal(token, is_stream=is_stream)) is not None:
        metrics.CALLS_REFUSED.labels(method.full_name).inc()
        raise BackPressure(refusal, RETRY_AFTER_S)
    gate.in_flight += 1
    gate.streams[token] += is_stream
    metrics.CALLS_IN_FLIGHT.inc()
    try:
        yield
    finally:
        gate.in_flight -= 1
        gate.streams -= Counter({token: int(is_stream)})  # which forgets tokens without streams
        metrics.CALLS_IN_FLIGHT.dec()
