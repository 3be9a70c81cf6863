"""`esper up` as a process: a plane that serves, heals, stops, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.security.keys import Keyring
from esper.leyline import SystemMode, WeatherlightServiceGetStatusRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import WeatherlightClient, channel
from tests.unit.tolaria.plane.test_services import working_in

NAMES = ["weatherlight", "tamiyo", "kasmina"]
TIMEOUT_S = 60.0


class Up:
    """The command, and what it printed."""

    def __init__(self, state_dir: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.log = state_dir.with_suffix(".log")
        command = [sys.executable, "-m", "esper.cli.main", "up", "--state-dir", str(state_dir), *flags]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ESPER_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=inherited | (environ or {}))

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_up(self) -> dict[str, str]:
        """The endpoints by name, once it says them."""
        until(lambda: "stop it: Ctrl-C" in self.said or self.process.poll() is not None)
        found = dict(re.findall(r"^  (\w+) +(\S+)$", self.said, flags=re.MULTILINE))
        assert list(found) == NAMES, self.said
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


def until(condition: Callable[[], bool]) -> None:
    due_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < due_s
        time.sleep(0.02)


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "plane"
    for pid in working_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def pid_of(name: str, state_dir: Path) -> int | None:
    """The process that is the service now."""
    for pid in working_in(state_dir):
        if f"esper.{name}.server" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    return None


def live_services(state_dir: Path, endpoint: str) -> list[str]:
    keyring = Keyring.from_secret((state_dir / "secret").read_text().strip())
    with channel(endpoint) as link:
        client = WeatherlightClient(link, metadata=service_metadata(keyring, "operator"))
        status = client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
    assert status.mode.mode != SystemMode.SYSTEM_MODE_UNSPECIFIED
    return sorted(each.service for each in status.services if not each.is_lost)


def test_a_plane_serves_refuses_a_second_heals_and_stops(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    up = Up(state_dir)
    endpoints = up.wait_up()
    assert endpoints == {name: f"unix:{state_dir}/{name}.sock" for name in NAMES}
    assert f"export ESPER_LEYLINE_SECRET=$(cat {state_dir}/secret)" in up.said
    until(lambda: live_services(state_dir, endpoints["weatherlight"]) == ["kasmina", "tamiyo"])

    assert main(["up", "--state-dir", str(state_dir)]) == 78
    refusal = capsys.readouterr().err
    assert f"a plane runs there already, by another process (pid {up.process.pid} " in refusal
    assert refusal.count("\n") == 1

    dead = pid_of("kasmina", state_dir)
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    until(lambda: "kasmina started again" in up.said)
    assert "kasmina ended with signal SIGKILL" in up.said

    assert up.end(signal.SIGINT) == 0
    assert up.said.splitlines()[-2:] == ["the plane drains", "the plane has stopped"]
    assert working_in(state_dir) == []
    assert not list(state_dir.glob("*.sock"))


def test_a_plane_that_was_killed_leaves_no_process_and_the_next_one_starts_at_once(state_dir: Path) -> None:
    first = Up(state_dir)
    first.wait_up()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    first.log.unlink()
    second = Up(state_dir)
    second.wait_up()
    assert len(working_in(state_dir)) == 1 + len(NAMES)
    assert second.end() == 0
    assert working_in(state_dir) == []


def test_a_plane_at_ports_is_scraped_takes_settings_and_speaks_to_systemd(state_dir: Path, tmp_path: Path) -> None:
    ports = free_ports(2 * len(NAMES))
    scraped = ports + len(NAMES)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tamiyo.toml").write_text("[tamiyo]\nno_such_setting = 1\n")
    flags = ["--port", str(ports), "--metrics-port", str(scraped), "--config", str(tmp_path / "config")]
    refused = Up(state_dir, *flags)
    assert refused.process.wait(TIMEOUT_S) == 78
    assert "no_such_setting" in refused.said
    refused.log.unlink()
    (tmp_path / "config" / "tamiyo.toml").write_text("[tamiyo]\ncommand_deadline_steps = 50\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT_S)
        up = Up(state_dir, *flags, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert systemd.recv(100) == b"READY=1\nSTATUS=serves"
        assert up.wait_up() == {name: f"127.0.0.1:{ports + number}" for number, name in enumerate(NAMES)}
        for number in range(len(NAMES)):
            with socket.create_connection(("127.0.0.1", scraped + number), timeout=TIMEOUT_S):
                pass
        assert up.end() == 0
        assert systemd.recv(100) == b"STOPPING=1"


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for port in range(20_000 + os.getpid() % 10_000, 60_000, count):
        with ExitStack() as stack:
            try:
                for number in range(count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "0"], "give a port from 1 to 65533"),
        (["--metrics-port", "65534"], "give a port from 1 to 65533"),
        (["--config", "/nowhere"], "is no directory"),
        (["--artifact-dir", "/nowhere"], "is no directory"),
        (["--otlp-endpoint", "nowhere"], "--otlp-endpoint = 'nowhere'"),
        (["--state-dir", "/proc/nowhere"], "can't be made: No such file or directory; give a folder that"),
        (["--state-dir", __file__], "is a file, no folder; give a folder that"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    state_dir: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--state-dir", str(state_dir), *flags]) == 78
    assert words in capsys.readouterr().err
    assert not state_dir.exists()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [("ESPER_LEYLINE_SECRET", "weak", "4 bytes are too few"), ("ESPER_KEYRING", "/nowhere", "can't be read")],
)
def test_a_key_that_cant_be_used_is_refused_before_anything_is_made(
    state_dir: Path,
    variable: str,
    value: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["up", "--state-dir", str(state_dir)]) == 78
    assert words in capsys.readouterr().err
    assert not state_dir.exists()


def test_a_port_that_somebody_has_is_refused(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["up", "--state-dir", str(state_dir), "--port", str(port)]) == 78
    assert f"127.0.0.1:{port} can't be had: Address already in use" in capsys.readouterr().err


def test_ports_that_are_asked_for_twice_are_refused(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(4)
    flags = ["--port", str(port), "--metrics-port", str(port + 1)]
    assert main(["up", "--state-dir", str(state_dir), *flags]) == 78
    assert f"127.0.0.1:{port + 1} is one of --port {port} too" in capsys.readouterr().err
    assert not state_dir.exists()


def test_a_service_that_a_killed_plane_left_is_waited_for_and_named(
    state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from esper.cli.services import up
    from esper.core.storage.file_lock import try_hold

    monkeypatch.setattr(up, "HANDOVER_S", 0.1)
    state_dir.mkdir()
    held = try_hold(state_dir / "kasmina.db.lock")
    assert held is not None
    with held:
        assert main(["up", "--state-dir", str(state_dir)]) == 78
    assert f"kasmina.db is still in use by another process (pid {os.getpid()} " in capsys.readouterr().err
