"""The plane's mode: worse at once, better only after a while.

DEGRADED lasts at least its dwell time, and ends only when its conditions have been clear for as long as the hysteresis
asks, so that a service that comes and goes doesn't make the plane flap. EMERGENCY ends with its acknowledgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.clock import NS_PER_S, Clock, timestamp
from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.core.settings.config import longest
from esper.leyline import EmergencyLevel, EmergencySignal, HealthStatus, ModeUpdate, ServiceStatus, SystemMode

NORMAL = SystemMode.SYSTEM_MODE_NORMAL
DEGRADED = SystemMode.SYSTEM_MODE_DEGRADED
EMERGENCY = SystemMode.SYSTEM_MODE_EMERGENCY
LIVES = "every registered service lives"
STEADY = f"{LIVES} and no emergency is open"
_UNWELL = (
    HealthStatus.HEALTH_STATUS_DEGRADED,
    HealthStatus.HEALTH_STATUS_UNHEALTHY,
    HealthStatus.HEALTH_STATUS_CRITICAL,
)
# Nobody depends on a trainer.
_TRAINER = "tolaria"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeConfig:
    """How long modes last."""

    dwell_s: float = 10.0  # shortest stay in a worse mode
    clear_s: float = 5.0  # how long its conditions must be clear before it is left

    def __post_init__(self) -> None:
        for key in ("dwell_s", "clear_s"):
            if not 0 <= getattr(self, key) <= longest(key):
                raise ConfigError(key, getattr(self, key), f"give seconds, from 0 to {longest(key):.0f}")


@dataclass(frozen=True, slots=True)
class Facts:
    """The mode that the facts ask for, why, and the run that is its only cause, if it is the policy of one run."""

    mode: SystemMode
    cause: str
    only_run: str | None = None


def conditions(
    services: Sequence[ServiceStatus], emergencies: Sequence[EmergencySignal], trouble: str | None = None
) -> Facts:
    """The mode that the facts ask for now. Of a service that another instance stands in for, nobody needs the lost.

    `trouble` is what keeps Weatherlight itself from its duties: a bus that is away, for one.
    """
    grave = [e for e in emergencies if e.level >= EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE]
    if grave:
        return Facts(EMERGENCY, "; ".join(map(_cause, grave)))
    live = [s for s in services if not s.is_lost]
    served = {s.service for s in live} | {_TRAINER}
    lost = [f"{s.service} ({s.instance}) is lost" for s in services if s.is_lost and s.service not in served]
    unwell = [s for s in live if s.health in _UNWELL]
    told = [f"{s.service} is unwell: {s.summary or 'no reason given'}" for s in unwell]
    own = [] if trouble is None else [f"weatherlight is unwell: {trouble}"]
    elevated = [_cause(e) for e in emergencies if e.level == EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED]
    causes = own + lost + told + elevated
    if not causes:
        return Facts(NORMAL, f"{LIVES}; {'; '.join(map(_cause, emergencies))}" if emergencies else STEADY)
    only = unwell[0] if len(causes) == len(unwell) == 1 else None
    of_run = only.training_run_id if only is not None and only.HasField("training_run_id") else None
    return Facts(DEGRADED, "; ".join(causes), of_run)


def _cause(emergency: EmergencySignal) -> str:
    level, what = short_name(EmergencyLevel, emergency.level), emergency.detail or emergency.cause
    return f"{level}: {what} (raised by {emergency.origin}, id {emergency.emergency_id})"


class ModeMachine:
    """The mode over time. `update` is called whenever facts change, and every so often."""

    def __init__(self, clock: Clock, config: ModeConfig | None = None) -> None:
        self._clock = clock
        self._config = config or ModeConfig()
        self._facts = Facts(NORMAL, STEADY)
        self._since_wall_ns = clock.now_ns()
        self._since_ns = clock.monotonic_ns()
        self._better_since_ns: int | None = None

    @property
    def mode(self) -> SystemMode:
        return self._facts.mode

    def describe(self, emergencies: Sequence[EmergencySignal]) -> ModeUpdate:
        """The mode as a message."""
        return ModeUpdate(
            mode=self._facts.mode,
            cause=self._facts.cause,
            since=timestamp(self._since_wall_ns),
            open_emergencies=emergencies,
            only_run=self._facts.only_run,
        )

    def update(self, facts: Facts) -> bool:
        """Move towards the mode that the facts ask for; True if anything changed."""
        now_ns = self._clock.monotonic_ns()
        if facts.mode > self.mode or self.mode == EMERGENCY != facts.mode:
            return self._enter(facts, now_ns)
        if facts.mode == self.mode:
            self._better_since_ns = None
            changed, self._facts = facts != self._facts, facts
            return changed
        if self._better_since_ns is None:
            self._better_since_ns = now_ns
        dwelt = now_ns - self._since_ns >= self._config.dwell_s * NS_PER_S
        clear = now_ns - self._better_since_ns >= self._config.clear_s * NS_PER_S
        return dwelt and clear and self._enter(facts, now_ns)

    def _enter(self, facts: Facts, now_ns: int) -> bool:
        self._facts = facts
        self._since_ns, self._since_wall_ns = now_ns, self._clock.now_ns()
        self._better_since_ns = None
        return True
