"""The page's server: three files and three answers in JSON, all of them read only.

    /                          the page                                  /page.js  /page.css
    /api/runs                  the runs that may be shown
    /api/view?run=&since=      a run's view, or null where `since` is its version still, with its liveness
    /api/plane?run=            what the run's control plane says

A path is looked up among these, never opened: nothing else can be asked for.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from esper import __version__
from esper.core.errors import ConfigError, DependencyViolationError
from esper.rpc.endpoint import Endpoint
from esper.tolaria.record.page.assets import asset
from esper.ui.access import HEADERS, Access
from esper.ui.shelf import Shelf

TYPES = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
IDLE_S = 15.0
"""A connection that says nothing for this long is closed."""
LONGEST_NAME = 300
NO_TOKEN = (
    "This page needs the token that is part of its address. `esper ui` printed the whole address; "
    "open that one, with everything behind the question mark.\n"
)
FOREIGN = "This server is asked as 127.0.0.1 or localhost, with its port, and under no other name.\n"
NO_ADDRESS = "What was asked for is no address. Open the one that `esper ui` printed.\n"

Answer = Callable[["PageServer", Mapping[str, str]], Any]


class PageServer(ThreadingHTTPServer):
    """Serves the runs of one shelf until it is shut down. Raises ConfigError where it can't listen."""

    daemon_threads = True

    def __init__(self, endpoint: Endpoint, shelf: Shelf, *, jaeger: str = "") -> None:
        self.shelf = shelf
        self.jaeger = jaeger
        if ":" in endpoint.host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((endpoint.host, endpoint.port), Handler)
        except OSError as error:
            raise ConfigError("--listen", str(endpoint), f"can't listen there: {error.strerror}") from error
        self.access = Access(port=self.server_address[1])

    @property
    def url(self) -> str:
        """The page's address, with its token."""
        host = str(self.server_address[0])
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.access.port}/?token={self.access.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away is nothing to tell."""


def runs(server: PageServer, given: Mapping[str, str]) -> Any:
    return {"version": __version__, "runs": list(server.shelf.names()), "jaeger": server.jaeger}


def shown(server: PageServer, given: Mapping[str, str]) -> Any:
    followed = server.shelf.following(given.get("run", ""))
    version, view = followed.look()
    is_known = given.get("since") == version
    return {"version": version, "live": followed.liveness(), "view": None if is_known else view}


def plane(server: PageServer, given: Mapping[str, str]) -> Any:
    return server.shelf.plane(given.get("run", "")).look()


ANSWERS: Mapping[str, Answer] = {"/api/runs": runs, "/api/view": shown, "/api/plane": plane}


class Handler(BaseHTTPRequestHandler):
    """One request: whose it is comes first, then what it asks for."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "esper", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, "text/plain", NO_ADDRESS.encode())
            return
        access = self.server.access
        if not access.is_own_host(self.headers.get("Host")):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", FOREIGN.encode())
        elif parts.path in FILES and parts.path != "/":
            name = FILES[parts.path]
            self._send(HTTPStatus.OK, TYPES[name], asset(name))
        elif not access.admits(self.headers.get("Authorization"), parts.query):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", NO_TOKEN.encode())
        elif parts.path == "/":
            self._send(HTTPStatus.OK, "text/html", asset("page.html"))
        elif parts.path in ANSWERS:
            self._answer(ANSWERS[parts.path], parts.query)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing at this address.\n")

    do_HEAD = do_GET  # noqa: N815 - the name that the base class calls

    def _answer(self, answer: Answer, query: str) -> None:
        given = {name: values[0][:LONGEST_NAME] for name, values in parse_qs(query).items()}
        try:
            status, told = HTTPStatus.OK, answer(self.server, given)
        except DependencyViolationError as error:
            status, told = HTTPStatus.NOT_FOUND, {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the edge of a request: the page says what went wrong
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            told = {"error": f"{type(error).__name__}: {error}"}
        self._send(status, "application/json", json.dumps(told, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold the token: none is logged."""
