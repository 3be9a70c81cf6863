"""The main of a service: exit codes, one line for an error, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.core.errors import CorruptRecord, EsperError, ForbiddenStorage, StorageError, UnwritableStorage
from esper.leyline import HealthStatus, PublishResponse
from esper.rpc import process
from esper.rpc.clients import channel, wait_serving
from esper.rpc.clients.health import is_serving
from esper.rpc.process import ServiceContext, run_service, watch_health
from esper.rpc.reporting.telemetry import LogReporter
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.scripted import SECRET, ScriptedBus, a_request

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    """A service without settings."""


def build(context: ServiceContext[Nothing]) -> Sequence[ScriptedBus]:
    return [ScriptedBus()]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--listen", "0.0.0.0:0"], "TLS"),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--log-level", "loud"], "log_level"),
        (["--config", "/no/such/file.toml"], "can't be read"),
        (["--metrics-listen", "unix:/x"], "Prometheus"),
        (["--metrics-listen", "192.0.2.1:1"], "TLS"),
        (["--weatherlight", "192.0.2.1:1"], "TLS"),
    ],
)
def test_unusable_settings_end_with_78_and_one_line(
    argv: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_service("kasmina", build, ["--state-dir", str(tmp_path), *argv], config_type=Nothing)
    complaints = capsys.readouterr().err.splitlines()
    assert code == 78
    assert len(complaints) == 1
    assert complaints[0].startswith("esper-kasmina: ")
    assert complaint in complaints[0]


@pytest.mark.parametrize(("value", "complaint"), [(None, "ESPER_LEYLINE_SECRET"), ("short", "too few")])
def test_without_a_strong_secret_no_service_starts(
    value: str | None,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("ESPER_LEYLINE_SECRET", value)
    assert run_service("kasmina", build, ["--state-dir", str(tmp_path)], config_type=Nothing) == 78
    assert complaint in capsys.readouterr().err


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (EsperError("it went wrong"), "esper-kasmina: it went wrong"),
        (ZeroDivisionError("oh"), "esper-kasmina: unexpected ZeroDivisionError: oh (--log-level debug shows more)"),
    ],
)
def test_a_failing_start_ends_with_1_and_one_line(
    error: Exception, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: ServiceContext[Nothing]) -> Sequence[ScriptedBus]:
        raise error

    assert run_service("kasmina", fail, ["--state-dir", str(tmp_path)], config_type=Nothing) == 1
    assert capsys.readouterr().err.splitlines() == [line]


class Told(LogReporter):
    """A reporter that keeps what it is told of the process's health."""

    def __init__(self) -> None:
        self.healths: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        self.healths.put_nowait((health, summary))


async def test_health_check_and_heartbeats_say_what_the_servicers_say(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HEALTH_PERIOD_S", 0.01)
    bus, told, is_ready = ScriptedBus(), Told(), True
    monkeypatch.setattr(bus, "is_ready", lambda: is_ready)
    server = await serve(bus)
    watching = asyncio.create_task(watch_health(server, [bus], told))
    async with asyncio.timeout(15):
        assert await told.healths.get() == (HealthStatus.HEALTH_STATUS_HEALTHY, "")
        is_ready = False
        while (heard := await told.healths.get())[0] == HealthStatus.HEALTH_STATUS_HEALTHY:
            pass
        with channel(server.endpoint) as link:
            assert not await asyncio.to_thread(lambda: is_serving(link, "BusService", timeout_s=5))
    assert heard == (HealthStatus.HEALTH_STATUS_UNHEALTHY, "esper.leyline.v1.BusService can't do its work")
    watching.cancel()


@pytest.mark.usefixtures("secret")
def test_a_service_may_stop_itself_and_closes_its_servicers(tmp_path: Path, socket_dir: Path) -> None:
    made: list[ScriptedBus] = []

    async def stop_at_once(context: ServiceContext[Nothing]) -> Sequence[ScriptedBus]:
        assert context.name == "kasmina"
        made.append(ScriptedBus())
        context.stop(1.0)
        return made

    argv = ["--state-dir", str(tmp_path / "new"), "--listen", f"unix:{socket_dir}/s"]
    assert run_service("kasmina", stop_at_once, argv, config_type=Nothing) == 0
    assert made[0].closed
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("secret")
def test_a_watcher_that_fails_ends_the_process_with_its_cause(
    tmp_path: Path, socket_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Torn(ScriptedBus):
        def is_ready(self) -> bool:
            raise RuntimeError("nobody knows how it feels")

    argv = ["--state-dir", str(tmp_path / "new"), "--listen", f"unix:{socket_dir}/s"]
    assert run_service("kasmina", lambda context: [Torn()], argv, config_type=Nothing) == 1
    assert "nobody knows how it feels" in capsys.readouterr().err


PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from tests.unit.rpc.scripted import ScriptedBus
    from tests.unit.rpc.test_process import Nothing
    from esper.leyline import HealthStatus, PublishResponse
    from esper.rpc.process import run_service

    async def slowly(request, call):
        print("working", flush=True)
        await asyncio.sleep(0.3)
        return PublishResponse(sequences=[7])

    assert "torch" not in sys.modules
    sys.exit(run_service("kasmina", lambda context: [ScriptedBus(slowly)], sys.argv[1:], config_type=Nothing))
    """
)


def started(*argv: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ESPER_LEYLINE_SECRET": SECRET, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, *argv]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGHUP, signal.SIGHUP)])
def test_sigterm_or_a_hang_up_drains_what_is_in_flight_and_ends_with_0(
    signals: Sequence[signal.Signals], tmp_path: Path, socket_dir: Path
) -> None:
    listen = f"unix:{socket_dir}/s"
    with started("--listen", listen, "--state-dir", str(tmp_path)) as process, channel(listen) as link:
        assert process.stdout is not None
        assert process.stdout.readline() == f"esper-kasmina listens on {listen}\n"
        wait_serving(link, timeout_s=10)
        answer = link.raw.unary_unary(
            "/esper.leyline.v1.BusService/Publish",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=PublishResponse.FromString,
        ).future(a_request(), timeout=10)
        assert process.stdout.readline() == "working\n"
        for number in signals:
            process.send_signal(number)
        assert answer.result().sequences == [7]
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()  # whoever leaves the block waits for it


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CorruptRecord("a.db is damaged"), 65, "a.db is damaged"),
        (StorageError("a.db is a directory"), 65, "a.db is a directory"),
        (UnwritableStorage("a.db can't be written"), 74, "a.db can't be written"),
        (OSError(errno.ENOSPC, "No space left", "a.log"), 74, "a.log can't be written: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "a.log"), 77, "a.log can't be used: Permission denied"),
        (ForbiddenStorage("a.db can't be used"), 77, "a.db can't be used"),
    ],
)
def test_a_start_that_storage_keeps_from_serving_says_by_its_code_why(
    error: Exception, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: ServiceContext[Nothing]) -> Sequence[ScriptedBus]:
        raise error

    assert run_service("kasmina", fail, ["--state-dir", str(tmp_path)], config_type=Nothing) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_waits_for_something_that_never_comes(number: int, tmp_path: Path) -> None:
    def wait(context: ServiceContext[Nothing]) -> Sequence[ScriptedBus]:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        Future[None]().result(20)
        return []

    before = signal.getsignal(number)
    assert run_service("kasmina", wait, ["--state-dir", str(tmp_path)], config_type=Nothing) == 128 + number
    assert signal.getsignal(number) is before
