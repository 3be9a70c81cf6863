from __future__ import annotations

from esper.leyline import DecisionReason
from esper.tamiyo.learned.observation import CANDIDATE_FEATURES, RUN_FEATURES, candidate_features, run_features
from tests.unit.tamiyo.builders import ALWAYS, CATALOG, judged, packet, spec
from tests.unit.tamiyo.learned.weighing import learned, view

LEARNED = DecisionReason.DECISION_REASON_LEARNED


def test_it_grows_what_it_predicts_to_be_worth_more_than_nothing() -> None:
    proposal = learned(0.1, widening=1.0).propose(view(packet(500)))
    (order,) = proposal.orders
    assert order.reason == LEARNED
    assert dict(order.values) == {"width": 18.0}, "the widest of three widenings is predicted to be worth most"
    assert proposal.value is not None
    assert proposal.value > 0.1


def test_it_waits_where_nothing_is_worth_its_cost_and_says_what_it_predicts() -> None:
    proposal = learned(-0.1).propose(view(packet(500)))
    assert (proposal.orders, proposal.reasons, proposal.value) == ((), (LEARNED,), 0.0)
    assert "the best of 6 candidates is predicted to be worth -0.1" in proposal.detail


def test_the_heuristics_guesses_are_not_its_own() -> None:
    """A loss that falls, or a host that fits its data: weights may know better, and the heuristic waits."""
    assert learned(0.1).propose(view(packet(500, loss=0.01, accuracy=1.0))).orders


def test_it_never_decides_against_evidence_or_what_is_possible() -> None:
    kept = learned(-1.0).propose(view(packet(900, seeds=[judged(1)])))
    assert [order.action for order in kept.orders] == ["fossilize"]
    late = learned(1.0).propose(view(packet(1400)))
    assert late.reasons == (DecisionReason.DECISION_REASON_TOO_LATE,)


def test_a_forced_run_grows_when_it_was_told_to_and_what_was_learned() -> None:
    proposal = learned(-1.0, widening=1.0).propose(view(packet(500), spec(ALWAYS)))
    assert [(order.reason, dict(order.values)) for order in proposal.orders] == [
        (DecisionReason.DECISION_REASON_FORCED, {"width": 18.0})
    ]


def test_what_is_absent_is_none_and_never_zero() -> None:
    given = packet(500)
    given.metrics.ClearField("gradient_norm_variance")
    seen = view(given)
    run = dict(zip(RUN_FEATURES, run_features(seen), strict=True))
    assert run["gradient_variation"] is None
    assert run["progress"] == 500 / 2100
    candidate = seen.survey().candidates[0]
    assert CATALOG.get("span.linear") == candidate.blueprint
    taken = dict(zip(CANDIDATE_FEATURES, candidate_features([candidate], seen)[0], strict=True))
    assert taken["tried_here"] == 0.0
    assert all(value is not None for value in taken.values())
