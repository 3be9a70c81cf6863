"""What the plane's mode allows a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring, new_secret
from esper.kasmina.control.plane_watch import PlaneWatch
from esper.leyline import EmergencyLevel, EmergencySignal, ModeUpdate, SystemMode
from esper.rpc.reporting.alarm import Alarm

DEGRADED, EMERGENCY = SystemMode.SYSTEM_MODE_DEGRADED, SystemMode.SYSTEM_MODE_EMERGENCY
L3, L4 = EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE, EmergencyLevel.EMERGENCY_LEVEL_L4_HALT


def update(mode: SystemMode, *levels: EmergencyLevel, only_run: str | None = None) -> ModeUpdate:
    return ModeUpdate(
        mode=mode, cause="a drill", open_emergencies=[EmergencySignal(level=each) for each in levels], only_run=only_run
    )


@pytest.mark.parametrize(
    ("heard", "is_held"),
    [
        (update(SystemMode.SYSTEM_MODE_UNSPECIFIED), False),
        (update(SystemMode.SYSTEM_MODE_NORMAL), False),
        (update(DEGRADED), True),
        (update(DEGRADED, only_run="one"), False),
        (update(DEGRADED, only_run="two"), True),
        (update(EMERGENCY, L3), True),
        (update(EMERGENCY, L4), False),
        (update(EMERGENCY, L3, L4), False),
    ],
)
def test_a_mode_holds_growth_but_a_halt_decides_nothing(heard: ModeUpdate, is_held: bool, tmp_path: Path) -> None:
    alarm = Alarm(None, Keyring.from_secret(new_secret()), ManualClock(), "kasmina", tmp_path)
    assert (PlaneWatch(lambda: heard, alarm).problem("one") is not None) == is_held
