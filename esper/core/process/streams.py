"""Standard streams as something that may be lost: what a process does never depends on who reads what it prints.

`secure` first, `say` instead of print, `settle` last. A reader that went away is nobody's error; a stream that is lost
otherwise, as on a full disk, is told once on the other one.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from esper.core.plain import PlainFormatter, plain_lines


def secure() -> None:
    """Open what was closed on nothing, so that no file gets its number; replace what an encoding lacks by "?"."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets this number: it is the lowest free one
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)  # None if it was closed when the interpreter started
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    if logging.lastResort is not None:  # where no handler was set up
        logging.lastResort.setFormatter(PlainFormatter())


def say(text: object, stream: TextIO | None = None) -> None:
    """Print a line at once, to standard output if no stream is given; nothing happens if nobody can take it."""
    stream = stream or sys.stdout
    try:
        print(plain_lines(text), file=stream, flush=True)
    except (OSError, ValueError) as error:
        lose(stream, error)


def lose(stream: TextIO, error: Exception) -> None:
    """Put a stream that failed on nothing, once and for all, and tell why unless its reader went away."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        name, other = ("output", sys.stderr) if stream is sys.stdout else ("error", sys.stdout)
        with suppress(OSError, ValueError):
            print(f"standard {name} was lost: {error.strerror}", file=other, flush=True)


def settle() -> bool:
    """Write out what is left, so that the interpreter's own end can't stumble over it; whether that failed."""
    is_lost = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            lose(stream, error)
            is_lost = True
    return is_lost
