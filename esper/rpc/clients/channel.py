"""Channels that notice a frozen peer within 15 s and a returned one within about a second.

The options are measured ones; grpc's defaults do neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc

from esper.core.errors import ConfigError
from esper.rpc import certificates
from esper.rpc.certificates import require_authorities, require_pair
from esper.rpc.endpoint import Endpoint
from esper.rpc.server.server import MIB, read_pem

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Keepalive alone left calls to a stopped process hanging for over a minute.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    # A resent command would carry a used nonce.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
# Else grpc's Python wakes two threads fifteen times a second for as long as a stream of answers says nothing.
SYNC_OPTIONS = (("SingleThreadedUnaryStream", 1),)
# A proxy is for other machines; grpc would ask it for this one's ports too.
LOCAL_OPTIONS = (*OPTIONS, ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """PEM files of a client: whom it trusts, and who it is where the server asks."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("tls cert, key", (self.cert, self.key), "give both or neither")
        own = (None, None) if self.cert is None else (read_pem("tls key", self.key), read_pem("tls cert", self.cert))
        authorities = read_pem("tls ca", self.ca)
        require_authorities(self.ca, "tls ca")
        if self.cert is not None and self.key is not None:
            require_pair(self.cert, self.key, "tls cert", "tls key")
        return grpc.ssl_channel_credentials(authorities, *own)


def doubt_of(endpoint: str | Endpoint, tls: Tls | None) -> str | None:
    """Why a server can't be spoken to with these files, or without any; None if the reason is another."""
    place = Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
    if place.path is not None:
        return None
    if tls is None:
        return certificates.doubt_without(place)
    return certificates.doubt_of(place, tls.ca, tls.cert, tls.key)


class Channel:
    """A connection to one endpoint that remembers where it leads. Close it once."""

    def __init__(self, raw: grpc.Channel, endpoint: Endpoint) -> None:
        self.raw = raw
        self.endpoint = endpoint
        self.is_closed = False

    def close(self) -> None:
        """Calls in flight end with ServiceUnavailable."""
        self.is_closed = True
        self.raw.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AioChannel:
    """The asyncio twin."""

    def __init__(self, raw: grpc.aio.Channel, endpoint: Endpoint) -> None:
        self.raw = raw
        self.endpoint = endpoint
        self.is_closed = False

    async def close(self) -> None:
        """Calls in flight end with ServiceUnavailable."""
        self.is_closed = True
        await self.raw.close(None)

    async def __aenter__(self) -> AioChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def channel(endpoint: str | Endpoint, tls: Tls | None = None) -> Channel:
    """Open a channel; it connects at the first call."""
    target = _endpoint(endpoint, tls)
    options = (*_options(target), *SYNC_OPTIONS)
    if tls is None:
        return Channel(grpc.insecure_channel(str(target), options), target)
    return Channel(grpc.secure_channel(str(target), tls.credentials(), options), target)


def aio_channel(endpoint: str | Endpoint, tls: Tls | None = None) -> AioChannel:
    """Open an asyncio channel; it connects at the first call."""
    target = _endpoint(endpoint, tls)
    if tls is None:
        return AioChannel(grpc.aio.insecure_channel(str(target), _options(target)), target)
    return AioChannel(grpc.aio.secure_channel(str(target), tls.credentials(), _options(target)), target)


def _endpoint(endpoint: str | Endpoint, tls: Tls | None) -> Endpoint:
    target = Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
    if not target.is_local and tls is None:
        raise ConfigError("endpoint", str(target), "beyond loopback TLS is needed: give the authority's certificate")
    return target


def _options(target: Endpoint) -> tuple[tuple[str, int], ...]:
    return LOCAL_OPTIONS if target.is_local else OPTIONS
