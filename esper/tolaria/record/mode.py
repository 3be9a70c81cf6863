"""The run's mode: its own, which answers decide, or the plane's where that is worse.

Its own is conservative as soon as an answer is missing, and normal again after several clean ones in a row. The plane's
is Weatherlight's word; L4 is no mode but a halt, so that a run goes on after it as if there had been none.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.core.enums import short_name
from esper.leyline import EmergencyLevel, EmergencySignal, ModeUpdate, SystemMode

CLEAN_RESULTS = 5
NORMAL = SystemMode.SYSTEM_MODE_NORMAL
NAMES = {
    NORMAL: "normal",
    SystemMode.SYSTEM_MODE_DEGRADED: "conservative",
    SystemMode.SYSTEM_MODE_EMERGENCY: "emergency",
}
L3 = EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE
L4 = EmergencyLevel.EMERGENCY_LEVEL_L4_HALT


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The plane as it binds one run."""

    mode: SystemMode = NORMAL
    cause: str = ""
    emergencies: tuple[EmergencySignal, ...] = ()
    """The open ones, gravest first."""

    @property
    def level(self) -> int:
        """Of the gravest open emergency; 0 where there is none."""
        return max((int(signal.level) for signal in self.emergencies), default=0)

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to say."""
        return self.mode == NORMAL and not self.emergencies

    def as_fields(self) -> dict[str, str]:
        """Mode and cause; with an open emergency its level, cause, id and who raised it."""
        mode = short_name(SystemMode, self.mode)
        if not self.emergencies:
            return {"mode": mode, "cause": self.cause}
        signal = self.emergencies[0]
        return {
            "mode": mode,
            "level": short_name(EmergencyLevel, signal.level),
            "cause": signal.detail,
            "raised_by": signal.origin,
            "emergency_id": signal.emergency_id,
        }

    @property
    def word(self) -> str:
        """That the plane lets nothing grow, and why; nothing where it doesn't."""
        return "" if self.mode == NORMAL else f"the plane is {self.in_words}"

    @property
    def in_words(self) -> str:
        """Mode, level, cause and who, e.g. "EMERGENCY, L4_HALT: the loss is NaN (raised by operator:ann, id e1)"."""
        mode = short_name(SystemMode, self.mode)
        if not self.emergencies:
            return f"{mode}: {self.cause}" if self.cause else mode
        signal = self.emergencies[0]
        run = f" in run {signal.training_run_id}" if signal.HasField("training_run_id") else ""
        level = short_name(EmergencyLevel, signal.level)
        more = f", and {len(self.emergencies) - 1} more" if len(self.emergencies) > 1 else ""
        return f"{mode}, {level}: {signal.detail} (raised by {signal.origin}{run}, id {signal.emergency_id}{more})"


def standing_of(update: ModeUpdate, run_id: str) -> Standing:
    """What the plane's mode is for a run: one whose own conservative policy is the only cause is governed by that."""
    governs_itself = update.only_run == run_id and not update.open_emergencies
    return Standing(
        mode=NORMAL if governs_itself else update.mode,
        cause=update.cause,
        emergencies=tuple(sorted(update.open_emergencies, key=lambda signal: -signal.level)),
    )


class RunMode:
    """NORMAL, DEGRADED (conservative: training goes on, nothing new is grown), EMERGENCY (nothing grows at all)."""

    def __init__(self) -> None:
        self._own = NORMAL
        self._clean = 0
        self.plane = Standing()

    @property
    def value(self) -> SystemMode:
        """The worse of the run's own and the plane's."""
        return max(self._own, NORMAL if self.plane.level >= L4 else self.plane.mode)

    @property
    def name(self) -> str:
        """The mode in one word."""
        return NAMES[max(self._own, self.plane.mode)]

    @property
    def is_conservative(self) -> bool:
        """Whether nothing new is grown."""
        return self.value != NORMAL

    def hear(self, standing: Standing) -> str | None:
        """Take the plane's word; returns what changed, in words."""
        before, self.plane = self.plane, standing
        if standing == before or (standing.is_quiet and before.is_quiet):
            return None
        return f"the plane is {standing.in_words}"

    def note(self, failure: str | None) -> str | None:
        """Take one more result; returns what changed, in words."""
        if failure is not None:
            was_normal = self._own == NORMAL
            self._own, self._clean = SystemMode.SYSTEM_MODE_DEGRADED, 0
            return f"conservative mode: {failure}" if was_normal else None
        if self._own == NORMAL:
            return None
        self._clean += 1
        if self._clean < CLEAN_RESULTS:
            return None
        self._own = NORMAL
        return f"normal mode after {CLEAN_RESULTS} clean answers"

    def state_dict(self) -> list[int]:
        """The run's own mode, and clean results so far; the plane's is heard anew."""
        return [int(self._own), self._clean]

    def load_state_dict(self, state: list[int]) -> None:
        """Go on from a saved state."""
        self._own = NORMAL if state[0] == NORMAL else SystemMode.SYSTEM_MODE_DEGRADED
        self._clean = state[1]
