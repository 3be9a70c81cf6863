"""The trainer and the plane's emergencies: a growing run opens in a NORMAL plane alone, and what ends a run is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from esper.core.enums import short_name
from esper.core.errors import PlaneNotNormal, RollbackFailed, RollbackLate, StepFailed
from esper.leyline import EmergencyLevel, ModeUpdate, WeatherlightServiceGetStatusRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import WeatherlightClient
from esper.rpc.reporting.alarm import Alarm
from esper.tolaria import metrics
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.plane import Plane
from esper.tolaria.plane.services import SPAWN
from esper.tolaria.record.mode import NORMAL, standing_of

TIMEOUT_S = 10.0


def require_normal(plane: Plane, config: TrainConfig, run_id: str) -> None:
    """Raises PlaneNotNormal where no growing run may open now."""
    standing = standing_of(_mode(plane), run_id)
    if standing.mode == NORMAL:
        return
    remedy = acknowledging(config) if standing.emergencies else "wait until it is NORMAL"
    raise PlaneNotNormal(f"the plane is {standing.in_words}; no growing run opens now: {remedy}, then start it again")


def require_not_halted(summary: Mapping[str, Any], config: TrainConfig) -> None:
    """Raises PlaneNotNormal for a run that an emergency halted; all its files are written by now."""
    halt = summary.get("halted_by")
    if halt is not None:
        who = f"{halt['cause']} (raised by {halt['raised_by']}, id {halt['emergency_id']})"
        raise PlaneNotNormal(
            f"halted at step {summary['steps']} by {halt['level']}: {who}; {acknowledging(config)}, then give --resume"
        )


def acknowledging(config: TrainConfig) -> str:
    """How an operator acknowledges the emergencies of a run's plane."""
    is_own = config.weatherlight == SPAWN
    place = str(config.run_dir) if is_own else f"--weatherlight {config.weatherlight}"
    return f"acknowledge it with `esper emergency acknowledge {place}`"


@contextmanager
def raising(
    alarm: Alarm,
    run_id: str,
    tell: Callable[[str, str], None],
    *,
    generation: Callable[[], int],
    step: Callable[[], int],
) -> Iterator[None]:
    """Raise and tell what ends the run inside: a step that can't be used is a notice, no way back is a halt.

    Of one that could not go back in time Weatherlight makes the emergency.
    """
    try:
        yield
    except RollbackLate as late:
        alarm.signal_late_rollback(
            run_id, generation=generation(), step=step(), deadline_ms=late.deadline_ms, elapsed_ms=late.elapsed_ms
        )
        raise
    except (StepFailed, RollbackFailed) as error:
        is_lost = isinstance(error, RollbackFailed)
        level = EmergencyLevel.EMERGENCY_LEVEL_L4_HALT if is_lost else EmergencyLevel.EMERGENCY_LEVEL_L1_NOTICE
        alarm.raise_emergency(level, metrics.EMERGENCY_ESCALATED.name, str(error), run=run_id)
        tell(metrics.EMERGENCY_ESCALATED.name, f"{short_name(EmergencyLevel, level)}: {error}")
        raise


def _mode(plane: Plane) -> ModeUpdate:
    link = plane.services.open_channel("weatherlight")
    try:
        client = WeatherlightClient(link, metadata=service_metadata(plane.keyring, "tolaria"))
        return client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S).mode
    finally:
        link.close()
