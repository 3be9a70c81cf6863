"""What systemd is told by a service that it started with `Type=notify`: ready, stopping, and that it still lives.

Without systemd nothing is said. The protocol is sd_notify(3)'s: one datagram of lines to the socket that NOTIFY_SOCKET
names, a leading @ standing for the zero byte of an abstract address.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd; False where nobody listens. A full or missing socket must not stop a service."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        try:
            line.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return False
    return True


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants a sign of life at least, in seconds; None where it waits for none of this process."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    if not text.isdigit() or int(text) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


def forget(environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take the line away, so that children don't speak for this process; what is returned still speaks for it."""
    return {name: environ.pop(name) for name in VARIABLES if name in environ}
