"""Environment variables that an orchestrator sets for each of its services, in the manner of Docker's links.

A service named *tolaria* or *esper-kasmina* gives every container variables that begin as our settings do. They are
nobody's settings, so they are passed over; anything else that begins so is one, or a mistake.
"""

from __future__ import annotations

import re

_SHAPES = (
    (re.compile(r"\w*_SERVICE_HOST"), re.compile(r".*")),
    (re.compile(r"\w*_SERVICE_PORT(_\w+)?"), re.compile(r"\d+")),
    (re.compile(r"\w*_PORT(_\d+_(TCP|UDP|SCTP))?"), re.compile(r"(tcp|udp|sctp)://.*")),
    (re.compile(r"\w*_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)"), re.compile(r".*")),
)


def is_injected(name: str, value: str) -> bool:
    """Whether a variable has the name and the value that an orchestrator gives."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _SHAPES)
