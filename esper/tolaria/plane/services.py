"""The services that a run works with: spawned as children, or connected to by endpoint.

Children are started in order (Weatherlight, Tamiyo, Kasmina), stopped the other way round, started again when they die,
and end with their parent. Only what was started here is stopped here.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from esper.core.errors import (
    ConfigError,
    CorruptRecord,
    EsperError,
    ForbiddenStorage,
    ServiceUnavailable,
    UnwritableStorage,
)
from esper.core.process import last_word
from esper.core.process.child import child_command
from esper.core.security.keys import new_secret, read_secret
from esper.core.storage.files import has_room, write_new
from esper.rpc.clients import Channel, Tls, channel, doubt_of
from esper.rpc.clients.health import answers, wait_serving
from esper.tolaria.plane.runtime_dir import SOCKET, RuntimeDir

START_ORDER = ("weatherlight", "tamiyo", "kasmina")
# Urza's prefetch is served where the bus is.
ARTIFACT_READERS = ("weatherlight", "kasmina")
SPAWN = "spawn"
SECRET_VARIABLE = "ESPER_LEYLINE_SECRET"
# The largest share of a pause that is added to it at random: what died together doesn't come back together.
JITTER = 0.25
# Who publishes ends before who is published to: Tamiyo and Kasmina at once, then Weatherlight.
END_ORDER = (("kasmina", "tamiyo"), ("weatherlight",))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServicesConfig:
    """Where the services are; "spawn" starts one as a child of this process."""

    weatherlight: str = SPAWN
    """Endpoint HOST:PORT or unix:PATH, or "spawn"."""
    tamiyo: str = SPAWN
    """Endpoint HOST:PORT or unix:PATH, or "spawn"."""
    kasmina: str = SPAWN
    """Endpoint HOST:PORT or unix:PATH, or "spawn"."""
    state_dir: Path
    """Where spawned services keep their databases and logs."""
    tls: Tls | None = None
    """How connected services are spoken to; spawned ones have unix sockets."""
    otlp_endpoint: str | None = None
    """Where spawned services send their traces."""
    artifact_dir: Path | None = None
    """Where spawned services find artefacts that aren't built in."""
    start_timeout_s: float = 60.0
    """Longest wait for a service that is started here to serve, seconds: long, because machines can be loaded."""
    connect_timeout_s: float = 10.0
    """Longest wait for a service that should be there already, seconds."""
    stop_timeout_s: float = 10.0
    """Longest wait for a child to drain before it is killed, seconds."""
    hurried_stop_s: float = 2.0
    """The same once somebody has asked the run to stop; a child that is still frozen then is killed at once."""
    restart_limit: int | None = 5
    """A child that died more often than this without a healthy time is left dead; None for never."""
    retry_s: float = 0.5
    """Pause before a dead child is started again; doubles with each death up to `max_retry_s`, and is jittered."""
    max_retry_s: float = 30.0
    """The longest such pause, seconds."""
    healthy_s: float = 60.0
    """A child that lived for so long is forgiven its earlier deaths."""
    listen: Mapping[str, str] = field(default_factory=dict)
    """Endpoints of spawned services, by name; the others have sockets in a private directory."""
    names: tuple[str, ...] = START_ORDER
    """Which of them are wanted."""
    extra_arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Further command-line arguments of a spawned service, by name."""

    def endpoint(self, name: str) -> str:
        """The configured endpoint of a service."""
        value: str = getattr(self, name)
        return value

    @property
    def spawned(self) -> tuple[str, ...]:
        """Names of the services that are started here, in order."""
        return tuple(name for name in self.names if self.endpoint(name) == SPAWN)


@dataclass(slots=True)
class Child:
    """One service process."""

    name: str
    endpoint: str
    process: subprocess.Popen[bytes]
    restarts: int = 0
    began_s: float = field(default_factory=time.monotonic)
    """When it was last started, by the monotonic clock."""
    due_s: float | None = None
    """When it is to be started again; None while it lives."""
    lacks_room: bool = False
    """Whether it died where nothing more could be written: it is started again as soon as something can."""
    storage_death: EsperError | None = None
    """What it last died of, where its storage failed: it was started again since, but can hardly write more now."""


def run_secret(path: Path, environ: Mapping[str, str], *, are_all_spawned: bool) -> str | None:
    """The environment's secret, or a fresh one, kept 0600 at `path` and used again; a service elsewhere has its own."""
    if given := environ.get(SECRET_VARIABLE):
        return given
    if not are_all_spawned:
        return None
    if path.exists():
        return kept_secret(path)
    secret = new_secret()
    write_new(path, f"{secret}\n".encode(), mode=0o600)
    return secret


def kept_secret(path: Path) -> str:
    """The secret that a run made for itself. Raises ConfigError."""
    try:
        return read_secret(path, "run_dir")
    except (OSError, ConfigError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        remedy = f"the run's secret can't be used: {why}; remove it, and the run makes another one"
        raise ConfigError("run_dir", str(path), remedy) from error


class Services:
    """Context manager around a run's services; `endpoints` says where each one is."""

    def __init__(self, config: ServicesConfig, secret: str | None, on_event: Callable[[str, str], None]) -> None:
        self._config = config
        self._secret = secret
        self._on_event = on_event
        self._children: dict[str, Child] = {}
        self._last_words: dict[str, int] = {}
        self._lock = threading.Lock()
        self._woken_s: float | None = None
        """When the run was asked to stop, by the monotonic clock."""
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        homeless = [name for name in config.spawned if name not in config.listen]
        self._runtime_dir = RuntimeDir() if homeless else None
        self.endpoints: dict[str, str] = {}

    def __enter__(self) -> Services:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start what is to be spawned and wait until every service serves."""
        for name in self._config.names:
            endpoint = self._config.endpoint(name)
            self.endpoints[name] = self._own_endpoint(name) if endpoint == SPAWN else endpoint
        for name in self._config.spawned:
            self._children[name] = Child(name, self.endpoints[name], self._spawn(name))
        for name in self._config.names:
            self._wait_serving(name)
        if self._children:
            threading.Thread(target=self._supervise, name="services", daemon=True).start()

    def _own_endpoint(self, name: str) -> str:
        if name in self._config.listen or self._runtime_dir is None:
            return self._config.listen[name]
        return f"unix:{self._runtime_dir.path / name}{SOCKET}"

    def stop(self) -> None:
        """Drain the children, who publishes before who is published to; kill what doesn't end in time, and say so."""
        self._stopping.set()
        with self._lock:
            for names in END_ORDER:
                self._end([child for name in names if (child := self._children.get(name))])
        for descriptor in self._last_words.values():
            os.close(descriptor)
        self._last_words.clear()
        if self._runtime_dir is not None:
            self._runtime_dir.remove()
        self._stopped.set()

    def wake(self) -> None:
        """Let children go on that somebody has stopped: a run that is to end waits for their answers, but not long."""
        self._woken_s = time.monotonic()
        for child in self._children.values():
            child.process.send_signal(signal.SIGCONT)

    def tls(self, name: str) -> Tls | None:
        """How a service is spoken to."""
        return None if name in self._config.spawned else self._config.tls

    def open_channel(self, name: str) -> Channel:
        """A connection to a service; the caller closes it."""
        return channel(self.endpoints[name], self.tls(name))

    def pid(self, name: str) -> int | None:
        """Process id of a spawned service."""
        child = self._children.get(name)
        return child.process.pid if child else None

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        self._config.state_dir.mkdir(parents=True, exist_ok=True)
        places = ("--listen", self.endpoints[name], "--state-dir", str(self._config.state_dir))
        command = child_command(f"esper.{name}.server", *places)
        if name != "weatherlight":
            command += ["--weatherlight", self.endpoints["weatherlight"]]
            if tls := self.tls("weatherlight"):
                command += ["--weatherlight-ca", str(tls.ca)]
        if self._config.otlp_endpoint:
            command += ["--otlp-endpoint", self._config.otlp_endpoint]
        command += self._config.extra_arguments.get(name, ())
        if name not in self._last_words:
            self._last_words[name] = last_word.make()
        word = self._last_words[name]
        os.ftruncate(word, 0)
        environment = {**os.environ, last_word.VARIABLE: str(word)}
        if self._config.artifact_dir is not None and name in ARTIFACT_READERS:
            environment[f"ESPER_{name.upper()}_{name.upper()}__ARTIFACT_DIR"] = str(self._config.artifact_dir)
        if self._secret:
            environment[SECRET_VARIABLE] = self._secret
        with (self._config.state_dir / f"{name}.log").open("ab") as log:
            # A group of its own: a Ctrl-C at the terminal stops the trainer, which then drains its services. Not a
            # session: Linux shares the processors out by session, and would take a service's share from the training.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, pass_fds=(word,), process_group=0
            )
        _yield_to_training(process.pid)
        return process

    def _wait_serving(self, name: str) -> None:
        child = self._children.get(name)
        timeout_s = self._config.connect_timeout_s if child is None else self._config.start_timeout_s
        deadline = time.monotonic() + timeout_s
        link = self.open_channel(name)
        try:
            while True:
                if (death := self.death()) is not None:
                    raise death
                try:
                    wait_serving(link, "", timeout_s=min(1.0, timeout_s))
                    return
                except EsperError as error:
                    if time.monotonic() > deadline:
                        if answers(link, timeout_s=1.0):
                            self._require_ready(name, timeout_s)
                            return
                        self._require_trust(name)
                        remedy = f"no answer at {self.endpoints[name]} within {timeout_s:g} s; {_remedy(name, child)}"
                        raise ServiceUnavailable("tolaria", "service", name, remedy) from error
        finally:
            link.close()

    def _require_ready(self, name: str, timeout_s: float) -> None:
        """Raises ServiceUnavailable for one that can't do its work; why a Weatherlight can't, its mode tells."""
        if name != "weatherlight":
            place = f"it answers at {self.endpoints[name]}, but isn't ready after {timeout_s:g} s"
            raise ServiceUnavailable("tolaria", "service", name, f"{place}: its log says why; start the run again then")

    def _require_trust(self, name: str) -> None:
        """Raises ConfigError if certificates are why a service doesn't answer."""
        if (doubt := doubt_of(self.endpoints[name], self.tls(name))) is not None:
            raise ConfigError(f"services.{name}", self.endpoints[name], doubt)

    def death(self) -> EsperError | None:
        """Why a service that was started here can't serve: it has ended, or its storage failed. None if none has."""
        for child in self._children.values():
            if (code := child.process.poll()) is not None:
                return self._death_of(child, code)
        return next((child.storage_death for child in self._children.values() if child.storage_death), None)

    def _death_of(self, child: Child, code: int) -> EsperError:
        log, last = self._log(child), self._last_line(child)
        if code == os.EX_CONFIG:
            return ConfigError(f"services.{child.name}", child.endpoint, last)
        if code == os.EX_IOERR:
            remedy = "make room there if none is left, then start the run again (with --resume if it had begun)"
            return UnwritableStorage(f"service {child.name} can't write: {last}; {remedy}")
        if code == os.EX_NOPERM:
            return ForbiddenStorage(f"service {child.name} can't use what it stored: {last}")
        if code == os.EX_DATAERR:
            return CorruptRecord(f"service {child.name} can't use what it stored: {last}")
        return ServiceUnavailable("tolaria", "service", child.name, f"it ended {_how(code)}: {last} (see {log})")

    def _log(self, child: Child) -> Path:
        return self._config.state_dir / f"{child.name}.log"

    def _last_line(self, child: Child) -> str:
        """What a child said last; a full disk may have kept it from its log."""
        if child.name in self._last_words and (said := last_word.heard(self._last_words[child.name])):
            return said
        with suppress(OSError):
            if lines := self._log(child).read_text(errors="replace").strip().splitlines():
                return lines[-1]
        return f"it printed nothing; is there room in {self._config.state_dir}?"

    def _supervise(self) -> None:
        """Start a dead child again, slower each time. A child ends with the thread that started it, so it stays."""
        while not self._stopping.wait(0.2):
            if self._woken_s is not None:
                self._kill_frozen(self._woken_s)
                continue
            for child in list(self._children.values()):
                code = child.process.poll()
                if code is not None and not self._stopping.is_set():
                    self._revive(child, code)
        self._stopped.wait()

    def _kill_frozen(self, woken_s: float) -> None:
        """A child that was stopped again, or can't go on, would keep the run from its end."""
        if time.monotonic() < woken_s + self._config.hurried_stop_s:
            return
        for child in self._children.values():
            if child.process.poll() is None and _is_frozen(child.process.pid):
                child.process.kill()
                child.process.wait()
                within = f"{self._config.hurried_stop_s:g} s after the run was asked to stop"
                self._on_event("service_killed", f"{child.name} was frozen {within} and was killed")

    def _revive(self, child: Child, code: int) -> None:
        """Tell of a death, and start the child again once its pause is over; others aren't kept waiting by it."""
        if child.due_s is None:
            child.due_s = time.monotonic() + self._noted(child, code)
            child.lacks_room = code == os.EX_IOERR and not has_room(self._config.state_dir)
        elif child.lacks_room and has_room(self._config.state_dir):
            child.lacks_room, child.due_s = False, min(child.due_s, time.monotonic())
        if time.monotonic() >= child.due_s:
            self._start_again(child)

    def _noted(self, child: Child, code: int) -> float:
        """Tell of a death; gives the pause before the next start in seconds, endless for a child that is given up."""
        is_healthy = time.monotonic() - child.began_s >= self._config.healthy_s
        child.restarts = 1 if is_healthy else child.restarts + 1
        why = "" if code < 0 else f": {self._last_line(child)}"
        child.storage_death = (
            self._death_of(child, code) if code in (os.EX_IOERR, os.EX_DATAERR, os.EX_NOPERM) else None
        )
        self._on_event("service_lost", f"{child.name} ended {_how(code)}{why}")
        if self._config.restart_limit is not None and child.restarts > self._config.restart_limit:
            self._on_event("service_given_up", f"{child.name} died {child.restarts} times; it stays down")
            return math.inf
        doubled_s = self._config.retry_s * 2.0 ** min(child.restarts - 1, 30)
        return min(doubled_s, self._config.max_retry_s) * (1 + JITTER * random.random())

    def _start_again(self, child: Child) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            child.due_s = None
            try:
                child.process = self._spawn(child.name)
            except OSError as error:
                # The machine may have processes and files to spare again later: it is tried as often as a death.
                self._on_event("service_not_restarted", f"{child.name} could not be started again: {error}")
                return
            child.began_s = time.monotonic()
            self._on_event("service_restarted", f"{child.name} started again")

    def _end(self, children: Sequence[Child]) -> None:
        """End children that run, all at once."""
        running = [child for child in children if child.process.poll() is None]
        for child in running:
            child.process.terminate()
            child.process.send_signal(signal.SIGCONT)  # one that is stopped hears of its end when it goes on
        timeout_s = self._config.stop_timeout_s if self._woken_s is None else self._config.hurried_stop_s
        deadline = time.monotonic() + timeout_s
        for child in running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                within = f"{timeout_s:g} s of SIGTERM"
                self._on_event("service_killed", f"{child.name} did not end within {within} and was killed")


def _is_frozen(pid: int) -> bool:
    """Whether a child has been stopped by a signal and doesn't go on."""
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


def _how(code: int) -> str:
    """An end in words, by the code that `Popen` gives it."""
    return f"with signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


def _remedy(name: str, child: Child | None) -> str:
    """What to do about a service that doesn't answer; its address may be one that a resumed run had."""
    if child is not None:
        return "the machine may be overloaded: try again"
    return f"start it there, or choose another with --{name} (HOST:PORT, unix:PATH, or spawn for one of the run's own)"


def _yield_to_training(pid: int) -> None:
    """Have a process that wakes wait for a processor, not take the training thread's; where the system can."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
