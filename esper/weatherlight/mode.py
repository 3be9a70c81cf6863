"""The plane's mode: worse at once, better only after a while.

A mode lasts at least its dwell time, and ends only when its conditions have been clear for as long as the hysteresis
asks, so that a service that comes and goes doesn't make the plane flap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.clock import NS_PER_S, Clock, timestamp
from esper.core.errors import ConfigError
from esper.leyline import EmergencyLevel, EmergencySignal, HealthStatus, ModeUpdate, ServiceStatus, SystemMode

NORMAL = SystemMode.SYSTEM_MODE_NORMAL
DEGRADED = SystemMode.SYSTEM_MODE_DEGRADED
EMERGENCY = SystemMode.SYSTEM_MODE_EMERGENCY
STEADY = "every registered service lives and no emergency is open"
_UNWELL = (HealthStatus.HEALTH_STATUS_UNHEALTHY, HealthStatus.HEALTH_STATUS_CRITICAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeConfig:
    """How long modes last."""

    dwell_s: float = 10.0  # shortest stay in a worse mode
    clear_s: float = 5.0  # how long its conditions must be clear before it is left

    def __post_init__(self) -> None:
        for key in ("dwell_s", "clear_s"):
            if getattr(self, key) < 0:
                raise ConfigError(key, getattr(self, key), "give a number of seconds, 0 or more")


def conditions(services: Sequence[ServiceStatus], emergencies: Sequence[EmergencySignal]) -> tuple[SystemMode, str]:
    """The mode that the facts ask for now, and why."""
    grave = [e for e in emergencies if e.level >= EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE]
    if grave:
        return EMERGENCY, "; ".join(f"{e.cause} raised by {e.origin} ({e.emergency_id})" for e in grave)
    lost = [f"{s.service} ({s.instance}) is lost" for s in services if s.is_lost]
    unwell = [f"{s.service} is unwell: {s.summary or 'no reason given'}" for s in services if s.health in _UNWELL]
    elevated = [
        f"{e.cause} raised by {e.origin}" for e in emergencies if e.level == EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED
    ]
    causes = lost + unwell + elevated
    return (DEGRADED, "; ".join(causes)) if causes else (NORMAL, STEADY)


class ModeMachine:
    """The mode over time. `update` is called whenever facts change, and every so often."""

    def __init__(self, clock: Clock, config: ModeConfig | None = None) -> None:
        self._clock = clock
        self._config = config or ModeConfig()
        self._mode = NORMAL
        self._cause = STEADY
        self._since_wall_ns = clock.now_ns()
        self._since_ns = clock.monotonic_ns()
        self._better_since_ns: int | None = None

    @property
    def mode(self) -> SystemMode:
        return self._mode

    def describe(self, emergencies: Sequence[EmergencySignal]) -> ModeUpdate:
        """The mode as a message."""
        return ModeUpdate(
            mode=self._mode, cause=self._cause, since=timestamp(self._since_wall_ns), open_emergencies=emergencies
        )

    def update(self, wanted: SystemMode, cause: str) -> bool:
        """Move towards the mode that the facts ask for; True if mode or cause changed."""
        now_ns = self._clock.monotonic_ns()
        if wanted > self._mode:
            return self._enter(wanted, cause, now_ns)
        if wanted == self._mode:
            self._better_since_ns = None
            changed, self._cause = cause != self._cause, cause
            return changed
        if self._better_since_ns is None:
            self._better_since_ns = now_ns
        dwelt = now_ns - self._since_ns >= self._config.dwell_s * NS_PER_S
        clear = now_ns - self._better_since_ns >= self._config.clear_s * NS_PER_S
        return dwelt and clear and self._enter(wanted, cause, now_ns)

    def _enter(self, mode: SystemMode, cause: str, now_ns: int) -> bool:
        self._mode, self._cause = mode, cause
        self._since_ns, self._since_wall_ns = now_ns, self._clock.now_ns()
        self._better_since_ns = None
        return True
