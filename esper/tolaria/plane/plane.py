"""The control plane of one run: its services, started or connected to, its keys, and the trainer's line to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ServiceUnavailable
from esper.core.security.keys import KEYRING_VARIABLE, Keyring, load_keyring
from esper.rpc.clients import Tls
from esper.rpc.endpoint import Endpoint
from esper.tolaria.config import TrainConfig
from esper.tolaria.own_blueprints import FOLDER, NO_OWN, OwnBlueprints
from esper.tolaria.plane.link import Link
from esper.tolaria.plane.services import SECRET_VARIABLE, SPAWN, START_ORDER, Services, ServicesConfig, run_secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """The control plane of one run."""

    services: Services
    keyring: Keyring
    link: Link


def check_line(config: TrainConfig) -> None:
    """Refuse endpoints and keys that can't be used, while nothing is made yet. Raises ConfigError."""
    elsewhere = [name for name in START_ORDER if getattr(config, name) != SPAWN]
    for name in elsewhere:
        Endpoint.parse(getattr(config, name), name)
    if elsewhere or any(map(os.environ.get, (SECRET_VARIABLE, KEYRING_VARIABLE))):
        load_keyring(os.environ, None)


@contextmanager
def connected(
    config: TrainConfig, run_id: str, tell: Callable[[str, str], None], own: OwnBlueprints = NO_OWN
) -> Iterator[Plane]:
    """The run's services, started or connected to; `tell` hears of what happens to them, from another thread."""
    settings = ServicesConfig(
        weatherlight=config.weatherlight,
        tamiyo=config.tamiyo,
        kasmina=config.kasmina,
        state_dir=config.run_dir / "services",
        tls=Tls(ca=config.tls_ca, cert=config.tls_cert, key=config.tls_key) if config.tls_ca else None,
        otlp_endpoint=config.otlp_endpoint,
        artifact_dir=(config.run_dir / FOLDER).resolve() if own else None,
    )
    secret = run_secret(config.run_dir / "secret", os.environ, are_all_spawned=settings.spawned == START_ORDER)
    keyring = load_keyring({**os.environ, **({SECRET_VARIABLE: secret} if secret else {})}, None)
    with Services(settings, secret, tell) as services:
        endpoints = services.endpoints
        link = Link(config, run_id, services.open_channel, endpoints, keyring, SYSTEM_CLOCK, tell, own.blueprints)
        try:
            yield Plane(services=services, keyring=keyring, link=link)
        except ServiceUnavailable as error:
            # It isn't reached because it ended: its own last word says more.
            raise services.death() or error from error
        finally:
            link.close()
