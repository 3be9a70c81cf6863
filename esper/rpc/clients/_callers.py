"""How clients call: each call with its client's token, a deadline and a span; a status becomes the servicer's error.

An answer is validated like a request: one that can't be used is counted and raised as InvalidAnswer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import grpc
from opentelemetry.trace import Span

from esper.core.errors import InvalidAnswer, ServiceUnavailable
from esper.core.messages.validation import violations
from esper.core.plain import clause
from esper.rpc import metrics
from esper.rpc.clients.channel import AioChannel, Channel
from esper.rpc.contract import Method, methods
from esper.rpc.server.call import RUN_TOKEN
from esper.rpc.status import from_rpc_error
from esper.rpc.tasks import until_set
from esper.rpc.tracing import begin_call, record_status

# A peer's answer may be wrong in thousands of places; a line names so many.
MAX_TOLD = 8

AnyChannel = TypeVar("AnyChannel", Channel, AioChannel)


class Caller(Generic[AnyChannel]):
    """A client of one service. Its token and metadata go with every call."""

    service: ClassVar[str]

    def __init__(
        self, channel: AnyChannel, *, token: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._channel: AnyChannel = channel
        own = {**(metadata or {}), **({RUN_TOKEN: token} if token is not None else {})}
        self._metadata = tuple(own.items())
        self._methods = methods(self.service)

    def _prepared(
        self, attribute: str, request: Any, timeout_s: float
    ) -> tuple[Callable[[], Any], AbstractContextManager[None]]:
        """What begins the call, and the context to wait for its end in."""
        method = self._methods[attribute]
        place = f"{method.full_name} at {self._channel.endpoint}"
        if self._channel.is_closed:
            raise ServiceUnavailable("rpc", "channel", place, "it was closed; open another one")
        stub = getattr(self._channel.raw, method.shape)(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        span, trace_metadata = begin_call(method, self._channel.endpoint)
        begin = partial(stub, request, timeout=timeout_s, metadata=self._metadata + trace_metadata)
        return begin, _ending(span, place, timeout_s)

    def _checked(self, attribute: str, answer: Any) -> Any:
        """The answer, if it can be used."""
        return checked(self._methods[attribute], answer, str(self._channel.endpoint))


class Responses(Iterator[Any]):
    """Responses of a call as they come. Any thread may cancel it; whoever closes or drops them does so too."""

    def __init__(self, responses: Generator[Any, None, None], cancel: Callable[[], object]) -> None:
        self._responses = responses
        self._cancel = cancel

    def __next__(self) -> Any:
        return next(self._responses)

    def cancel(self) -> None:
        """End the call; who waits for its next response gets ServiceUnavailable."""
        self._cancel()

    def close(self) -> None:
        self._responses.close()


class SyncCaller(Caller[Channel]):
    """Calls from a thread."""

    def invoke(self, attribute: str, request: Any, *, timeout_s: float) -> Any:
        """One response, whether the requests stream or not."""
        begin, ending = self._prepared(attribute, request, timeout_s)
        with ending:
            answer = begin()
        return self._checked(attribute, answer)

    def stream(self, attribute: str, request: Any, *, timeout_s: float) -> Iterator[Any]:
        """Responses as they come. The call begins at once, and ends when the iterator is closed or collected."""
        begin, ending = self._prepared(attribute, request, timeout_s)
        call = begin()

        def responses() -> Generator[Any, None, None]:
            with ending:
                try:
                    for answer in call:
                        yield self._checked(attribute, answer)
                finally:
                    call.cancel()

        return Responses(responses(), call.cancel)


class AioCaller(Caller[AioChannel]):
    """Calls from an event loop."""

    async def invoke(self, attribute: str, request: Any, *, timeout_s: float) -> Any:
        """One response, whether the requests stream or not."""
        ended = asyncio.Event()
        begin, ending = self._prepared(attribute, _until(ended, request), timeout_s)
        try:
            with ending:
                answer = await begin()
        finally:
            ended.set()
        return self._checked(attribute, answer)

    def stream(self, attribute: str, request: Any, *, timeout_s: float) -> AsyncIterator[Any]:
        """Responses as they come. The call begins at once, and ends when the iterator is closed or collected."""
        ended = asyncio.Event()
        begin, ending = self._prepared(attribute, _until(ended, request), timeout_s)
        call = begin()

        async def responses() -> AsyncIterator[Any]:
            with ending:
                try:
                    async for answer in call:
                        yield self._checked(attribute, answer)
                finally:
                    ended.set()
                    call.cancel()

        return responses()


def _until(ended: asyncio.Event, request: Any) -> Any:
    """What a call is begun with; requests that come one after the other end when their call has ended.

    grpc waits on for the next request of a call that failed, and complains of it when it is collected.
    """
    return until_set(request, ended) if isinstance(request, AsyncIterator) else request


def checked(method: Method, answer: Any, endpoint: str) -> Any:
    """The answer, proven valid. Raises InvalidAnswer with what is wrong with it."""
    found = violations(answer)
    if found:
        metrics.ANSWERS_REFUSED.labels(method.full_name).inc()
        told = found if len(found) <= MAX_TOLD else [*found[:MAX_TOLD], f"and {len(found) - MAX_TOLD} more"]
        raise InvalidAnswer(f"{method.response.DESCRIPTOR.name} of {method.full_name} at {endpoint}", told)
    return answer


@contextmanager
def _ending(span: Span, place: str, timeout_s: float) -> Iterator[None]:
    """End the span with the call's status; a call that is left early counts as cancelled."""
    code = grpc.StatusCode.CANCELLED
    try:
        yield
        code = grpc.StatusCode.OK
    except grpc.RpcError as error:
        code = error.code()
        raise from_rpc_error(error, place, timeout_s) from error
    except ValueError as error:
        # grpc's word for a channel that was closed between two looks at it.
        raise ServiceUnavailable("rpc", "channel", place, f"{clause(error)}; open another one") from error
    finally:
        record_status(span, code)
        span.end()
