"""The run's mode: conservative as soon as an answer is missing, normal again after several clean ones in a row."""

from __future__ import annotations

from esper.leyline import SystemMode

CLEAN_RESULTS = 5
NAMES = {SystemMode.SYSTEM_MODE_NORMAL: "normal", SystemMode.SYSTEM_MODE_DEGRADED: "conservative"}


class RunMode:
    """NORMAL or DEGRADED (conservative: training goes on, nothing new is grown)."""

    def __init__(self) -> None:
        self.value = SystemMode.SYSTEM_MODE_NORMAL
        self._clean = 0

    @property
    def name(self) -> str:
        """The mode in one word."""
        return NAMES[self.value]

    @property
    def is_conservative(self) -> bool:
        """Whether nothing new is grown."""
        return self.value != SystemMode.SYSTEM_MODE_NORMAL

    def note(self, failure: str | None) -> str | None:
        """Take one more result; returns what changed, in words."""
        if failure is not None:
            was_normal = self.value == SystemMode.SYSTEM_MODE_NORMAL
            self.value, self._clean = SystemMode.SYSTEM_MODE_DEGRADED, 0
            return f"conservative mode: {failure}" if was_normal else None
        if self.value == SystemMode.SYSTEM_MODE_NORMAL:
            return None
        self._clean += 1
        if self._clean < CLEAN_RESULTS:
            return None
        self.value = SystemMode.SYSTEM_MODE_NORMAL
        return f"normal mode after {CLEAN_RESULTS} clean answers"

    def state_dict(self) -> list[int]:
        """Mode and clean results so far."""
        return [int(self.value), self._clean]

    def load_state_dict(self, state: list[int]) -> None:
        """Go on from a saved state."""
        is_normal = state[0] == SystemMode.SYSTEM_MODE_NORMAL
        self.value = SystemMode.SYSTEM_MODE_NORMAL if is_normal else SystemMode.SYSTEM_MODE_DEGRADED
        self._clean = state[1]
