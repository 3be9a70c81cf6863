"""Endpoints: `HOST:PORT` or `unix:PATH`, parsed once, refused with the reason when they can't be used."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from esper.core.errors import ConfigError

# sun_path holds 108 bytes on Linux, the closing zero included.
MAX_SOCKET_PATH_BYTES = 107
FORMS = "use HOST:PORT, [IPV6]:PORT or unix:PATH"
COLLECTOR_FORMS = "use HOST:PORT, http://HOST:PORT or https://HOST:PORT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a service listens: a unix socket if `path` is set, else TCP."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str, key: str = "endpoint") -> Endpoint:
        """Read an endpoint; `key` names the setting in errors."""
        if text.startswith("unix:"):
            return cls._parse_unix(text, key)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(key, text, FORMS)
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ConfigError(key, text, FORMS)
        return cls(host=host.strip("[]"), port=int(port))

    @classmethod
    def _parse_unix(cls, text: str, key: str) -> Endpoint:
        name = text.removeprefix("unix:")
        name = name.removeprefix("//") if name.startswith("///") else name
        if not name:
            raise ConfigError(key, text, FORMS)
        path = Path(name).absolute()
        if (size := len(bytes(path))) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                key, text, f"the path takes {size} bytes, at most {MAX_SOCKET_PATH_BYTES} fit; shorten it"
            )
        return cls(path=path)

    @property
    def is_local(self) -> bool:
        """True if no other machine can reach it."""
        return self.path is not None or is_local_host(self.host)

    def __str__(self) -> str:
        """The text that `parse` reads and that grpc takes as a target."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def collector_url(text: str, key: str = "otlp_endpoint") -> str:
    """The address of a collector of traces, with its scheme; `key` names the setting in errors."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(parts.port)
        is_whole = is_whole and not any(sign.isspace() for sign in text)
    except ValueError:  # a port that is none, a bracket that isn't closed
        is_whole = False
    if not is_whole:
        raise ConfigError(key, text, COLLECTOR_FORMS)
    return url


def is_local_host(host: str) -> bool:
    """True for this machine's own loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
