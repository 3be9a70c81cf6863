"""Synchronous clients, their streams, and the health check as they see it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from esper.core.errors import AsyncTimeoutError, BackPressure, ConfigError, InvalidAnswer, ServiceUnavailable
from esper.leyline import BusEnvelope, ConsumeRequest, ConsumeResponse, PublishRequest, PublishResponse
from esper.rpc.clients import BusClient, Channel, Responses, aio, channel, wait_serving, watch
from esper.rpc.clients.health import is_serving
from esper.rpc.server.call import Call
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.scripted import ScriptedBus, a_request


class RefusingBus(ScriptedBus):
    """Its streams break off at their first request."""

    async def consume(self, requests: AsyncIterator[ConsumeRequest], call: Call) -> AsyncIterator[ConsumeResponse]:
        async for _ in requests:
            raise ServiceUnavailable("oona", "bus", "redis", "release failed")
        yield ConsumeResponse()


def refused_answers(method: str) -> float:
    labels = {"method": f"esper.leyline.v1.{method}"}
    return REGISTRY.get_sample_value("rpc_client_answers_refused_total", labels) or 0.0


async def test_a_synchronous_client_calls_and_streams(serve: Serve) -> None:
    server = await serve(ScriptedBus())

    def work() -> tuple[list[int], list[str]]:
        with channel(server.endpoint) as link:
            client = BusClient(link)
            published = client.publish(a_request(2), timeout_s=5)
            requests = iter([ConsumeRequest(group="a"), ConsumeRequest(group="b")])
            echoed = [response.envelope.event_id for response in client.consume(requests, timeout_s=5)]
            return list(published.sequences), echoed

    assert await asyncio.to_thread(work) == ([1, 2], ["a", "b"])


async def test_an_answer_is_validated_like_a_request_and_counted(serve: Serve) -> None:
    async def answer(request: PublishRequest, call: Call) -> PublishResponse:
        return PublishResponse()

    server = await serve(ScriptedBus(answer))
    before = refused_answers("BusService/Publish")

    def work() -> None:
        with channel(server.endpoint) as link:
            BusClient(link).publish(a_request(), timeout_s=5)

    with pytest.raises(InvalidAnswer, match=r"PublishResponse of .*BusService/Publish at .*sequences is required"):
        await asyncio.to_thread(work)
    async with aio.aio_channel(server.endpoint) as link:
        with pytest.raises(InvalidAnswer, match="sequences is required"):
            await aio.BusClient(link).publish(a_request(), timeout_s=5)
    assert refused_answers("BusService/Publish") == before + 2


async def test_an_answer_that_is_too_large_is_an_error_of_the_tree(serve: Serve) -> None:
    async def answer(request: PublishRequest, call: Call) -> PublishResponse:
        return PublishResponse(sequences=[2**60] * 600_000)

    server = await serve(ScriptedBus(answer))

    def work() -> None:
        with channel(server.endpoint) as link:
            BusClient(link).publish(a_request(), timeout_s=10)

    with pytest.raises(BackPressure, match="larger than max"):
        await asyncio.to_thread(work)


async def test_an_answer_of_a_stream_is_validated_too(serve: Serve) -> None:
    class Careless(ScriptedBus):
        async def consume(self, requests: AsyncIterator[ConsumeRequest], call: Call) -> AsyncIterator[ConsumeResponse]:
            yield ConsumeResponse(envelope=BusEnvelope(event_id="e1"))

    server = await serve(Careless())

    def work() -> None:
        with channel(server.endpoint) as link:
            list(BusClient(link).consume(iter([ConsumeRequest(group="a")]), timeout_s=5))

    with pytest.raises(InvalidAnswer, match=r"envelope\.payload_type is required"):
        await asyncio.to_thread(work)


async def test_a_stream_that_is_left_is_cancelled_at_the_server(serve: Serve) -> None:
    server = await serve(ScriptedBus(hangs=True))

    def work() -> str:
        with channel(server.endpoint) as link:
            responses = BusClient(link).consume(iter([ConsumeRequest(group="a")]), timeout_s=30)
            return next(responses).envelope.event_id

    assert await asyncio.to_thread(work) == "a"
    async with asyncio.timeout(5):
        while server.in_flight:
            await asyncio.sleep(0.01)


async def test_a_stream_may_be_cancelled_by_another_thread_than_the_one_that_waits(serve: Serve) -> None:
    server = await serve(ScriptedBus(hangs=True))

    def work() -> None:
        with channel(server.endpoint) as link:
            responses = BusClient(link).consume(iter([ConsumeRequest(group="a")]), timeout_s=30)
            assert next(responses).envelope.event_id == "a"
            assert isinstance(responses, Responses)
            threading.Timer(0.05, responses.cancel).start()
            with pytest.raises(ServiceUnavailable, match="CANCELLED"):
                next(responses)

    await asyncio.to_thread(work)


async def test_requests_of_a_stream_end_with_its_call(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(RefusingBus())
    is_over = asyncio.Event()

    async def requests() -> AsyncIterator[ConsumeRequest]:
        try:
            yield ConsumeRequest(group="a")
            await asyncio.Event().wait()
        finally:
            is_over.set()

    async with aio.aio_channel(server.endpoint) as link:
        with pytest.raises(ServiceUnavailable):
            await anext(aio.BusClient(link).consume(requests(), timeout_s=5))
        async with asyncio.timeout(5):
            await is_over.wait()
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


def test_a_method_without_a_deadline_does_not_exist(socket_dir: Path) -> None:
    with channel(f"unix:{socket_dir}/none") as link, pytest.raises(TypeError, match="timeout_s"):
        BusClient(link).publish(a_request())


def test_a_service_that_is_not_there_is_unavailable_and_named(socket_dir: Path) -> None:
    with (
        channel(f"unix:{socket_dir}/none") as link,
        pytest.raises(ServiceUnavailable, match=r"BusService/Publish.*none"),
    ):
        BusClient(link).publish(a_request(), timeout_s=2)


def test_a_closed_channel_says_so(socket_dir: Path) -> None:
    link = channel(f"unix:{socket_dir}/none")
    link.close()
    with pytest.raises(ServiceUnavailable, match="closed"):
        BusClient(link).publish(a_request(), timeout_s=1)


def test_beyond_loopback_a_channel_needs_tls() -> None:
    with pytest.raises(ConfigError, match="TLS"):
        channel("192.0.2.1:7700")


async def test_waiting_for_a_service_ends_when_it_serves(serve: Serve) -> None:
    server = await serve(ScriptedBus())
    await server.set_serving(False, "esper.leyline.v1.BusService")

    def wait() -> None:
        with channel(server.endpoint) as link:
            wait_serving(link, "BusService", timeout_s=10)

    waiting = asyncio.create_task(asyncio.to_thread(wait))
    await server.set_serving(True, "esper.leyline.v1.BusService")
    await waiting


def test_waiting_for_a_service_that_never_comes_says_where(socket_dir: Path) -> None:
    with channel(f"unix:{socket_dir}/none") as link:
        assert not is_serving(link, timeout_s=0.1)
        with pytest.raises(ServiceUnavailable, match=r"not serving after 0\.2 s"):
            wait_serving(link, "KasminaService", timeout_s=0.2)


async def test_a_watcher_hears_of_the_end_and_of_the_return(serve: Serve, socket_dir: Path) -> None:
    listen = f"unix:{socket_dir}/again"
    server = await serve(ScriptedBus(), listen=listen)
    heard: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def follow(link: Channel) -> None:
        for state in watch(link):
            loop.call_soon_threadsafe(heard.put_nowait, state)

    link = channel(listen)
    following = asyncio.create_task(asyncio.to_thread(follow, link))
    async with asyncio.timeout(15):
        assert await heard.get() is True
        await server.drain(0.1)
        assert await heard.get() is False
        await serve(ScriptedBus(), listen=listen)
        assert await heard.get() is True
        link.close()
        await following


async def test_a_deadline_is_the_callers_error(serve: Serve) -> None:
    server = await serve(ScriptedBus(lambda request, call: asyncio.sleep(60)))

    def work() -> None:
        with channel(server.endpoint) as link:
            BusClient(link).publish(a_request(), timeout_s=0.2)

    with pytest.raises(AsyncTimeoutError, match=r"Publish.*took longer"):
        await asyncio.to_thread(work)
