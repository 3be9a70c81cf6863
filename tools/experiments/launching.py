"""Launches training runs one after another without importing torch anew for each: every run is a process of its own,
forked from one that has imported what tolaria-train needs and has started nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ["esper.tolaria.launcher", "esper.tolaria.run", "sklearn.datasets", "matplotlib.figure", "control_arms"]


def context() -> ForkServerContext:
    """Where runs are forked from; the server starts with the first of them."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def launch(server: ForkServerContext, control: str | None, argv: Sequence[str], log: Path) -> int:
    """Train as `tolaria-train ARGV` does, or a control arm; returns the exit code. What it prints goes to the log."""
    child = server.Process(target=_train, args=(control, list(argv), str(log)))
    child.start()
    child.join()
    return 1 if child.exitcode is None else child.exitcode


def _train(control: str | None, argv: list[str], log: str) -> None:
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    if control is None:
        from esper.tolaria import launcher

        sys.exit(launcher.main(argv))
    import control_arms

    sys.exit(control_arms.main([control, "--", *argv]))
