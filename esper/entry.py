"""The console commands: each imports its program, which takes a second or two, and runs it.

Ctrl-C while a program is still being imported ends the process quietly with 130: there is nothing to clean up yet.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module


def _run(module: str) -> int:
    """Import a program and run its `main`; returns the exit code."""
    with _quietly_interruptible():
        program = import_module(module)
    code: int = program.main()
    gc.freeze()  # or the interpreter, which ends next, looks for circles among all that torch has made
    return code


@contextmanager
def _quietly_interruptible() -> Iterator[None]:
    """End at once at a Ctrl-C inside; where it is ignored, as in a shell's background, it stays so."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


tolaria_train = partial(_run, "esper.tolaria.launcher")
esper = partial(_run, "esper.cli.main")
tamiyo = partial(_run, "esper.tamiyo.server")
kasmina = partial(_run, "esper.kasmina.server")
weatherlight = partial(_run, "esper.weatherlight.server")
