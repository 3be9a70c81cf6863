"""The directory of a run's sockets: private, with a short path, removed at the run's end.

A kill -9 leaves it behind, so whoever makes the next one removes those whose process is gone: each holds a lock in its
own, which the kernel lets go of however the process ends.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from esper.core.errors import ConfigError
from esper.core.storage.file_lock import try_hold
from esper.rpc.endpoint import MAX_SOCKET_PATH_BYTES

PREFIX = "esper-"
LOCK = "lock"
SOCKET = ".sock"
LONGEST = f"weatherlight{SOCKET}"
CHOOSE = "set XDG_RUNTIME_DIR or TMPDIR to a short directory of yours, such as /tmp"


class RuntimeDir:
    """One such directory, in `XDG_RUNTIME_DIR` or where temporary files are. Raises ConfigError where none can be."""

    def __init__(self) -> None:
        parent, variable = _parent()
        remove_abandoned(parent)
        while True:
            try:
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            except OSError as error:
                remedy = f"no directory for the services' sockets can be made there: {error.strerror}; {CHOOSE}"
                raise ConfigError(variable, str(parent), remedy) from error
            # Another start may take it for abandoned before it is held; then it is gone, and the next one is made.
            with suppress(FileNotFoundError):
                if (held := try_hold(self.path / LOCK)) is not None:
                    self._held = held
                    return

    def remove(self) -> None:
        """Remove it with the sockets in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def _parent() -> tuple[Path, str]:
    """Where the directory is made, and the variable that says so."""
    variable = "XDG_RUNTIME_DIR" if os.environ.get("XDG_RUNTIME_DIR") else "TMPDIR"
    parent = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()).absolute()
    most = MAX_SOCKET_PATH_BYTES - len(f"/{PREFIX}12345678/{LONGEST}")
    if (size := len(bytes(parent))) > most:
        what = f"takes {size} bytes, and with more than {most} the services' sockets have no room in it"
        raise ConfigError(variable, str(parent), f"{what}; {CHOOSE}")
    return parent, variable


def remove_abandoned(parent: Path) -> None:
    """Remove this user's directories of runs that are gone; whatever else is in one keeps it."""
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _is_ours(path) and (held := try_hold(path / LOCK)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                held.close()


def _is_ours(path: Path) -> bool:
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        return False
    names = {entry.name for entry in path.iterdir()}
    return LOCK in names and all(name == LOCK or name.endswith(SOCKET) for name in names)
