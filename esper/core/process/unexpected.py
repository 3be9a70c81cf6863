"""The edge of a process: an error that nobody foresaw, such as one in a user's own model, in one line with its place.

Every command takes the flag that shows more.
"""

from __future__ import annotations

import traceback

from esper.core.plain import plain

FLAG = "--traceback"


def unexpected(error: Exception) -> str:
    """What it is, where it was raised, and how to see more."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    first_line = (str(error).splitlines() or [""])[0]
    return plain(
        f"unexpected {type(error).__name__}: {first_line} "
        f"({place.filename}:{place.lineno}, in {place.name}; {FLAG} shows more)"
    )
