"""The standard health check, asked once, waited for, or watched."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper.core.errors import ServiceUnavailable
from esper.rpc.clients.channel import Channel
from esper.rpc.contract import SERVICES

POLL_S = 0.05
# One watch lasts this long before it is opened anew.
WATCH_S = 3600.0
_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


def full_name(service: str) -> str:
    """`KasminaService` or "" (the whole server), as the health check names it."""
    return SERVICES[service].full_name if service in SERVICES else service


def is_serving(channel: Channel, service: str = "", *, timeout_s: float) -> bool:
    """Whether the service does its work now; False too if it can't be reached in time."""
    return _asked(channel, service, timeout_s) is True


def answers(channel: Channel, *, timeout_s: float) -> bool:
    """Whether somebody is there who says how it is, also one that can't do its work now."""
    return _asked(channel, "", timeout_s) is not None


def _asked(channel: Channel, service: str, timeout_s: float) -> bool | None:
    """Whether the service says that it serves; None without an answer in time."""
    stub = health_pb2_grpc.HealthStub(channel.raw)
    request = health_pb2.HealthCheckRequest(service=full_name(service))
    try:
        answer = stub.Check(request, timeout=timeout_s, wait_for_ready=True)
    except grpc.RpcError:
        return None
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_serving(channel: Channel, service: str = "", *, timeout_s: float) -> None:
    """Return as soon as the service serves."""
    deadline = time.monotonic() + timeout_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        if is_serving(channel, service, timeout_s=remaining_s):
            return
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
    remedy = f"not serving after {timeout_s:g} s; see its log, or that it listens there"
    raise ServiceUnavailable("rpc", "service", f"{service or 'server'} at {channel.endpoint}", remedy)


def watch(channel: Channel, service: str = "") -> Iterator[bool]:
    """True and False at each change, for as long as the channel is open: a lost connection is False."""
    stub = health_pb2_grpc.HealthStub(channel.raw)
    request = health_pb2.HealthCheckRequest(service=full_name(service))
    last: bool | None = None
    while not channel.is_closed:
        for serving in _states(stub, request, channel):
            if serving is not last:
                last = serving
                yield serving


def _states(
    stub: health_pb2_grpc.HealthStub, request: health_pb2.HealthCheckRequest, channel: Channel
) -> Iterator[bool]:
    """One watch, until it breaks."""
    try:
        for answer in stub.Watch(request, timeout=WATCH_S, wait_for_ready=True):
            yield answer.status == health_pb2.HealthCheckResponse.SERVING
    except grpc.RpcError as error:
        if not channel.is_closed and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            yield False
        if error.code() in _GONE:
            raise ServiceUnavailable("rpc", "health check", str(channel.endpoint), "the peer has none") from error
    except ValueError:
        # The channel was closed between two calls.
        return
