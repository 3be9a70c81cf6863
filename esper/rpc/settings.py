"""Settings of a service process: what all services share, and the service's own table in the same file.

Flags are named for people; `--config` is a TOML file, ESPER_<NAME>_* the environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from esper.core.nearest import nearest
from esper.core.plain import plain
from esper.core.settings.config import described, load
from esper.core.settings.state_dir import default_state_dir
from esper.rpc.endpoint import collector_url
from esper.rpc.server.server import ServerConfig

C = TypeVar("C")
EXIT_USAGE = 64
PORTS = {"weatherlight": 7700, "tamiyo": 7701, "kasmina": 7702}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessConfig:
    """Settings that every service has."""

    server: ServerConfig = field(default_factory=ServerConfig)
    state_dir: Path = field(default_factory=default_state_dir)  # databases and logs of the service, made 0700
    keyring: Path | None = None  # keyring file; without one ESPER_LEYLINE_SECRET is the key
    weatherlight_endpoint: str | None = None  # where telemetry goes; without it CRITICAL events go to the log
    weatherlight_ca: Path | None = None  # PEM authority of Weatherlight's certificate, beyond loopback
    otlp_endpoint: str | None = None  # where traces go: HOST:PORT, http://... or https://...
    metrics_listen: str | None = None  # HOST:PORT where Prometheus scrapes
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"

    def __post_init__(self) -> None:
        if self.otlp_endpoint is not None:
            collector_url(self.otlp_endpoint)


# Flag -> setting, and what it is.
FLAGS: dict[str, tuple[str, str]] = {
    "--listen": ("server.listen", "HOST:PORT or unix:PATH to serve"),
    "--state-dir": ("state_dir", "directory of the service's databases"),
    "--keyring": ("keyring", "keyring file; else ESPER_LEYLINE_SECRET is the key"),
    "--weatherlight": ("weatherlight_endpoint", "endpoint that telemetry goes to"),
    "--weatherlight-ca": ("weatherlight_ca", "PEM authority of that endpoint's certificate"),
    "--otlp-endpoint": ("otlp_endpoint", "endpoint that traces go to"),
    "--metrics-listen": ("metrics_listen", "HOST:PORT that Prometheus scrapes"),
    "--log-level": ("log_level", "debug, info, warning, error or critical"),
    "--tls-cert": ("server.tls_cert", "PEM certificate chain; needed beyond loopback"),
    "--tls-key": ("server.tls_key", "PEM key of the certificate"),
    "--tls-client-ca": ("server.tls_client_ca", "PEM authorities that clients' certificates must be from"),
}


class Parser(argparse.ArgumentParser):
    """Argument parser whose complaint about an unknown flag names the nearest known one."""

    def parse_known(self, argv: Sequence[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = nearest(unknown[0].partition("=")[0], flags)
            self.error(f"unknown argument {unknown[0]!r}" + (f", did you mean {near}?" if near else ""))
        return known

    def error(self, message: str) -> NoReturn:
        print(plain(f"{self.prog}: {message}; --help shows what there is"), file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def read_settings(
    name: str, config_type: type[C], argv: Sequence[str], environ: Mapping[str, str]
) -> tuple[ProcessConfig, C]:
    """Settings of the process and of the service; `--print-config` shows them with their origins and ends."""
    arguments = _parser(name).parse_known(argv)
    listen = ServerConfig(listen=f"127.0.0.1:{PORTS.get(name, 0)}")
    schema: type[Any] = dataclasses.make_dataclass(
        "Settings",
        [
            ("server", ServerConfig, field(default_factory=lambda: listen)),
            (name, config_type, field(default_factory=config_type)),
        ],
        bases=(ProcessConfig,),
        frozen=True,
        kw_only=True,
        slots=True,
    )
    flags: dict[str, object] = {key: getattr(arguments, key) for key, _ in FLAGS.values()}
    loaded = load(schema, file=arguments.config, environ=environ, prefix=f"ESPER_{name.upper()}_", flags=flags)
    if arguments.print_config:
        print(*described(loaded), sep="\n")
        raise SystemExit(0)
    return loaded.value, getattr(loaded.value, name)


def _parser(name: str) -> Parser:
    parser = Parser(prog=f"esper-{name}", description=f"Run Esper's {name} service.", allow_abbrev=False)
    for flag, (key, meaning) in FLAGS.items():
        parser.add_argument(flag, dest=key, metavar="VALUE", help=meaning)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    parser.add_argument("--print-config", action="store_true", help="show every setting with its origin, and end")
    return parser
