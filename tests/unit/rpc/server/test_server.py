"""A real server: where it listens, what it refuses, how it answers and how it stops."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from esper.core.errors import (
    AsyncTimeoutError,
    BackPressure,
    ConfigError,
    ContractError,
    LifecycleConflict,
    ServiceUnavailable,
)
from esper.leyline import BusLane, ConsumeRequest, ConsumeResponse, PublishRequest, PublishResponse
from esper.rpc import metrics
from esper.rpc.clients.aio import AioChannel, BusClient, aio_channel
from esper.rpc.clients.channel import OPTIONS
from esper.rpc.server.call import Call
from esper.rpc.server.server import MIB, Server, ServerConfig, start
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.scripted import ScriptedBus, a_request

SERVICE = "esper.leyline.v1.BusService"
RAW_PUBLISH = f"/{SERVICE}/Publish"


async def refused_start(listen: str, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        await start(ServerConfig(listen=listen, **settings), [ScriptedBus()])
    return str(caught.value)


async def health(server: Server, service: str = "") -> int:
    async with grpc.aio.insecure_channel(str(server.endpoint)) as raw:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(raw).Check(request, timeout=5)).status


async def test_a_unix_socket_is_private_and_gone_after_the_drain(serve: Serve, socket_dir: Path) -> None:
    server = await serve(ScriptedBus())
    path = server.endpoint.path
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await server.drain()
    assert not path.exists()


async def test_an_occupied_socket_is_refused_and_its_owner_lives_on(serve: Serve) -> None:
    server = await serve(ScriptedBus())
    assert "another process serves it" in await refused_start(str(server.endpoint))
    async with aio_channel(server.endpoint) as channel:
        assert (await BusClient(channel).publish(a_request(), timeout_s=5)).sequences == [1]


async def test_a_socket_that_nobody_serves_any_more_is_cleared_away(serve: Serve, socket_dir: Path) -> None:
    path = socket_dir / "stale"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.exists()
    server = await serve(ScriptedBus(), listen=f"unix:{path}")
    assert await health(server) == health_pb2.HealthCheckResponse.SERVING


async def test_a_file_in_the_way_is_left_alone(socket_dir: Path) -> None:
    path = socket_dir / "notes"
    path.write_text("mine")
    assert "no socket" in await refused_start(f"unix:{path}")
    assert path.read_text() == "mine"


async def test_a_missing_directory_is_an_error_in_one_line(socket_dir: Path) -> None:
    assert "can't listen there" in await refused_start(f"unix:{socket_dir}/no/such/s")


async def test_two_servers_never_share_a_port(serve: Serve) -> None:
    server = await serve(ScriptedBus(), listen="127.0.0.1:0")
    assert server.endpoint.port > 0
    assert "can't listen there" in await refused_start(str(server.endpoint))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:7700"])
async def test_beyond_loopback_tls_is_needed(listen: str) -> None:
    assert "TLS" in await refused_start(listen)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="grace_s = 0"):
        ServerConfig(grace_s=0)
    with pytest.raises(ConfigError, match="both or neither"):
        ServerConfig(tls_cert=Path("cert.pem"))
    with pytest.raises(ConfigError, match="tls_client_ca"):
        ServerConfig(tls_client_ca=Path("ca.pem"))


async def test_a_certificate_that_cannot_be_read_is_named(socket_dir: Path) -> None:
    missing = socket_dir / "none.pem"
    assert "none.pem" in await refused_start("127.0.0.1:0", tls_cert=missing, tls_key=missing)


async def test_health_and_reflection_name_the_services(serve: Serve) -> None:
    server = await serve(ScriptedBus())
    assert await health(server, SERVICE) == health_pb2.HealthCheckResponse.SERVING
    await server.set_serving(False, SERVICE)
    assert await health(server, SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
    async with grpc.aio.insecure_channel(str(server.endpoint)) as raw:
        asking = reflection_pb2_grpc.ServerReflectionStub(raw)
        call = asking.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        answers = [answer async for answer in call]
    assert SERVICE in {each.name for each in answers[0].list_services_response.service}


async def test_reflection_can_be_switched_off(serve: Serve) -> None:
    server = await serve(ScriptedBus(), reflection=False)
    async with grpc.aio.insecure_channel(str(server.endpoint)) as raw:
        # As a unary call: a stream that is refused while its first request leaves may end in INTERNAL instead.
        asking = raw.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_servicer_sees_tokens_peer_and_deadline(serve: Serve) -> None:
    bus = ScriptedBus()
    server = await serve(bus)
    async with aio_channel(server.endpoint) as channel:
        client = BusClient(channel, token="run-token", metadata={"esper-service": "tamiyo"})
        await client.publish(a_request(), timeout_s=5)
    (call,) = bus.calls
    assert (call.run_token, call.service, call.service_token) == ("run-token", "tamiyo", None)
    assert call.method == f"{SERVICE}/Publish"
    # grpc's clock and ours differ by milliseconds; what matters is that it isn't the server's own 30 s.
    assert 0 < call.remaining_s < 6
    assert "run-token" not in repr(call)


async def test_a_call_without_a_deadline_gets_the_servers_and_is_counted(serve: Serve) -> None:
    counted = metrics.CALLS_WITHOUT_DEADLINE.labels(f"{SERVICE}/Publish")
    before = counted._value.get()
    bus = ScriptedBus(lambda request, call: asyncio.sleep(60))
    server = await serve(bus, deadline_s=0.05)
    async with grpc.aio.insecure_channel(str(server.endpoint)) as raw:
        publish = raw.unary_unary(RAW_PUBLISH, PublishRequest.SerializeToString, PublishResponse.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await publish(a_request())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer than 0.05 s" in (caught.value.details() or "")
    assert counted._value.get() == before + 1
    assert bus.cancelled.is_set()


async def test_work_is_cancelled_when_its_caller_has_stopped_waiting(serve: Serve) -> None:
    bus = ScriptedBus(lambda request, call: asyncio.sleep(60))
    server = await serve(bus)
    async with aio_channel(server.endpoint) as channel:
        with pytest.raises(AsyncTimeoutError, match="took longer than"):
            await BusClient(channel).publish(a_request(), timeout_s=0.2)
    await asyncio.wait_for(bus.cancelled.wait(), 5)


async def test_single_requests_arrive_validated(serve: Serve) -> None:
    bus = ScriptedBus()
    server = await serve(bus)
    async with aio_channel(server.endpoint) as channel:
        with pytest.raises(ContractError) as caught:
            await BusClient(channel).publish(PublishRequest(), timeout_s=5)
    assert caught.value.violations == ("envelopes is required",)
    assert not bus.calls


async def test_an_error_of_the_tree_reaches_the_client_as_itself(serve: Serve) -> None:
    async def refuse(request: PublishRequest, call: Call) -> PublishResponse:
        raise LifecycleConflict("seed s1 is FOSSILIZED")

    server = await serve(ScriptedBus(refuse))
    async with aio_channel(server.endpoint) as channel:
        with pytest.raises(LifecycleConflict, match="seed s1 is FOSSILIZED"):
            await BusClient(channel).publish(a_request(), timeout_s=5)


async def test_an_unexpected_error_is_logged_here_and_silent_there(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def burst(request: PublishRequest, call: Call) -> PublishResponse:
        raise KeyError("a secret")

    server = await serve(ScriptedBus(burst))
    async with aio_channel(server.endpoint) as channel:
        with pytest.raises(ServiceUnavailable) as caught:
            await BusClient(channel).publish(a_request(), timeout_s=5)
    assert "INTERNAL" in str(caught.value)
    assert "a secret" not in str(caught.value)
    assert "a secret" in caplog.text


async def test_more_calls_than_the_server_takes_are_turned_away_at_once(serve: Serve) -> None:
    release = asyncio.Event()

    async def wait(request: PublishRequest, call: Call) -> PublishResponse:
        await release.wait()
        return PublishResponse(sequences=[1])

    bus = ScriptedBus(wait)
    server = await serve(bus, max_in_flight=1)
    async with aio_channel(server.endpoint) as channel:
        client = BusClient(channel)
        first = asyncio.create_task(client.publish(a_request(), timeout_s=10))
        await bus.entered.wait()
        with pytest.raises(BackPressure) as caught:
            await client.publish(a_request(), timeout_s=10)
        release.set()
        assert (await first).sequences == [1]
    assert caught.value.retry_after_s > 0
    assert server.in_flight == 0


async def test_a_message_over_the_limit_is_refused(serve: Serve) -> None:
    server = await serve(ScriptedBus(), max_message_bytes=MIB)
    async with aio_channel(server.endpoint) as channel:
        with pytest.raises(BackPressure, match="RESOURCE_EXHAUSTED"):
            await BusClient(channel).publish(a_request(size_bytes=2 * MIB), timeout_s=10)


async def test_a_drain_lets_calls_in_flight_end_and_takes_no_new_ones(serve: Serve) -> None:
    release = asyncio.Event()

    async def wait(request: PublishRequest, call: Call) -> PublishResponse:
        await release.wait()
        return PublishResponse(sequences=[1])

    bus = ScriptedBus(wait)
    server = await serve(bus, grace_s=10.0)
    async with aio_channel(server.endpoint) as channel:
        client = BusClient(channel)
        in_flight = asyncio.create_task(client.publish(a_request(), timeout_s=10))
        await bus.entered.wait()
        draining = asyncio.create_task(server.drain())
        await bus.calls[0].draining.wait()
        with pytest.raises(ServiceUnavailable):
            await client.publish(a_request(), timeout_s=5)
        assert not draining.done()
        release.set()
        assert (await in_flight).sequences == [1]
        await draining


async def test_a_drain_tells_endless_streams_instead_of_waiting_for_them(serve: Serve) -> None:
    server = await serve(ScriptedBus(hangs=True), grace_s=30.0)

    async def requests() -> object:
        yield ConsumeRequest(group="first")
        await asyncio.Event().wait()

    async with aio_channel(server.endpoint) as channel:
        responses = BusClient(channel).consume(requests(), timeout_s=60)
        assert (await anext(responses)).envelope.event_id == "first"
        async with asyncio.timeout(10):
            await server.drain()
            with pytest.raises(ServiceUnavailable, match="draining"):
                await anext(responses)


async def test_a_drain_leaves_the_socket_of_a_successor_alone(serve: Serve) -> None:
    release = asyncio.Event()

    async def wait(request: PublishRequest, call: Call) -> PublishResponse:
        await release.wait()
        return PublishResponse(sequences=[1])

    bus = ScriptedBus(wait)
    server = await serve(bus, grace_s=10.0)
    async with aio_channel(server.endpoint) as channel:
        in_flight = asyncio.create_task(BusClient(channel).publish(a_request(), timeout_s=10))
        await bus.entered.wait()
        draining = asyncio.create_task(server.drain())
        await bus.calls[0].draining.wait()
        path = server.endpoint.path
        assert path is not None
        async with asyncio.timeout(5):
            while path.exists():
                await asyncio.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            release.set()
            await asyncio.gather(in_flight, draining)
            assert path.exists()


async def test_health_says_not_serving_before_the_server_goes(serve: Serve) -> None:
    release = asyncio.Event()

    async def wait(request: PublishRequest, call: Call) -> PublishResponse:
        await release.wait()
        return PublishResponse(sequences=[1])

    bus = ScriptedBus(wait)
    server = await serve(bus, grace_s=10.0)
    async with grpc.aio.insecure_channel(str(server.endpoint)) as raw, aio_channel(server.endpoint) as channel:
        watching = health_pb2_grpc.HealthStub(raw).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        in_flight = asyncio.create_task(BusClient(channel).publish(a_request(), timeout_s=10))
        await bus.entered.wait()
        draining = asyncio.create_task(server.drain())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
        release.set()
        await asyncio.gather(in_flight, draining)


def hanging(link: AioChannel, token: str) -> AsyncIterator[ConsumeResponse]:
    """A stream that stays open after its first answer."""
    opening = ConsumeRequest(group="g", consumer="c", lanes=[BusLane.BUS_LANE_NORMAL])

    async def requests() -> AsyncIterator[ConsumeRequest]:
        yield opening
        await asyncio.Event().wait()

    return BusClient(link, token=token).consume(requests(), timeout_s=30)


async def test_streams_of_one_token_leave_room_for_others_and_for_single_calls(serve: Serve) -> None:
    server = await serve(ScriptedBus(hangs=True), max_in_flight=8)
    async with aio_channel(server.endpoint) as link:
        mine = [hanging(link, "mine") for _ in range(4)]
        for stream in mine:
            await anext(stream)
        with pytest.raises(BackPressure, match="of one token"):
            await anext(hanging(link, "mine"))
        others = [hanging(link, "another"), hanging(link, "a third")]
        for stream in others:
            await anext(stream)
        with pytest.raises(BackPressure, match="6 streams are open"):
            await anext(hanging(link, "a fourth"))
        for _ in range(3):
            assert (await BusClient(link, token="mine").publish(a_request(), timeout_s=10)).sequences == [1]
        await mine.pop().aclose()
        async with asyncio.timeout(10):
            while server.in_flight > 5:
                await asyncio.sleep(0.01)
        await anext(hanging(link, "mine"))


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_a_proxy_is_never_asked_for_this_machine(
    name: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody serves the discard port
    server = await serve(ScriptedBus(), listen="127.0.0.1:0")
    async with aio_channel(server.endpoint) as link:
        assert (await BusClient(link).publish(a_request(), timeout_s=10)).sequences == [1]


@pytest.mark.slow  # pings have a least distance that is seconds
async def test_an_idle_connection_outlives_its_pings(serve: Serve) -> None:
    server = await serve(ScriptedBus(), listen="127.0.0.1:0")
    quick = dict(OPTIONS) | {"grpc.keepalive_time_ms": 5_500}  # the server takes pings every 5 s
    async with grpc.aio.insecure_channel(str(server.endpoint), options=tuple(quick.items())) as raw:
        async with asyncio.timeout(10):
            while (state := raw.get_state(try_to_connect=True)) != grpc.ChannelConnectivity.READY:
                await raw.wait_for_state_change(state)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await raw.wait_for_state_change(grpc.ChannelConnectivity.READY)
