"""A process that ends with the one that started it: `python -m esper.core.process.child PID MODULE [ARGUMENT ...]`.

The kernel is asked for a SIGTERM at the parent's death before MODULE, which may take a second, is imported. Then the
parent is looked at: one that was gone before the kernel was asked leaves nothing behind either.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def child_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module as a child of this process."""
    return [sys.executable, "-m", "esper.core.process.child", str(os.getpid()), module, *arguments]


def end_with(parent_pid: int) -> None:
    """End when the parent, or its thread that started this process, does; at once if it has."""
    if not sys.platform.startswith("linux"):
        sys.exit("esper.core.process.child: a process that ends with its parent needs Linux; start it by itself")
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit(f"esper.core.process.child: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit(os.EX_UNAVAILABLE)


def main(argv: Sequence[str]) -> None:
    """Run a module as `python -m` does."""
    parent_pid, module, *arguments = argv
    end_with(int(parent_pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
