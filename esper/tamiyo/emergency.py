"""Which findings are emergencies of the whole plane, and how grave: raised when they begin, not while they last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from esper.leyline import EmergencyLevel, RiskFinding, RiskReason
from esper.rpc.reporting.alarm import Alarm
from esper.tamiyo import metrics
from esper.tamiyo.telemetry import Told, reason_name

LEVELS: Mapping[int, EmergencyLevel] = MappingProxyType(
    {
        # What trains on a loss that is no number is worth nothing, and writes it into its checkpoints.
        RiskReason.RISK_REASON_NON_FINITE_LOSS: EmergencyLevel.EMERGENCY_LEVEL_L4_HALT,
    }
)


def raise_emergencies(alarm: Alarm, told: Told) -> None:
    """Raise those that this packet's findings begin."""
    for finding, level in _begun(told):
        spec = metrics.RISK_EVENTS[finding.reason]
        detail = f"{spec.help} at packet {told.packet_index}"
        alarm.raise_emergency(level, spec.name, detail, run=told.run_id, generation=told.generation)


def _begun(told: Told) -> Iterator[tuple[RiskFinding, EmergencyLevel]]:
    for finding in told.verdict.findings:
        if finding.reason in LEVELS and reason_name(finding.reason) not in told.known:
            yield finding, LEVELS[finding.reason]
