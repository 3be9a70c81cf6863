"""Conservative mode of one run: entered at once, left only after a dwell and enough clean packets in a row.

While it lasts nothing is germinated; seeds that live go on to their verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.leyline import RiskEffect, RiskFinding, RiskReason, TamiyoRunState
from esper.tamiyo.config import TamiyoConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeChange:
    """A transition of conservative mode, for its event."""

    entered: bool
    reason: RiskReason
    steps: int
    """Steps that were spent in the mode that was left."""


def advance(
    state: TamiyoRunState, findings: Sequence[RiskFinding], step: int, config: TamiyoConfig
) -> ModeChange | None:
    """Move the mode kept in `state` by one packet's findings; return the transition, if there was one."""
    alarm = next((item for item in findings if item.effect == RiskEffect.RISK_EFFECT_CONSERVATIVE), None)
    if alarm is not None:
        return _alarmed(state, alarm.reason, step)
    if not state.conservative:
        return None
    state.clean_packets = state.clean_packets + 1 if _is_clean(findings) else 0
    stayed = step - state.conservative_since_step
    if stayed < config.conservative_dwell_steps or state.clean_packets < config.conservative_clean_packets:
        return None
    change = ModeChange(entered=False, reason=state.conservative_reason, steps=stayed)
    state.conservative, state.clean_packets = False, 0
    state.ClearField("conservative_reason")
    state.ClearField("conservative_since_step")
    return change


def _alarmed(state: TamiyoRunState, reason: RiskReason, step: int) -> ModeChange | None:
    was_conservative = state.conservative
    state.conservative, state.clean_packets = True, 0
    # Each new alarm starts the dwell anew, so that a run can't leave between two of them.
    state.conservative_reason, state.conservative_since_step = reason, step
    return None if was_conservative else ModeChange(entered=True, reason=reason, steps=0)


def _is_clean(findings: Sequence[RiskFinding]) -> bool:
    """No rule asked for a hold, except the one that says that the mode is on."""
    return not any(
        item.effect == RiskEffect.RISK_EFFECT_HOLD and item.reason != RiskReason.RISK_REASON_CONSERVATIVE_MODE
        for item in findings
    )
