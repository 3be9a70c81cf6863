"""A service in a process of its own, as a launcher starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from esper.core.clock import SYSTEM_CLOCK
from esper.core.process.child import child_command
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, Channel, WeatherlightClient, channel, wait_serving

SECRET = "integration-secret-0123456789-abcdefghijklm"
KEYRING = Keyring.from_secret(SECRET)
SIGNER = Signer(KEYRING, SYSTEM_CLOCK)
TIMEOUT_S = 60.0


class ServiceProcess:
    """One service; `start` may be called again after its end, for the same state directory and endpoint."""

    def __init__(self, name: str, state_dir: Path, *arguments: str, endpoint: str | None = None, **variables: str):
        self._directory = tempfile.TemporaryDirectory(prefix="esper-")
        self.name, self._variables = name, variables
        self.endpoint = endpoint or f"unix:{self._directory.name}/{name}"
        self._command = [
            *child_command(f"esper.{name}.server"),
            *("--listen", self.endpoint, "--state-dir", str(state_dir), *arguments),
        ]
        self._log_path = Path(self._directory.name) / "log"

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        # The exporter's usual batch takes five seconds.
        own = {**self._variables, "ESPER_LEYLINE_SECRET": SECRET, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(self._command, env={**os.environ, **own}, stdout=log, stderr=log)

    def start(self) -> Channel:
        """Start and wait until it serves."""
        self.launch()
        self.channel = channel(self.endpoint)
        wait_serving(self.channel, timeout_s=TIMEOUT_S)
        return self.channel

    def kill(self) -> None:
        """End it as a power cut would."""
        self.channel.close()
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def stop(self) -> int:
        """End it in order; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(TIMEOUT_S)
        self.channel.close()
        return code

    def __enter__(self) -> ServiceProcess:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        self.clear()

    def clear(self) -> None:
        """Remove socket and log."""
        self._directory.cleanup()


def weatherlight_client(link: Channel, service: str = "tolaria") -> WeatherlightClient:
    return WeatherlightClient(link, metadata=service_metadata(KEYRING, service))


def bus_client(link: Channel, service: str = "tolaria") -> BusClient:
    return BusClient(link, metadata=service_metadata(KEYRING, service))
