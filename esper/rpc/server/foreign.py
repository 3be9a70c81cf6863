"""Services that come with grpc, health and reflection: their requests are parsed as carefully as ours."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from esper.rpc.server.mishaps import Mishaps

Handler = grpc.RpcMethodHandler
Context = grpc.aio.ServicerContext


class ParseInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Parses in the place of grpc, for which bytes that are no message are an UNKNOWN error and a traceback."""

    def __init__(self, mishaps: Mishaps) -> None:
        self._mishaps = mishaps

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler[Any, Any]:
        handler = await continuation(handler_call_details)
        # Ours have no deserializer, and a method that nobody serves has no handler.
        if handler is None or handler.request_deserializer is None:
            return handler
        return self._guarded(handler, handler_call_details.method.removeprefix("/"))

    def _guarded(self, handler: Any, method: str) -> Handler[Any, Any]:
        sides = (handler.request_streaming, handler.response_streaming)
        shape = "_".join("stream" if streams else "unary" for streams in sides)
        answer = getattr(handler, shape)

        async def parsed(raw: bytes, context: Context[Any, Any]) -> Any:
            try:
                return handler.request_deserializer(raw)
            except DecodeError:
                words = f"its {len(raw)} bytes are no request of {method}"
                self._mishaps.unparsable(method, context.peer(), words)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)

        async def each(raws: AsyncIterator[bytes], context: Context[Any, Any]) -> AsyncIterator[Any]:
            async for raw in raws:
                yield await parsed(raw, context)

        async def once(raw: bytes, context: Context[Any, Any]) -> Any:
            return await answer(await parsed(raw, context), context)

        async def stream(raws: AsyncIterator[bytes], context: Context[Any, Any]) -> AsyncIterator[Any]:
            async for response in answer(each(raws, context), context):
                yield response

        make: Callable[..., Handler[Any, Any]] = getattr(grpc, f"{shape}_rpc_method_handler")
        wrapped = stream if inspect.isasyncgenfunction(answer) else once
        return make(wrapped, response_serializer=handler.response_serializer)
