"""Endpoints are read once, and refused with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ConfigError
from esper.rpc.endpoint import MAX_SOCKET_PATH_BYTES, Endpoint, collector_url


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:7700", "127.0.0.1", 7700, None),
        ("localhost:0", "localhost", 0, None),
        ("[::1]:80", "::1", 80, None),
        ("unix:/run/esper.sock", "", 0, Path("/run/esper.sock")),
        ("unix:///run/esper.sock", "", 0, Path("/run/esper.sock")),
    ],
)
def test_both_forms_are_read(text: str, host: str, port: int, path: Path | None) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, endpoint.path) == (host, port, path)


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "host:", "host:x", "host:70000", "host:-1", "::1:80", "unix:", "h:８０"]
)
def test_anything_else_is_refused_with_the_setting_and_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"tamiyo = .*HOST:PORT"):
        Endpoint.parse(text, "tamiyo")


def test_a_socket_path_that_does_not_fit_is_refused_with_its_size() -> None:
    longest = "/" + "a" * (MAX_SOCKET_PATH_BYTES - 1)
    assert Endpoint.parse(f"unix:{longest}").path == Path(longest)
    with pytest.raises(ConfigError, match="takes 108 bytes"):
        Endpoint.parse(f"unix:{longest}a")


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_only_loopback_and_sockets_are_local(text: str, is_local: bool) -> None:
    assert Endpoint.parse(text).is_local is is_local


@given(st.one_of(st.ip_addresses(), st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)), st.integers(0, 65535))
def test_writing_and_reading_give_the_same_endpoint(host: object, port: int) -> None:
    endpoint = Endpoint(host=str(host), port=port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize("text", ["localhost:4317", "http://10.0.0.1:4317", "https://[::1]:4317"])
def test_a_collector_has_a_scheme(text):
    assert collector_url(text) == (text if "://" in text else f"http://{text}")


@pytest.mark.parametrize(
    "text", ["bad", "", "http://", "host:", "host:x", "host:99999", "ftp://host:1", "unix:/a", "[::1:4", "a b:1"]
)
def test_a_collector_that_cannot_be_one_is_refused_with_the_forms(text):
    with pytest.raises(ConfigError, match=r"--otlp-endpoint = .*: use HOST:PORT, http://HOST:PORT or"):
        collector_url(text, "--otlp-endpoint")
