"""Ranks whose services run elsewhere: TCP and TLS both ways, as between hosts, here on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from esper.core.security.keys import SECRET_VARIABLE
from tests.drills.launching import NARROW, environment, events
from tests.drills.test_ranks import torchrun
from tests.integration.rpc.test_tls import certificates as certificates
from tests.unit.tolaria.ranks.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates, and is missing"),
]
PATIENCE_S = 120.0
RUN = ("--epochs", "12", "--grow", "always", "--growth-warmup-steps", "40", "--evaluate-every-steps", "6")


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)  # another process starts


@contextmanager
def plane(certificates: Path, state: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """Services that speak TLS alone; Tamiyo and Kasmina ask their clients for a certificate."""
    tls = ("--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key"))
    asking = ("--tls-client-ca", str(certificates / "ca.pem"))
    endpoints: dict[str, str] = {}
    with ExitStack() as stack:
        for name in ("weatherlight", "tamiyo", "kasmina"):
            port = free_port()
            own = ("--listen", f"0.0.0.0:{port}", "--state-dir", str(state / name))
            more: tuple[str, ...] = ()
            if bus := endpoints.get("weatherlight"):
                more = (*asking, "--weatherlight", bus, "--weatherlight-ca", str(certificates / "ca.pem"))
            process = subprocess.Popen(
                [sys.executable, "-m", f"esper.{name}.server", *own, *tls, *more],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            wait_for(port, process)
            endpoints[name] = f"localhost:{port}"
        yield endpoints


def test_two_ranks_grow_by_services_that_speak_tls(certificates: Path, tmp_path: Path) -> None:
    environ = {**environment(), SECRET_VARIABLE: secrets.token_urlsafe(32)}
    client = ("--tls-cert", str(certificates / "client.pem"), "--tls-key", str(certificates / "client.key"))
    with plane(certificates, tmp_path, environ) as endpoints:
        places = [word for name, endpoint in endpoints.items() for word in (f"--{name}", endpoint)]
        command = [*torchrun(2), *NARROW, *RUN, *places, "--tls-ca", str(certificates / "ca.pem"), *client]
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE_S,
            env=environ,
        )
    assert done.returncode == os.EX_OK, done.stdout[-3000:] + done.stderr[-3000:]
    assert any(event["directive"] == "ATTACH" for event in events(tmp_path / "run", "directive"))
