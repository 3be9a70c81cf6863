"""The four shapes of an RPC, as class attributes that become typed methods of a client.

`apply_command = Unary(Request, Response)` takes its name from the attribute, its serialisers from the descriptors and
its deadline from the caller. On a synchronous client the method returns; on an asyncio client it is awaited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, overload

from google.protobuf.message import Message

from esper.rpc.clients._callers import AioCaller, SyncCaller

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)
Given = TypeVar("Given", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class RpcMethod(Protocol[Given, Answer]):
    """A method of a client."""

    def __call__(self, request: Given, /, *, timeout_s: float) -> Answer: ...


class Rpc(Generic[Req, Res]):
    """An RPC by its message classes; the attribute's name says which one."""

    def __init__(self, request: type[Req], response: type[Res]) -> None:
        self.request = request
        self.response = response
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Unary(Rpc[Req, Res]):
    """One request, one response."""

    @overload
    def __get__(self, client: SyncCaller, kind: type) -> RpcMethod[Req, Res]: ...
    @overload
    def __get__(self, client: AioCaller, kind: type) -> RpcMethod[Req, Coroutine[Any, Any, Res]]: ...
    def __get__(self, client: Any, kind: type) -> Any:
        return partial(client.invoke, self.name)


class ClientStream(Rpc[Req, Res]):
    """Many requests, one response."""

    @overload
    def __get__(self, client: SyncCaller, kind: type) -> RpcMethod[Iterator[Req], Res]: ...
    @overload
    def __get__(self, client: AioCaller, kind: type) -> RpcMethod[AsyncIterator[Req], Coroutine[Any, Any, Res]]: ...
    def __get__(self, client: Any, kind: type) -> Any:
        return partial(client.invoke, self.name)


class ServerStream(Rpc[Req, Res]):
    """One request, many responses."""

    @overload
    def __get__(self, client: SyncCaller, kind: type) -> RpcMethod[Req, Iterator[Res]]: ...
    @overload
    def __get__(self, client: AioCaller, kind: type) -> RpcMethod[Req, AsyncIterator[Res]]: ...
    def __get__(self, client: Any, kind: type) -> Any:
        return partial(client.stream, self.name)


class BothStream(Rpc[Req, Res]):
    """Many requests, many responses."""

    @overload
    def __get__(self, client: SyncCaller, kind: type) -> RpcMethod[Iterator[Req], Iterator[Res]]: ...
    @overload
    def __get__(self, client: AioCaller, kind: type) -> RpcMethod[AsyncIterator[Req], AsyncIterator[Res]]: ...
    def __get__(self, client: Any, kind: type) -> Any:
        return partial(client.stream, self.name)
