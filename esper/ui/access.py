"""Who may read the page: the holder of its token, over its own host name, from this machine.

The Host header is checked because a foreign page may point a name of its own at 127.0.0.1 and have the browser ask
here. The token is compared in constant time, and stands in the page's address, which the browser sends nowhere else.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from esper.core.errors import ConfigError
from esper.rpc.endpoint import Endpoint

TOKEN_BYTES = 24
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The token of one server, and the names under which it may be asked."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)

    def is_own_host(self, host: str | None) -> bool:
        """Whether a Host header names this server."""
        return host in {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    def admits(self, authorization: str | None, query: str) -> bool:
        """Whether a request brings the token, as `Authorization: Bearer` or as `token` in its address."""
        kind, _, bearer = (authorization or "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else parse_qs(query).get("token", [""])[0]
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def local(listen: str) -> Endpoint:
    """Where to listen. Raises ConfigError for what other machines could reach: the page has no TLS."""
    endpoint = Endpoint.parse(listen, "--listen")
    if endpoint.path is not None:
        raise ConfigError("--listen", listen, "browsers open TCP: use HOST:PORT")
    if not endpoint.is_local:
        remedy = "the page is served on loopback alone; from another machine, forward the port (ssh -L)"
        raise ConfigError("--listen", listen, remedy)
    return endpoint
