from __future__ import annotations

import pytest

from esper.leyline import FieldReport, FieldReportOutcome, ObservedFeature
from esper.tamiyo.learned.reward import worth_of
from tests.unit.tamiyo.learned.test_adoption import report


def grown(effect: float) -> FieldReport:
    """Decided at a fifth of the run, judged at half of it; a kept seed adds half of the host's work."""
    made = report("r1", effect)
    made.opened_step, made.closed_step = 200, 500
    made.opened_forward_macs, made.delta.forward_macs_delta = 100, 50 if effect > 0 else 0
    made.observation.features.append(ObservedFeature(name="progress", value=0.2))
    return made


def test_a_kept_seed_is_worth_its_gain_less_its_judgement_and_its_own_work_to_the_end() -> None:
    worth = worth_of(grown(0.3))
    assert worth is not None
    assert (worth.judgement, worth.running) == (0.5, pytest.approx(0.25))
    assert worth.reward(0.1) == pytest.approx(0.3 - 0.1 * 0.75)


def test_a_refused_seed_is_worth_less_than_nothing() -> None:
    worth = worth_of(grown(0.0))
    assert worth is not None
    assert (worth.kept, worth.running) == (False, 0.0)
    assert worth.reward(0.1) == pytest.approx(-0.05)


def test_what_was_aborted_or_not_measured_says_nothing() -> None:
    aborted = grown(0.3)
    aborted.outcome = FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED
    unmeasured = grown(0.3)
    unmeasured.delta.ClearField("judgement_macs")
    unscored = grown(0.3)
    unscored.delta.ClearField("twin_score")
    assert [worth_of(each) for each in (aborted, unmeasured, unscored)] == [None, None, None]
