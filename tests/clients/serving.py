"""A service in a process of its own, on a port of its own: what no client finds on a unix socket."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.core.process.child import child_command
from esper.rpc.clients import channel
from esper.rpc.clients.health import wait_serving

PATIENCE_S = 30.0


@contextmanager
def serving(name: str, state_dir: Path, secret: str) -> Iterator[str]:
    """Its endpoint; it must end in order."""
    command = [*child_command(f"esper.{name}.server"), "--listen", "127.0.0.1:0", "--state-dir", str(state_dir)]
    environ = {**os.environ, "ESPER_LEYLINE_SECRET": secret}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            endpoint = _endpoint(process)
            with channel(endpoint) as link:
                wait_serving(link, "", timeout_s=PATIENCE_S)
            yield endpoint
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def _endpoint(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "listens on " in line:
            return line.split("listens on ")[1].strip()
    raise AssertionError("".join(lines))
