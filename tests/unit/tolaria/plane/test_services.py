"""Secrets of services, what is said of services that don't come up, and how those that do share the machine."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from esper.core.errors import ConfigError, CorruptRecord, ServiceUnavailable, UnwritableStorage
from esper.core.security.keys import new_secret
from esper.rpc.server.server import ServerConfig, start
from esper.tolaria.plane.services import SECRET_VARIABLE, Child, Services, ServicesConfig, run_secret
from tests.unit.rpc.scripted import ScriptedBus


def test_a_fresh_secret_is_private_and_used_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = run_secret(path, {}, are_all_spawned=True)
    assert secret is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run_secret(path, {}, are_all_spawned=True) == secret


def test_a_service_elsewhere_has_its_own_secret(tmp_path: Path) -> None:
    run_secret(tmp_path / "secret", {}, are_all_spawned=True)
    assert run_secret(tmp_path / "secret", {}, are_all_spawned=False) is None
    assert run_secret(tmp_path / "secret", {SECRET_VARIABLE: "given"}, are_all_spawned=False) == "given"


def test_a_service_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    absent = f"unix:{tmp_path}/absent.sock"
    config = ServicesConfig(
        weatherlight=absent, tamiyo=absent, kasmina=absent, state_dir=tmp_path, connect_timeout_s=0.3
    )
    with (
        pytest.raises(ServiceUnavailable, match=r"'weatherlight'.*absent.sock within 0.3 s; start it.*--weatherlight"),
        Services(config, None, lambda name, text: None),
    ):
        pass


async def test_a_service_that_answers_but_is_not_ready_is_told_as_that_and_of_weatherlight_the_mode_tells_why(
    tmp_path: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="esper-") as directory:
        server = await start(ServerConfig(listen=f"unix:{directory}/s"), [ScriptedBus()])
        await server.set_serving(False, "")
        place = str(server.endpoint)
        config = ServicesConfig(
            weatherlight=place, tamiyo=place, kasmina=place, state_dir=tmp_path, connect_timeout_s=0.3
        )
        services = Services(config, None, lambda name, text: None)
        with pytest.raises(ServiceUnavailable, match=r"'tamiyo'.*it answers at .*, but isn't ready after 0.3 s"):
            await asyncio.to_thread(services.start)
        services.stop()
        await server.drain(0.1)


def test_a_child_that_refuses_its_settings_says_why(tmp_path: Path) -> None:
    config = ServicesConfig(state_dir=tmp_path, extra_arguments={"weatherlight": ("--listen", "nowhere")})
    with pytest.raises(ConfigError, match="listen"), Services(config, new_secret(), lambda name, text: None):
        pass


class Starved(Services):
    """On a machine that has no process to spare."""

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_child_that_cannot_be_started_again_is_told_and_ends_no_supervision(tmp_path: Path) -> None:
    told: list[str] = []
    services = Starved(
        ServicesConfig(state_dir=tmp_path, restart_limit=1, retry_s=0.0), None, lambda name, text: told.append(name)
    )
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    child = Child("tamiyo", "unix:/t", dead)
    services._revive(child, 1)
    services._revive(child, 1)
    assert told == ["service_lost", "service_not_restarted", "service_lost", "service_given_up"]
    services.stop()


def test_pauses_before_a_start_double_up_to_a_limit_are_jittered_and_forgiven_after_a_healthy_time(
    tmp_path: Path,
) -> None:
    config = ServicesConfig(state_dir=tmp_path, restart_limit=None, retry_s=1.0, max_retry_s=4.0, healthy_s=100.0)
    services = Services(config, None, lambda name, text: None)
    child = Child("tamiyo", "unix:/t", subprocess.Popen([sys.executable, "-c", ""]))
    child.process.wait()
    for least_s in (1.0, 2.0, 4.0, 4.0):
        assert least_s <= services._noted(child, 1) <= least_s * 1.25
    child.began_s -= 100.0
    assert 1.0 <= services._noted(child, 1) <= 1.25
    services.stop()


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """Nothing can be written there: not even the directory is."""
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


def test_a_child_that_died_of_a_full_disk_is_started_as_soon_as_there_is_room(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    state_dir = tmp_path / "plane"
    state_dir.mkdir()
    config = ServicesConfig(state_dir=state_dir, restart_limit=None, retry_s=60.0, max_retry_s=60.0)
    services = EndingLater(config, None, lambda name, text: told.append(name))
    dead = services._spawn("kasmina")
    assert dead.wait() == 74
    services.ends = {}
    child = Child("kasmina", "unix:/k", dead)
    with no_room(state_dir):
        for _ in range(3):
            services._revive(child, 74)
        assert told == ["service_lost"]
    services._revive(child, 74)
    assert told == ["service_lost", "service_restarted"]
    child.process.kill()
    child.process.wait()
    services.stop()


def test_a_child_that_died_of_its_storage_though_there_is_room_waits_like_any_other(tmp_path: Path) -> None:
    told: list[str] = []
    config = ServicesConfig(state_dir=tmp_path, restart_limit=None, retry_s=60.0, max_retry_s=60.0)
    services = EndingLater(config, None, lambda name, text: told.append(name))
    dead = services._spawn("kasmina")
    assert dead.wait() == 74
    for _ in range(3):
        services._revive(Child("kasmina", "unix:/k", dead), 74)
    assert told == ["service_lost"] * 3
    services.stop()


def test_a_child_that_waits_for_its_next_start_keeps_no_other_from_it(tmp_path: Path) -> None:
    told: list[str] = []
    config = ServicesConfig(state_dir=tmp_path, retry_s=60.0, max_retry_s=60.0)
    services = Starved(config, None, lambda name, text: told.append(text))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in ("tamiyo", "kasmina"):
        services._revive(Child(name, "unix:/t", dead), 1)
    assert [text.partition(" ")[0] for text in told] == ["tamiyo", "kasmina"]
    services.stop()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the scheduling class is Linux's")
def test_spawned_services_leave_the_processor_to_the_training(tmp_path: Path) -> None:
    with Services(ServicesConfig(state_dir=tmp_path / "services"), new_secret(), lambda name, text: None) as services:
        for name in ("weatherlight", "tamiyo", "kasmina"):
            pid = services.pid(name)
            assert pid is not None
            policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")}
            assert policies == {os.SCHED_BATCH}
            assert os.getsid(pid) == os.getsid(0)
            assert os.getpgid(pid) == pid
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


STARTS = textwrap.dedent(
    """
    import pathlib, sys, time
    from esper.core.security.keys import new_secret
    from esper.tolaria.plane import services

    spawn = services.Services._spawn

    def telling(self, name):
        process = spawn(self, name)
        print(name, flush=True)
        return process

    services.Services._spawn = telling
    config = services.ServicesConfig(state_dir=pathlib.Path(sys.argv[1]))
    with services.Services(config, new_secret(), lambda name, text: None):
        time.sleep(600)
    """
)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
@pytest.mark.parametrize("offset_ms", [0, 5, 20, 50, 100, 150, 200, 300, 400, 500, 700, 1000])
def test_no_service_outlives_a_killed_trainer(tmp_path: Path, offset_ms: int) -> None:
    command = [sys.executable, "-c", STARTS, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "weatherlight\n"
        time.sleep(offset_ms / 1000)
        process.kill()
    until = time.monotonic() + 20
    while (left := working_in(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    # Nobody holds a database any more.
    with Services(ServicesConfig(state_dir=tmp_path / "state"), new_secret(), lambda name, text: None):
        pass


def working_in(folder: Path) -> list[int]:
    """Processes with the folder on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(int(entry.name))
    return found


def test_a_service_that_was_started_again_serves_until_its_turn_to_stop(tmp_path: Path) -> None:
    told: list[str] = []
    alive_after: dict[str, bool] = {}

    class Watched(Services):
        def _end(self, children: Sequence[Child]) -> None:
            super()._end(children)
            time.sleep(0.5)  # what stops too early has ended by then
            is_alive = self._children["weatherlight"].process.poll() is None
            alive_after.update((child.name, is_alive) for child in children)

    with Watched(ServicesConfig(state_dir=tmp_path), new_secret(), lambda name, text: told.append(name)) as services:
        pid = services.pid("weatherlight")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while "service_restarted" not in told and time.monotonic() < until:
            time.sleep(0.05)
        services._wait_serving("weatherlight")
    assert alive_after == {"kasmina": True, "tamiyo": True, "weatherlight": False}


class Ending(Services):
    """Whose children print a line and end; the others live on without serving."""

    ends: Mapping[str, int] = MappingProxyType({"weatherlight": 74})

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        code = self.ends.get(name)
        body = "time.sleep(60)" if code is None else f"print('disk is full', flush=True); sys.exit({code})"
        with (self._config.state_dir / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", f"import sys, time; {body}"], stdout=log)


class EndingLater(Ending):
    ends = MappingProxyType({"kasmina": 74})


@pytest.mark.parametrize(("kind", "name"), [(Ending, "weatherlight"), (EndingLater, "kasmina")])
def test_a_child_that_dies_of_its_storage_is_the_cause_whichever_is_waited_for(
    tmp_path: Path, kind: type[Ending], name: str
) -> None:
    config = ServicesConfig(state_dir=tmp_path, stop_timeout_s=1.0)
    with (
        pytest.raises(UnwritableStorage, match=rf"service {name} can't write: disk is full; make room"),
        kind(config, new_secret(), lambda name, text: None),
    ):
        pass


def test_a_death_of_storage_is_remembered_when_the_child_was_started_again_and_told_with_its_last_line(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    config = ServicesConfig(state_dir=tmp_path, retry_s=0.0)
    services = EndingLater(config, None, lambda name, text: told.append(text))
    dead = services._spawn("kasmina")
    child = Child("kasmina", "unix:/k", dead)
    services._children["kasmina"] = child
    assert dead.wait() == 74
    services.ends = {}
    services._revive(child, 74)
    assert child.process.poll() is None
    assert isinstance(services.death(), UnwritableStorage)
    assert told[0] == "kasmina ended with code 74: disk is full"
    services.stop()


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_children_that_do_not_end_are_killed_together_and_that_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    config = ServicesConfig(state_dir=tmp_path, stop_timeout_s=0.5)
    services = Services(config, None, lambda name, text: told.append((name, text)))
    for name in ("kasmina", "tamiyo"):
        process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        services._children[name] = Child(name, "unix:/s", process)
    began = time.monotonic()
    services.stop()
    assert time.monotonic() - began < 0.95  # one after the other they would take twice the wait
    assert told == [
        ("service_killed", f"{name} did not end within 0.5 s of SIGTERM and was killed")
        for name in ("kasmina", "tamiyo")
    ]
    assert all(child.process.returncode == -signal.SIGKILL for child in services._children.values())
    for child in services._children.values():
        child.process.stdout.close()


DRAINING = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('up', flush=True); signal.pause()"
)


@pytest.mark.parametrize("is_woken_before", [False, True])
def test_a_child_that_somebody_has_stopped_ends_by_itself(tmp_path: Path, is_woken_before: bool) -> None:
    told: list[tuple[str, str]] = []
    services = Services(ServicesConfig(state_dir=tmp_path), None, lambda name, text: told.append((name, text)))
    with subprocess.Popen([sys.executable, "-c", DRAINING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        services._children["kasmina"] = Child("kasmina", "unix:/s", process)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        if is_woken_before:
            services.wake()
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        services.stop()
        assert process.returncode == 3
    assert told == []


def test_once_the_run_was_asked_to_stop_nobody_waits_long_for_a_child_that_is_frozen_again_or_deaf(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, str]] = []
    config = ServicesConfig(state_dir=tmp_path, hurried_stop_s=0.3)
    services = Services(config, None, lambda name, text: told.append((name, text)))
    for name in ("kasmina", "tamiyo"):
        process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        services._children[name] = Child(name, "unix:/s", process)
    frozen = services._children["kasmina"].process
    supervising = threading.Thread(target=services._supervise)
    supervising.start()
    services.wake()
    os.waitid(os.P_PID, frozen.pid, os.WNOHANG | os.WCONTINUED)
    frozen.send_signal(signal.SIGSTOP)
    assert frozen.wait(30) == -signal.SIGKILL
    assert services._children["tamiyo"].process.poll() is None  # it may still answer
    services.stop()
    supervising.join()
    assert told == [
        ("service_killed", "kasmina was frozen 0.3 s after the run was asked to stop and was killed"),
        ("service_killed", "tamiyo did not end within 0.3 s of SIGTERM and was killed"),
    ]
    for child in services._children.values():
        child.process.stdout.close()


def test_what_a_child_says_last_is_heard_though_its_log_could_not_take_it(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.mkdir()
    (blocked / "weatherlight.db").mkdir()
    config = ServicesConfig(state_dir=blocked)
    (blocked / "weatherlight.log").symlink_to("/dev/full")
    with (
        pytest.raises(CorruptRecord, match=r"weatherlight\.db can't be opened as a database: Is a directory"),
        Services(config, new_secret(), lambda name, text: None),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff" * 43, b"short"])
def test_a_damaged_secret_is_told_by_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match=r"secret.*damaged; remove it"):
        run_secret(tmp_path / "secret", {}, are_all_spawned=True)


def test_a_pipe_in_place_of_a_secret_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", mode=0o600)
    with pytest.raises(ConfigError, match=r"secret.*it is no regular file; remove it"):
        run_secret(tmp_path / "secret", {}, are_all_spawned=True)
