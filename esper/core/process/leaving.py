"""Code that isn't Esper's stays in the process: its `sys.exit` becomes an error that says where it was called.

A seed, a loss or a data source that leaves would end the run without a word, with an exit code of its own.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from esper.core.errors import LeftProcess


@contextmanager
def kept_inside() -> Iterator[None]:
    """Raises LeftProcess for a SystemExit of what stands inside."""
    try:
        yield
    except SystemExit as error:
        raise left(error) from error


def left(error: SystemExit) -> LeftProcess:
    """What such a call was, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return LeftProcess(error.code, f"{place.filename}:{place.lineno}, in {place.name}")
