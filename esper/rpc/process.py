"""What the main of every service shares: settings, keys, traces, metrics, telemetry, signals, drain, exit code.

Exit codes: 0 stopped on request, 1 failed, 64 wrong usage, 65 what is stored can't be used, 74 nothing can be written,
77 this user may not read or write a file, 78 unusable settings, 128 and the signal's number where one came before it
served; an error is one line, no traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from prometheus_client import start_http_server

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.errors import ConfigError, EsperError, ForbiddenStorage, StorageError, UnwritableStorage
from esper.core.plain import PlainFormatter, plain
from esper.core.process import streams
from esper.core.process.last_word import leave
from esper.core.process.sd_notify import notify, watchdog_s
from esper.core.process.streams import say
from esper.core.security.keys import Keyring, load_keyring
from esper.core.storage.files import FORBIDDEN, UNWRITABLE, forbidden
from esper.core.telemetry import build_packet
from esper.leyline import Event, HealthStatus
from esper.rpc import metrics
from esper.rpc.clients.channel import Tls
from esper.rpc.contract import SERVICES
from esper.rpc.endpoint import Endpoint
from esper.rpc.otel import setup_tracing
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import LogReporter, Reporter, TelemetrySender
from esper.rpc.server.bases import Servicer
from esper.rpc.server.server import Server, start
from esper.rpc.settings import ProcessConfig, read_settings

C = TypeVar("C")
EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 78
HEALTH_PERIOD_S = 1.0
LAG_PERIOD_S = 1.0
REPORT_TIMEOUT_S = 2.0
# What a store's writer or a worker has done waits at most this long for the busy event loop to hear of it.
SWITCH_INTERVAL_S = 0.0005
log = logging.getLogger("esper.process")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceContext(Generic[C]):
    """What a service is built from. `weatherlight` is where the bus is; `stop` drains, with its own grace or not."""

    name: str
    config: C
    keyring: Keyring
    clock: Clock
    state_dir: Path
    reporter: Reporter
    alarm: Alarm
    weatherlight: str | None
    weatherlight_tls: Tls | None
    stop: Callable[[float | None], None]


class EndedEarly(SystemExit):
    """A signal came before the process served; there is nothing to drain."""


class Stopping:
    """Whether the process was asked to end, and how long it may take."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.grace_s: float | None = None

    def ask(self, grace_s: float | None) -> None:
        self.grace_s = grace_s
        self.asked.set()


Build = Callable[[ServiceContext[C]], Sequence[Servicer] | Awaitable[Sequence[Servicer]]]


def run_service(name: str, build: Build[C], argv: Sequence[str] | None, *, config_type: type[C]) -> int:
    """Run the service `name` until it is told to stop; the result is the process's exit code."""
    streams.secure()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        return _exit_code(name, build, argv, config_type)
    finally:
        streams.settle()


def _exit_code(name: str, build: Build[C], argv: Sequence[str] | None, config_type: type[C]) -> int:
    try:
        process, config = read_settings(name, config_type, sys.argv[1:] if argv is None else argv, os.environ)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=process.log_level.upper(), handlers=[handler])
        with _ended_by_signals():
            asyncio.run(_serve(name, build, process, config))
    except ConfigError as error:
        return _fail(name, error, EXIT_CONFIG)
    except UnwritableStorage as error:
        return _fail(name, error, os.EX_IOERR)
    except ForbiddenStorage as error:
        return _fail(name, error, os.EX_NOPERM)
    except StorageError as error:
        return _fail(name, error, os.EX_DATAERR)
    except EsperError as error:
        return _fail(name, error, EXIT_FAILED)
    except OSError as error:
        return _fail(name, *_of_system(error))
    except KeyboardInterrupt:  # before anything handles signals
        return 128 + signal.SIGINT
    except EndedEarly as ended:
        return int(ended.code or 0)
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        return _fail(name, f"unexpected {type(error).__name__}: {error} (--log-level debug shows more)", EXIT_FAILED)
    return EXIT_OK


def _of_system(error: OSError) -> tuple[object, int]:
    """What the system refused, and the exit code."""
    if error.errno in UNWRITABLE:
        return f"{error.filename or 'a file'} can't be written: {error.strerror}", os.EX_IOERR
    if error.errno in FORBIDDEN:
        return forbidden(error, "a file"), os.EX_NOPERM
    return error, EXIT_FAILED


def _fail(name: str, error: object, code: int) -> int:
    line = plain(f"esper-{name}: {error}")
    leave(line)
    say(line, sys.stderr)
    return code


async def _serve(name: str, build: Build[C], process: ProcessConfig, config: C) -> None:
    stopping = Stopping()
    keyring = load_keyring(os.environ, process.keyring)
    _make_private(process.state_dir)
    end_tracing = setup_tracing(f"esper-{name}", process.otlp_endpoint)
    reporter = _reporter(name, keyring, process)
    alarm = _alarm(name, keyring, process)
    try:
        _serve_metrics(process)
        context = ServiceContext(
            name=name,
            config=config,
            keyring=keyring,
            clock=SYSTEM_CLOCK,
            state_dir=process.state_dir,
            reporter=reporter,
            alarm=alarm,
            weatherlight=process.weatherlight_endpoint,
            weatherlight_tls=_weatherlight_tls(process),
            stop=stopping.ask,
        )
        built = build(context)
        servicers = await built if inspect.isawaitable(built) else built
        async with _closing(servicers):
            server = await start(process.server, servicers, partial(_tell, name, reporter))
            _stop_on_signals(stopping)
            say(f"esper-{name} listens on {server.endpoint}")
            notify("READY=1", f"STATUS=serves at {server.endpoint}")
            await _until_stopped(server, servicers, reporter, stopping)
    finally:
        alarm.close(REPORT_TIMEOUT_S)
        reporter.close(REPORT_TIMEOUT_S)
        end_tracing()


def _tell(name: str, reporter: Reporter, told: Event) -> None:
    reporter.send(build_packet(name, SYSTEM_CLOCK, events=[told]))


async def _until_stopped(server: Server, servicers: Sequence[Servicer], reporter: Reporter, stopping: Stopping) -> None:
    """Serve and watch until told to stop, then drain. A watcher that fails ends the process with its cause."""
    watching = (watch_health(server, servicers, reporter), _watch_loop_lag(), _live(watchdog_s()))
    watchers = [asyncio.create_task(each) for each in watching]
    stopped = asyncio.create_task(stopping.asked.wait())
    try:
        done, _ = await asyncio.wait([stopped, *watchers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (stopped, *watchers):
            task.cancel()
        notify("STOPPING=1", "STATUS=drains")
        await server.drain(stopping.grace_s)


@contextlib.asynccontextmanager
async def _closing(servicers: Sequence[Servicer]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for servicer in servicers:
            await servicer.close()


async def watch_health(server: Server, servicers: Sequence[Servicer], reporter: Reporter) -> None:
    """Let the health check and the heartbeats say what the servicers say of themselves."""
    while True:
        ready = {SERVICES[servicer.service].full_name: servicer.is_ready() for servicer in servicers}
        for name, is_ready in {**ready, "": all(ready.values())}.items():
            await server.set_serving(is_ready, name)
        unready = ", ".join(name for name, is_ready in ready.items() if not is_ready)
        cautions = [found for servicer in servicers if (found := servicer.caution()) is not None]
        if unready:
            reporter.report_health(HealthStatus.HEALTH_STATUS_UNHEALTHY, f"{unready} can't do its work")
        elif cautions:
            reporter.report_health(HealthStatus.HEALTH_STATUS_DEGRADED, *cautions[0])
        else:
            reporter.report_health(HealthStatus.HEALTH_STATUS_HEALTHY)
        await asyncio.sleep(HEALTH_PERIOD_S)


async def _watch_loop_lag() -> None:
    """Measure how late the loop wakes up: something that blocks it shows here first."""
    while True:
        due = time.monotonic() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        metrics.LOOP_LAG_SECONDS.set(max(0.0, time.monotonic() - due))


async def _live(within_s: float | None) -> None:
    """Give systemd's watchdog its signs of life: they come from the loop, so one that is blocked gives none."""
    while within_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(within_s / 3)
    await asyncio.Event().wait()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What a start does on a signal: it ends at once, whatever it waits for. The event loop may not be running then."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise EndedEarly(128 + number)

    before = {number: signal.signal(number, on_signal) for number in _signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> tuple[signal.Signals, ...]:
    """Those that ask to stop; under nohup, which ignores it, a hang-up is none."""
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT, *(() if is_nohup else (signal.SIGHUP,)))


def _stop_on_signals(stopping: Stopping) -> None:
    """The first signal drains, the second ends at once; a terminal that hangs up may say so twice."""

    def on_signal(number: int) -> None:
        if stopping.asked.is_set() and number != signal.SIGHUP:
            os._exit(128 + number)
        stopping.ask(None)

    for number in _signals():
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError("state_dir", str(directory), f"can't be made: {error.strerror}") from error


def _reporter(name: str, keyring: Keyring, process: ProcessConfig) -> Reporter:
    if process.weatherlight_endpoint is None:
        return LogReporter()
    tls = _weatherlight_tls(process)
    return TelemetrySender(process.weatherlight_endpoint, keyring, name, endpoint_served=process.server.listen, tls=tls)


def _alarm(name: str, keyring: Keyring, process: ProcessConfig) -> Alarm:
    directory, tls = process.state_dir / "alarms" / name, _weatherlight_tls(process)
    return Alarm(process.weatherlight_endpoint, keyring, SYSTEM_CLOCK, name, directory, tls)


def _weatherlight_tls(process: ProcessConfig) -> Tls | None:
    return None if process.weatherlight_ca is None else Tls(ca=process.weatherlight_ca)


def _serve_metrics(process: ProcessConfig) -> None:
    """Metrics for Prometheus, under the same rule as the service: beyond loopback with TLS only."""
    if process.metrics_listen is None:
        return
    endpoint, server = Endpoint.parse(process.metrics_listen, "metrics_listen"), process.server
    if endpoint.path is not None:
        raise ConfigError("metrics_listen", process.metrics_listen, "Prometheus scrapes TCP: use HOST:PORT")
    if not endpoint.is_local and server.tls_cert is None:
        raise ConfigError("metrics_listen", process.metrics_listen, "beyond loopback TLS is needed")
    tls: Mapping[str, Any] = {}
    if not endpoint.is_local:
        tls = {"certfile": str(server.tls_cert), "keyfile": str(server.tls_key)}
    try:
        start_http_server(endpoint.port, endpoint.host, **tls)
    except OSError as error:
        raise ConfigError("metrics_listen", process.metrics_listen, f"can't listen there: {error.strerror}") from error
