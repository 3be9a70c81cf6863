"""What a run tells, as lines."""

from __future__ import annotations

import sys
from typing import TextIO

from esper.tolaria.door.wording import reworded
from esper.tolaria.record.terminal.display import PlainDisplay


class Display(PlainDisplay):
    """One of the `callbacks`: a line every few seconds, and one for every event worth knowing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(sys.stdout if stream is None else stream)

    def _print(self, text: str) -> None:
        super()._print(reworded(text))
