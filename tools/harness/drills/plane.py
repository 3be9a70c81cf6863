"""The plane that is drilled: services of its own, each scraped, and runs that train under them in a thread."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError, ServiceUnavailable
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, Channel, KasminaClient, WeatherlightClient, wait_serving
from esper.tolaria.plane.services import SECRET_VARIABLE, Services, ServicesConfig
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions, occupied
from tools.harness.faults.server import free_port
from tools.harness.workload import settings

TIMEOUT_S = 20.0
ANSWER_S = 60.0
EPOCHS = 100_000
# How often services report on themselves and on the bus; ten seconds as they ship.
OFTEN = {"ESPER_WEATHERLIGHT_WEATHERLIGHT__SUMMARY_S": "0.2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DrilledPlane:
    """Services that run, and how to speak to them."""

    services: Services
    keyring: Keyring
    targets: dict[str, str]
    """Where each is scraped."""
    folder: Path

    @property
    def signer(self) -> Signer:
        return Signer(self.keyring, SYSTEM_CLOCK)

    @contextmanager
    def weatherlight(self) -> Iterator[WeatherlightClient]:
        with self._link("weatherlight") as link:
            yield WeatherlightClient(link, metadata=service_metadata(self.keyring, "operator"))

    @contextmanager
    def bus(self) -> Iterator[BusClient]:
        with self._link("weatherlight") as link:
            yield BusClient(link, metadata=service_metadata(self.keyring, "operator"))

    @contextmanager
    def kasmina(self) -> Iterator[KasminaClient]:
        with self._link("kasmina") as link:
            yield KasminaClient(link)

    @contextmanager
    def _link(self, name: str) -> Iterator[Channel]:
        """A line that has been answered: on a loaded machine a first call may find it too slow."""
        with self.services.open_channel(name) as link:
            deadline_s = time.monotonic() + ANSWER_S
            while True:
                try:
                    wait_serving(link, timeout_s=TIMEOUT_S)
                    break
                except ServiceUnavailable:
                    if time.monotonic() > deadline_s:
                        raise
            yield link


def scraped(names: Sequence[str]) -> dict[str, str]:
    """Where services shall be scraped."""
    return {name: f"127.0.0.1:{free_port()}" for name in names}


@contextmanager
def drilled_plane(targets: dict[str, str]) -> Iterator[DrilledPlane]:
    """Services with databases of their own, gone at the end; `targets` names them, and where each is scraped."""
    secret = new_secret()
    with tempfile.TemporaryDirectory(prefix="esper-drill-") as folder, _variables({SECRET_VARIABLE: secret, **OFTEN}):
        config = ServicesConfig(
            state_dir=Path(folder) / "services",
            names=tuple(targets),
            extra_arguments={name: ("--metrics-listen", place) for name, place in targets.items()},
        )
        with Services(config, secret, lambda name, text: None) as services:
            yield DrilledPlane(
                services=services, keyring=Keyring.from_secret(secret), targets=targets, folder=Path(folder)
            )


@contextmanager
def _variables(wanted: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(slots=True)
class DrilledRun(Observer):
    """Observer of a run that trains in a thread until its drill is over."""

    boundaries: int = 0
    step: int = 0
    error: EsperError | None = None
    moved: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def on_boundary(self, boundary: Boundary) -> None:
        self.boundaries, self.step = self.boundaries + 1, boundary.step
        self.moved.set()

    def go_on(self, boundaries: int, timeout_s: float) -> None:
        """Return after so many further boundaries. Raises what ended the run before."""
        wanted = self.boundaries + boundaries
        while self.boundaries < wanted:
            self.moved.clear()
            if self.ended.is_set() or not self.moved.wait(timeout_s):
                raise self.error or TimeoutError(f"no boundary of the run within {timeout_s:g} s")


@contextmanager
def growing(plane: DrilledPlane, **further: Any) -> Iterator[DrilledRun]:
    """A growing run of the harness's own network, under way and past its first seed."""
    run, interruption = DrilledRun(), Interruption()
    run_dir = plane.folder / f"run{len(list(plane.folder.glob('run*')))}"
    config = settings(run_dir, EPOCHS, 4, "cpu", **plane.services.endpoints, **further)
    thread = threading.Thread(target=_train, args=(config, run, interruption), name="drilled run", daemon=True)
    thread.start()
    try:
        run.go_on(1, 120.0)
        yield run
    finally:
        interruption.number = signal.SIGTERM
        interruption.tell()
        thread.join(60.0)


def _train(config: Any, run: DrilledRun, interruption: Interruption) -> None:
    try:
        with occupied(config.run_dir), suppress(KeyboardInterrupt):
            grow(config, RunOptions(tensorboard=False), [run], interruption)
    except EsperError as error:
        run.error = error
    finally:
        run.ended.set()
        run.moved.set()
