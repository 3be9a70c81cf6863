from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import RiskFinding, RiskReason, TamiyoRunState
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.deciding.mode import advance
from esper.tamiyo.deciding.risk import CONSERVATIVE, HOLD, NOTE
from tests.unit.tamiyo.builders import first_state

CONFIG = TamiyoConfig(conservative_dwell_steps=50, conservative_clean_packets=3)
SPIKE = RiskFinding(reason=RiskReason.RISK_REASON_LOSS_SPIKE, effect=CONSERVATIVE)
NOISE = RiskFinding(reason=RiskReason.RISK_REASON_LOSS_VOLATILITY, effect=NOTE)
MISSING = RiskFinding(reason=RiskReason.RISK_REASON_DEGRADED_INPUTS, effect=HOLD)
STILL_ON = RiskFinding(reason=RiskReason.RISK_REASON_CONSERVATIVE_MODE, effect=HOLD)


def alarmed(step: int = 100) -> TamiyoRunState:
    state = first_state()
    change = advance(state, [SPIKE], step, CONFIG)
    assert change is not None
    assert change.entered
    return state


def test_an_alarm_enters_at_once_and_a_note_or_a_hold_does_not() -> None:
    state = first_state()
    assert advance(state, [NOISE, MISSING], 10, CONFIG) is None
    assert not state.conservative
    assert alarmed().conservative_reason == RiskReason.RISK_REASON_LOSS_SPIKE


def test_the_mode_is_never_left_in_the_pass_that_entered_it() -> None:
    state = alarmed()
    assert advance(state, [], 110, CONFIG) is None
    assert state.conservative


def test_it_is_left_after_the_dwell_and_enough_clean_packets_and_says_how_long_it_lasted() -> None:
    state = alarmed(100)
    changes = [advance(state, [STILL_ON, NOISE], step, CONFIG) for step in (110, 120, 130, 140, 150)]
    assert changes[:4] == [None] * 4
    assert changes[4] is not None
    assert not changes[4].entered
    assert (changes[4].steps, changes[4].reason) == (50, RiskReason.RISK_REASON_LOSS_SPIKE)
    assert not state.conservative
    assert not state.conservative_reason


def test_a_hold_starts_the_count_of_clean_packets_anew() -> None:
    state = alarmed(100)
    for step, findings in ((140, []), (150, []), (160, [MISSING]), (170, []), (180, [])):
        assert advance(state, findings, step, CONFIG) is None
    assert advance(state, [], 190, CONFIG) is not None


def test_a_second_alarm_starts_the_dwell_anew_without_a_second_event() -> None:
    state = alarmed(100)
    assert advance(state, [SPIKE], 140, CONFIG) is None
    for step in (150, 160, 170, 180):
        assert advance(state, [], step, CONFIG) is None
    assert advance(state, [], 190, CONFIG) is not None


@given(st.lists(st.sampled_from([(), (SPIKE,), (MISSING,), (NOISE,), (STILL_ON,)]), max_size=60))
def test_entries_and_exits_alternate_and_no_stay_is_shorter_than_the_dwell(
    packets: list[tuple[RiskFinding, ...]],
) -> None:
    state, entered_at = first_state(), None
    for place, findings in enumerate(packets):
        step = 10 * place
        change = advance(state, findings, step, CONFIG)
        if change is not None and change.entered:
            assert entered_at is None
            entered_at = step
        elif change is not None:
            assert entered_at is not None
            assert step - entered_at >= CONFIG.conservative_dwell_steps
            clean = packets[place - CONFIG.conservative_clean_packets + 1 : place + 1]
            assert all(SPIKE not in found and MISSING not in found for found in clean)
            entered_at = None
        assert state.conservative == (entered_at is not None)
