"""`esper emergency`: list, raise and acknowledge emergencies at a Weatherlight, that of a run or one that serves.

A run with services of its own that isn't under way has no Weatherlight: one is started over the run's state for as long
as it takes. A run under way that shares a plane tells where that is.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.key_source import add_key_flag, keyring_for
from esper.cli.run_peer import peer_of
from esper.cli.usage import UsageError, Verbs, add_group, add_verb, run_directory, words
from esper.core.clock import SYSTEM_CLOCK, nanoseconds, timestamp, utc_text
from esper.core.enums import short_name
from esper.core.errors import ConfigError, ServiceUnavailable
from esper.core.plain import plain
from esper.core.security.run_line import LINE, LOCK
from esper.core.security.signing import Signer
from esper.core.storage.file_lock import try_hold
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    ModeUpdate,
    RaiseEmergencyRequest,
    SystemMode,
    WatchModeRequest,
)

if TYPE_CHECKING:
    from esper.rpc.clients import BusClient, WeatherlightClient
    from esper.tolaria.plane.services import Services

TIMEOUT_S = 10.0
LEVELS = {name.removeprefix("EMERGENCY_LEVEL_")[:2]: number for name, number in EmergencyLevel.items() if number}
CAUSE = "operator"
WHOLE_PLANE = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """A Weatherlight that serves, its bus, and the keys to speak to it."""

    client: WeatherlightClient
    bus: BusClient
    signer: Signer


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "emergency", "list, raise and acknowledge emergencies")
    listed = add_verb(group, "list", run_list, "show the plane's mode and its open emergencies")
    raised = add_verb(group, "raise", run_raise, "raise an emergency for every run of the plane")
    closed = add_verb(group, "acknowledge", run_acknowledge, "acknowledge emergencies: they are over")
    for verb in (listed, raised, closed):
        add_place(verb)
    raised.add_argument("--level", required=True, choices=LEVELS, help="L1 told, L2 no new seed, L3 no growth, L4 halt")
    raised.add_argument("--why", type=words, required=True, metavar="TEXT", help="the cause in words")
    closed.add_argument("--id", action="append", metavar="ID", help="one of them (default: all that are open)")
    closed.add_argument("--note", metavar="TEXT", help="remark for the audit")


def add_place(verb: argparse.ArgumentParser) -> None:
    """What `connected` reads."""
    verb.add_argument(
        "run_dir", type=run_directory, nargs="?", metavar="RUN_DIR", help="a run with services of its own, or under way"
    )
    verb.add_argument("--weatherlight", metavar="ENDPOINT", help="HOST:PORT or unix:PATH of one that serves")
    verb.add_argument("--ca", type=Path, metavar="FILE", help="certificate authority, beyond loopback")
    add_key_flag(verb, default="RUN_DIR/secret if it is there, else env")


def run_list(arguments: argparse.Namespace) -> int:
    with connected(arguments) as line:
        print("\n".join(lines(_mode(line))))
    return 0


def run_raise(arguments: argparse.Namespace) -> int:
    signal = EmergencySignal(
        emergency_id=f"operator-{secrets.token_hex(6)}",
        level=EmergencyLevel.Name(LEVELS[arguments.level]),
        cause=CAUSE,
        detail=arguments.why,
        origin=_operator(),
        raised_at=timestamp(SYSTEM_CLOCK.now_ns()),
    )
    with connected(arguments) as line:
        command = line.signer.sign(signal, audience=f"weatherlight/{WHOLE_PLANE}")
        raised = line.client.raise_emergency(RaiseEmergencyRequest(command=command), timeout_s=TIMEOUT_S)
        print("\n".join(lines(raised.mode)))
    return 0


def run_acknowledge(arguments: argparse.Namespace) -> int:
    with connected(arguments) as line:
        mode = _mode(line)
        opened = {signal.emergency_id: signal for signal in mode.open_emergencies}
        wanted = opened if arguments.id is None else arguments.id
        if unknown := [each for each in wanted if each not in opened]:
            raise ConfigError("--id", unknown[0], f"isn't open; open are {', '.join(opened) or 'none'}")
        for emergency_id in wanted:
            word = EmergencyAcknowledgement(
                emergency_id=emergency_id, acknowledged_by=_operator(), resolved=True, note=arguments.note
            )
            audience = f"weatherlight/{opened[emergency_id].training_run_id or WHOLE_PLANE}"
            request = AcknowledgeEmergencyRequest(command=line.signer.sign(word, audience=audience))
            mode = line.client.acknowledge_emergency(request, timeout_s=TIMEOUT_S).mode
            print(f"acknowledged: {in_words(opened[emergency_id])}")
        print("\n".join(lines(mode)))
    return 0


def lines(update: ModeUpdate) -> Iterator[str]:
    """The plane for people, each emergency in one line."""
    since = f" since {utc_text(nanoseconds(update.since))}" if update.HasField("since") else ""
    yield plain(f"the plane is {short_name(SystemMode, update.mode)}{since}: {update.cause}")
    yield from (f"  {in_words(signal)}" for signal in update.open_emergencies)


def in_words(signal: EmergencySignal) -> str:
    """One emergency: level, id, cause, who and when."""
    run = f" in run {signal.training_run_id}" if signal.HasField("training_run_id") else ""
    run += f", generation {signal.generation}" if signal.HasField("generation") else ""
    level, when = short_name(EmergencyLevel, signal.level), utc_text(nanoseconds(signal.raised_at))
    return plain(f"{level} {signal.emergency_id}: {signal.detail} (raised by {signal.origin}{run}, {when})")


@contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[Line]:
    """The Weatherlight that the command line names; that of a run which isn't under way serves inside."""
    if (arguments.run_dir is None) == (arguments.weatherlight is None):
        raise UsageError("name a RUN_DIR or --weatherlight ENDPOINT, one of them")
    from esper.rpc.auth import service_metadata  # grpc, which the other verbs start without
    from esper.rpc.clients import BusClient, Tls, WeatherlightClient, channel, doubt_of

    if arguments.run_dir is not None:
        _require_one(arguments.run_dir)
    with ExitStack() as stack:
        keyring = keyring_for(arguments.key, arguments.run_dir)
        endpoint = arguments.weatherlight or stack.enter_context(_of_run(arguments.run_dir))
        tls = None if arguments.ca is None else Tls(ca=arguments.ca)
        link = stack.enter_context(channel(endpoint, tls))
        metadata = service_metadata(keyring, "operator")
        try:
            clients = WeatherlightClient(link, metadata=metadata), BusClient(link, metadata=metadata)
            yield Line(*clients, Signer(keyring, SYSTEM_CLOCK))
        except ServiceUnavailable as error:
            if (doubt := doubt_of(endpoint, tls)) is None:
                raise
            raise ConfigError("--weatherlight", endpoint, doubt) from error


def _require_one(run_dir: Path) -> None:
    if not _has_own(run_dir) and not (run_dir / LINE).exists():
        remedy = "has no Weatherlight of its own and isn't under way: give --weatherlight ENDPOINT"
        raise ConfigError("RUN_DIR", str(run_dir), remedy)


def _has_own(run_dir: Path) -> bool:
    return (run_dir / "services" / "weatherlight.db").exists()


@contextmanager
def _of_run(run_dir: Path) -> Iterator[str]:
    """Endpoint of the run's Weatherlight."""
    if not _has_own(run_dir) or (held := try_hold(run_dir / LOCK)) is None:
        yield peer_of(run_dir, "weatherlight").endpoint
        return
    with held, _started(run_dir, run_dir / "services") as own:
        yield own.endpoints["weatherlight"]


def _started(run_dir: Path, state_dir: Path) -> Services:
    """The Weatherlight of a run that isn't under way."""
    from esper.tolaria.plane.services import Services, ServicesConfig, kept_secret

    secret_path = run_dir / "secret"
    secret = kept_secret(secret_path) if secret_path.exists() else None
    return Services(ServicesConfig(state_dir=state_dir, names=("weatherlight",)), secret, _ignored)


def _ignored(name: str, message: str) -> None:
    """The service's own log says it."""


def _mode(line: Line) -> ModeUpdate:
    """As a watcher is told it: GetStatus asks the bus as well, whose loss may be the emergency."""
    return next(iter(line.client.watch_mode(WatchModeRequest(), timeout_s=TIMEOUT_S))).mode


def _operator() -> str:
    return f"operator:{getpass.getuser()}"
