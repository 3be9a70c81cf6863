"""Settings of Weatherlight."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from esper.core.settings.config import require_positive
from esper.leyline import EmergencyLevel
from esper.nissa.config import DeliveryConfig
from esper.oona.bus import BusConfig
from esper.weatherlight.page import PageConfig
from esper.weatherlight.supervision.mode import ModeConfig
from esper.weatherlight.supervision.registry import RegistryConfig

Level = Literal["L1_NOTICE", "L2_ELEVATED", "L3_CONSERVATIVE", "L4_HALT"]
LEVELS: dict[Level, EmergencyLevel] = {
    "L1_NOTICE": EmergencyLevel.EMERGENCY_LEVEL_L1_NOTICE,
    "L2_ELEVATED": EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED,
    "L3_CONSERVATIVE": EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE,
    "L4_HALT": EmergencyLevel.EMERGENCY_LEVEL_L4_HALT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeatherlightConfig:
    """What the supervisor needs to know."""

    registry: RegistryConfig = field(default_factory=RegistryConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    bus: BusConfig = field(default_factory=BusConfig)
    page: PageConfig = field(default_factory=PageConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    artifact_dir: Path | None = None  # artefacts that prefetches are answered from; built-in ones need none
    redis_url: str | None = None  # the bus on Redis Streams instead of the embedded log
    rollback_deadline_level: Level = "L4_HALT"  # emergency that a late rollback raises
    sweep_s: float = 0.5  # how often lost services are looked for
    summary_s: float = 10.0  # how often Weatherlight reports on itself
    trim_s: float = 2.0  # how often the bus forgets what is old
    max_nonces: int = 10_000  # live nonces that the ledger keeps

    def __post_init__(self) -> None:
        require_positive(self, "sweep_s", "summary_s", "trim_s", "max_nonces")

    @property
    def rollback_level(self) -> EmergencyLevel:
        """The level as the enum has it."""
        return LEVELS[self.rollback_deadline_level]
