"""`esper up`: the whole control plane, started by one command and stopped by Ctrl-C.

The services are supervised children, the ones that a run spawns, and not rooms of one process: each has a ledger that
is locked for its process, one that dies or hangs takes no other along, and what is tried here is what a shared plane
is. They end with this process however it ends; one that dies is started again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from esper.cli.usage import Verbs, add_verb
from esper.core.errors import ConfigError
from esper.core.lasted import lasted
from esper.core.process.sd_notify import forget, notify, watchdog_s
from esper.core.process.streams import say
from esper.core.security.keys import KEYRING_VARIABLE, SECRET_VARIABLE, load_keyring
from esper.core.settings.state_dir import default_state_dir
from esper.core.storage.file_lock import holder, try_hold
from esper.core.storage.files import why_not_made

if TYPE_CHECKING:
    from esper.tolaria.plane.services import Services

NAMES = ("weatherlight", "tamiyo", "kasmina")
LOCK, SECRET = "plane.lock", "secret"
HOST, MOST_PORT = "127.0.0.1", 65_535
# Children of a plane that was killed drain by themselves: nothing is started over what they still hold.
HANDOVER_S = 15.0
# A socket's path may have 107 bytes.
LONGEST_SOCKET = 100
BREATH_S = 1.0


class Stopped(BaseException):
    """A signal asks the plane to stop."""


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "up", run, "start the whole control plane here, until Ctrl-C or SIGTERM")
    place = default_state_dir() / "plane"
    parser.add_argument("--state-dir", type=Path, default=place, metavar="DIR", help=f"what it keeps ({place})")
    ports = "TCP on this machine: Weatherlight at PORT, Tamiyo and Kasmina at the next two (default: unix sockets)"
    parser.add_argument("--port", type=int, metavar="PORT", help=ports)
    scraped = "let Prometheus scrape: Weatherlight at PORT, Tamiyo and Kasmina at the next two; 9100 is what ours asks"
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help=scraped)
    settings = "where weatherlight.toml, tamiyo.toml and kasmina.toml are, those that there are"
    parser.add_argument("--config", type=Path, metavar="DIR", help=settings)
    parser.add_argument("--artifact-dir", type=Path, metavar="DIR", help="artefacts of blueprints of one's own")
    parser.add_argument("--otlp-endpoint", metavar="ENDPOINT", help="where traces go")


def run(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    _check(arguments)
    state_dir: Path = arguments.state_dir.absolute()
    line = forget()
    with ExitStack() as stack:
        stack.enter_context(_stopped_by_signals())
        try:
            _make(state_dir)
            stack.enter_context(_alone(state_dir))
            stack.callback(_clear, state_dir)
            services = stack.enter_context(_services(arguments, state_dir))
            say("\n".join(told(services.endpoints, state_dir, time.monotonic() - began_s)))
            notify("READY=1", "STATUS=serves", environ=line)
            _live(line)
        except Stopped:
            notify("STOPPING=1", environ=line)
            say("the plane drains")
    say("the plane has stopped")
    return 0


def told(endpoints: Mapping[str, str], state_dir: Path, took_s: float) -> Iterator[str]:
    """What the user of a plane needs to know."""
    yield f"the plane is up after {lasted(took_s)}; what it keeps is in {state_dir}"
    yield from (f"  {name:13} {endpoint}" for name, endpoint in endpoints.items())
    yield "train with it, in as many runs as you like:"
    if not any(os.environ.get(name) for name in (SECRET_VARIABLE, KEYRING_VARIABLE)):
        yield f"  export {SECRET_VARIABLE}=$(cat {shlex.quote(str(state_dir / SECRET))})"
    flags = " ".join(f"--{name} {shlex.quote(endpoint)}" for name, endpoint in endpoints.items())
    yield f"  tolaria-train {flags} ..."
    yield f"look at it: esper emergency list --weatherlight {shlex.quote(endpoints['weatherlight'])}"
    yield "stop it: Ctrl-C"


def _make(state_dir: Path) -> None:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        remedy = f"{why_not_made(error)}; give a folder that this user may write to"
        raise ConfigError("--state-dir", str(state_dir), remedy) from error


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Hold the directory: two planes with one ledger would be a split brain."""
    if (lock := try_hold(state_dir / LOCK)) is None:
        remedy = f"a plane runs there already, by {holder(state_dir / LOCK)}: stop it, or give another --state-dir"
        raise ConfigError("--state-dir", str(state_dir), remedy)
    with lock:
        _wait_for_the_last(state_dir)
        yield


def _wait_for_the_last(state_dir: Path) -> None:
    """Services of a plane that was killed end by themselves, but it takes them a moment."""
    due_s = time.monotonic() + HANDOVER_S
    for path in sorted(state_dir.glob("*.db.lock")):
        while (free := try_hold(path)) is None:
            if time.monotonic() > due_s:
                remedy = f"{path.name.removesuffix('.lock')} is still in use by {holder(path)}: stop that process"
                raise ConfigError("--state-dir", str(state_dir), remedy)
            time.sleep(0.05)
        free.close()


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what can't be meant, before anything is made."""
    from esper.rpc.endpoint import collector_url

    if arguments.otlp_endpoint is not None:
        collector_url(arguments.otlp_endpoint, "--otlp-endpoint")
    if shared := set(_ports(arguments.port, "--port")) & set(_ports(arguments.metrics_port, "--metrics-port")):
        remedy = f"{HOST}:{min(shared)} is one of --port {arguments.port} too: each takes three in a row; give another"
        raise ConfigError("--metrics-port", arguments.metrics_port, remedy)
    if arguments.config is not None and not arguments.config.is_dir():
        raise ConfigError("--config", str(arguments.config), "is no directory; give the one with weatherlight.toml")
    if arguments.artifact_dir is not None and not arguments.artifact_dir.is_dir():
        raise ConfigError("--artifact-dir", str(arguments.artifact_dir), "is no directory; make it, or leave it out")
    if any(map(os.environ.get, (SECRET_VARIABLE, KEYRING_VARIABLE))):
        load_keyring(os.environ, None)


def _services(arguments: argparse.Namespace, state_dir: Path) -> Services:
    from esper.tolaria.plane.services import START_ORDER, Services, ServicesConfig, run_secret

    listen = _endpoints(arguments.port, "--port") or _sockets(state_dir)
    scraped = _endpoints(arguments.metrics_port, "--metrics-port")
    more = {
        name: (
            *(("--metrics-listen", scraped[name]) if scraped else ()),
            *(("--config", str(file)) if (file := _settings(arguments.config, name)) else ()),
        )
        for name in START_ORDER
    }
    has_keyring = bool(os.environ.get(KEYRING_VARIABLE))
    secret = None if has_keyring else run_secret(state_dir / SECRET, os.environ, are_all_spawned=True)
    config = ServicesConfig(
        state_dir=state_dir,
        otlp_endpoint=arguments.otlp_endpoint,
        artifact_dir=arguments.artifact_dir and arguments.artifact_dir.absolute(),
        restart_limit=None,
        listen=listen,
        extra_arguments=more,
    )
    return Services(config, secret, lambda name, text: say(text))


def _settings(directory: Path | None, name: str) -> Path | None:
    if directory is None:
        return None
    file = directory.absolute() / f"{name}.toml"
    return file if file.exists() else None


def _sockets(state_dir: Path) -> dict[str, str]:
    """Sockets beside what is kept, at the same place each time; where that is too long, Services finds another."""
    paths = {name: state_dir / f"{name}.sock" for name in NAMES}
    if max(len(os.fsencode(path)) for path in paths.values()) > LONGEST_SOCKET:
        return {}
    return {name: f"unix:{path}" for name, path in paths.items()}


def _clear(state_dir: Path) -> None:
    """Remove sockets that a service was killed with."""
    for name in NAMES:
        (state_dir / f"{name}.sock").unlink(missing_ok=True)


def _ports(port: int | None, flag: str) -> range:
    """Three in a row, or none."""
    if port is None:
        return range(0)
    ports = range(port, port + len(NAMES))
    if ports[0] < 1 or ports[-1] > MOST_PORT:
        raise ConfigError(flag, port, f"give a port from 1 to {MOST_PORT - len(NAMES) + 1}: the next two are used too")
    return ports


def _endpoints(port: int | None, flag: str) -> dict[str, str]:
    """Ports that nobody else has, by name."""
    ports = _ports(port, flag)
    for each in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, each))
            except OSError as error:
                raise ConfigError(flag, port, f"{HOST}:{each} can't be had: {error.strerror}; give another") from error
    return {name: f"{HOST}:{each}" for name, each in zip(NAMES, ports, strict=False)}


def _live(line: Mapping[str, str]) -> None:
    """Wait for the signal that ends the wait."""
    within_s = watchdog_s(line)
    while True:
        if within_s is not None:
            notify("WATCHDOG=1", environ=line)
        time.sleep(BREATH_S if within_s is None else min(BREATH_S, within_s / 3))


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """The first signal ends what is done, the second ends the process at once; its children end with it."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number != signal.SIGHUP:
            os._exit(128 + number)
        if not asked:
            asked = True
            raise Stopped

    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = (signal.SIGTERM, signal.SIGINT, *(() if is_nohup else (signal.SIGHUP,)))
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
