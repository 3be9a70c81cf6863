"""What is told to systemd arrives at a real socket, or nowhere without harm."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.process.sd_notify import forget, notify, watchdog_s


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(10)
        yield made


def test_a_message_is_one_datagram_of_lines(listener: socket.socket, tmp_path: Path) -> None:
    listener.bind(str(tmp_path / "notify"))
    assert notify("READY=1", "STATUS=serves", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert listener.recv(1024) == b"READY=1\nSTATUS=serves"


def test_an_abstract_address_begins_with_a_zero_byte(listener: socket.socket) -> None:
    name = f"esper-{secrets.token_hex(8)}@x"
    listener.bind(f"\0{name}")
    assert notify("STOPPING=1", environ={"NOTIFY_SOCKET": f"@{name}"})
    assert listener.recv(1024) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "relative", "@" + "x" * 200, "vsock:2:1234"])
def test_nobody_who_listens_is_no_harm(address: str) -> None:
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": address})
    assert not notify("READY=1", environ={})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_s(environ) == expected


def test_what_is_forgotten_still_speaks_for_this_process(listener: socket.socket, tmp_path: Path) -> None:
    listener.bind(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1", "HOME": "/root"}
    kept = forget(environ)
    assert environ == {"HOME": "/root"}
    assert notify("READY=1", environ=kept)
