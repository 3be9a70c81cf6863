"""What torchrun is told of a process that fails: the line that its own report of the failure then shows."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torchrun looks for it, a file of each process."""


def tell_launcher(line: str) -> None:
    """Leave the line where torchrun reads it, in torch's own form; without torchrun nothing is done."""
    path = os.environ.get(ERROR_FILE)
    if path is None:
        return
    extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
    with suppress(OSError):  # the line was printed before
        Path(path).write_text(json.dumps({"message": {"message": line, "extraInfo": extra}}))
