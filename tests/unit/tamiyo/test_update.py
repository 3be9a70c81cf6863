from __future__ import annotations

import hashlib

import pytest

from esper.leyline import PolicyUpdate, PolicyUpdateRejection, TamiyoRunState, TriggerSettings
from esper.tamiyo.update import Refusal, version_number, with_update
from tests.unit.tamiyo.builders import ALWAYS, AUTO, CATALOG, first_state


def update(**changes: object) -> PolicyUpdate:
    given: dict[str, object] = {
        "update_id": "u1",
        "policy_id": "heuristic",
        "version": "1.1.0",
        "trigger": TriggerSettings(slope_threshold=0.2),
    }
    return PolicyUpdate(**{**given, **changes})  # type: ignore[arg-type]


def result(change: PolicyUpdate) -> TamiyoRunState | Refusal:
    return with_update(first_state(), change, policy_id="heuristic", catalog=CATALOG)


def test_an_update_changes_the_thresholds_it_names_and_the_version() -> None:
    after = result(update())
    assert isinstance(after, TamiyoRunState)
    assert (after.trigger.trigger, after.trigger.slope_threshold) == (AUTO, 0.2)
    assert after.policy_version == "1.1.0"


def test_the_state_that_was_in_force_is_left_alone() -> None:
    state = first_state()
    with_update(state, update(), policy_id="heuristic", catalog=CATALOG)
    assert state == first_state()


def test_the_trigger_itself_may_be_changed() -> None:
    after = result(update(trigger=TriggerSettings(trigger=ALWAYS)))
    assert isinstance(after, TamiyoRunState)
    assert after.trigger.trigger == ALWAYS


WEIGHTS = b"weights"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy_id": "gnn"}, "UNKNOWN_POLICY"),
        ({"version": "1.0.0"}, "STALE_VERSION"),
        ({"version": "0.9"}, "STALE_VERSION"),
        ({"version": "newest"}, "INVALID_SETTINGS"),
        ({"trigger": TriggerSettings(saturation_floor=-1.0)}, "INVALID_SETTINGS"),
        ({"trigger": TriggerSettings(blueprint_ids=["span.round"])}, "INVALID_SETTINGS"),
        ({"weights": WEIGHTS, "weights_digest": "0" * 64}, "DIGEST_MISMATCH"),
        ({"weights": WEIGHTS, "weights_digest": hashlib.sha256(WEIGHTS).hexdigest()}, "UNSUPPORTED_WEIGHTS"),
    ],
)
def test_each_refusal_has_its_reason_and_says_what_is_wrong(changes: dict[str, object], reason: str) -> None:
    refusal = result(update(**changes))
    assert isinstance(refusal, Refusal)
    assert PolicyUpdateRejection.Name(refusal.reason) == f"POLICY_UPDATE_REJECTION_{reason}"
    assert refusal.detail


def test_versions_are_compared_as_numbers() -> None:
    assert (version_number("1.10.0") or ()) > (version_number("1.9.9") or ())
    assert version_number("1.x") is None
    assert version_number("") is None
