"""What a person should look at before a run, as Python tells such things: by a warning at the line that called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from esper.core.errors import DoubtWarning
from esper.tolaria.door.wording import reworded
from esper.tolaria.record.observer import Notice, Observer

TOLD = frozenset({"tolaria.data_doubt", "tolaria.uncounted"})
# Between a script and what it called: our own code, and the decorators of its doors.
_INSIDE = frozenset({"esper", "contextlib"})


class Warns(Observer):
    """For a script without a display, which would print them."""

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            if notice.name in TOLD:
                warnings.warn(reworded(notice.message), DoubtWarning, stacklevel=_level())


def _level() -> int:
    """How far the script's own line is from whoever asks, as `warnings.warn` counts."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level
