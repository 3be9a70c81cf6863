"""An asyncio grpc server: binds safely, serves with health and reflection, drains without losing a call."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from esper.core.errors import ConfigError
from esper.core.settings.config import require_positive
from esper.leyline import Event
from esper.rpc.certificates import require_authorities, require_pair
from esper.rpc.contract import SERVICES
from esper.rpc.endpoint import Endpoint
from esper.rpc.server.bases import Servicer
from esper.rpc.server.dispatch import Gate, handler_of
from esper.rpc.server.foreign import ParseInterceptor
from esper.rpc.server.mishaps import Mishaps

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """How a service listens and how it stops."""

    listen: str = "127.0.0.1:0"  # HOST:PORT or unix:PATH; port 0 takes a free one
    grace_s: float = 10.0  # how long a drain waits for calls in flight
    deadline_s: float = 30.0  # deadline of a call that brings none; our own clients always bring one
    max_message_bytes: int = 4 * MIB  # larger requests are refused unread
    max_in_flight: int = 256  # more calls at once are refused with RESOURCE_EXHAUSTED
    reflection: bool = True  # lets grpcurl and buf curl call without our protos
    tls_cert: Path | None = None  # PEM certificate chain; needed beyond loopback
    tls_key: Path | None = None  # PEM key of the certificate
    tls_client_ca: Path | None = None  # PEM authorities; set, clients must show a certificate

    def __post_init__(self) -> None:
        require_positive(self, "grace_s", "deadline_s", "max_message_bytes", "max_in_flight")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert, tls_key", (self.tls_cert, self.tls_key), "give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_client_ca", self.tls_client_ca, "give tls_cert and tls_key too")


class Server:
    """A server that is up. `endpoint` is where it can be reached."""

    def __init__(self, server: grpc.aio.Server, endpoint: Endpoint, config: ServerConfig, gate: Gate) -> None:
        self.endpoint = endpoint
        self._server = server
        self._config = config
        self._gate = gate
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving: dict[str, bool] = {}
        self._socket = _identity(endpoint)

    @property
    def in_flight(self) -> int:
        """Calls being answered now."""
        return self._gate.in_flight

    async def set_serving(self, is_serving: bool, service: str = "") -> None:
        """Say by the health check whether a service, or with no name the whole server, does its work."""
        if self._serving.get(service) is is_serving or self._gate.draining.is_set():
            return
        self._serving[service] = is_serving
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, status)

    async def drain(self, grace_s: float | None = None) -> None:
        """Stop: tell health and streams first, let calls in flight end within the grace, then close."""
        if not self._gate.draining.is_set():
            await self._health.enter_graceful_shutdown()
            self._gate.draining.set()
        await self._server.stop(self._config.grace_s if grace_s is None else grace_s)
        # A successor may have put its own socket there already.
        if self.endpoint.path is not None and _identity(self.endpoint) == self._socket is not None:
            self.endpoint.path.unlink(missing_ok=True)


async def start(
    config: ServerConfig, servicers: Sequence[Servicer], tell: Callable[[Event], None] = lambda told: None
) -> Server:
    """Bind, serve and report SERVING; `tell` is given events about calls."""
    endpoint = Endpoint.parse(config.listen, "listen")
    if not endpoint.is_local and config.tls_cert is None:
        raise ConfigError("listen", config.listen, "beyond loopback TLS is needed: give tls_cert and tls_key")
    await claim(endpoint)
    gate = Gate(max_in_flight=config.max_in_flight, deadline_s=config.deadline_s, mishaps=Mishaps(tell=tell))
    raw = grpc.aio.server(options=_options(config), interceptors=[ParseInterceptor(gate.mishaps)])
    raw.add_generic_rpc_handlers(tuple(handler_of(servicer, gate) for servicer in servicers))
    names = [SERVICES[servicer.service].full_name for servicer in servicers]
    server = Server(raw, _bind(raw, endpoint, config), config, gate)
    health_pb2_grpc.add_HealthServicer_to_server(server._health, raw)
    if config.reflection:
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], raw)
    await raw.start()
    for name in ("", *names):
        await server.set_serving(True, name)
    return server


async def claim(endpoint: Endpoint) -> None:
    """Refuse a unix socket that somebody serves; clear away one that nobody does any more."""
    path = endpoint.path
    if path is None or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError("listen", str(endpoint), "a file that is no socket is there; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
                raise ConfigError("listen", str(endpoint), f"can't tell whether it is in use: {error}") from error
    raise ConfigError("listen", str(endpoint), "another process serves it; stop that one or choose another path")


def _identity(endpoint: Endpoint) -> tuple[int, int] | None:
    """Which file the endpoint's socket is; None without one."""
    try:
        status = endpoint.path.stat() if endpoint.path is not None else None
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None


def _bind(server: grpc.aio.Server, endpoint: Endpoint, config: ServerConfig) -> Endpoint:
    # The socket exists from bind on: only the umask keeps it private without a gap.
    before = os.umask(0o177)
    try:
        if config.tls_cert is None:
            port = server.add_insecure_port(str(endpoint))
        else:
            port = server.add_secure_port(str(endpoint), _credentials(config))
    except RuntimeError as error:
        remedy = "can't listen there: another process may, or the directory or address is missing"
        raise ConfigError("listen", str(endpoint), remedy) from error
    finally:
        os.umask(before)
    return endpoint if endpoint.path is not None else Endpoint(host=endpoint.host, port=port)


def _credentials(config: ServerConfig) -> grpc.ServerCredentials:
    key, chain = read_pem("tls_key", config.tls_key), read_pem("tls_cert", config.tls_cert)
    authorities = None if config.tls_client_ca is None else read_pem("tls_client_ca", config.tls_client_ca)
    if config.tls_client_ca is not None:
        require_authorities(config.tls_client_ca, "tls_client_ca")
    if config.tls_cert is not None and config.tls_key is not None:
        require_pair(config.tls_cert, config.tls_key, "tls_cert", "tls_key")
    return grpc.ssl_server_credentials([(key, chain)], authorities, authorities is not None)


def read_pem(key: str, path: Path | None) -> bytes:
    """A PEM file, or the setting that names it as an error."""
    try:
        return Path(path or "").read_bytes()
    except OSError as error:
        raise ConfigError(key, str(path), f"can't be read: {error.strerror}") from error


def _options(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    return (
        # Without this a second server shares the port silently, and there are two ledgers.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Clients ping every 10 s; the default would hang up on them.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # Those of idle clients too: without this, a connection without calls may be pinged every two hours only.
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that froze is noticed within 15 s.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
    )
