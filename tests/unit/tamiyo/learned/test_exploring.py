from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import DecisionReason
from esper.tamiyo.deciding.decide import decide
from esper.tamiyo.growing.survey import survey
from esper.tamiyo.learned.exploring import ExploringPolicy, draw
from esper.tamiyo.policy import HeuristicPolicy
from esper.urza.catalog import Catalog
from tests.unit.tamiyo.builders import CATALOG, context, first_state, judged, look_up, packet, spec
from tests.unit.tamiyo.learned.weighing import learned, view

EXPLORED = DecisionReason.DECISION_REASON_EXPLORED


@settings(max_examples=60)
@given(share=st.floats(0.01, 1.0), seed=st.integers(0, 500), step=st.integers(30, 110))
def test_probabilities_add_up_and_the_logarithm_is_that_of_what_was_done(share: float, seed: int, step: int) -> None:
    proposal = ExploringPolicy(HeuristicPolicy(), share).propose(view(packet(10 * step), spec(seed=seed)))
    if not proposal.probabilities:
        return
    assert math.fsum(proposal.probabilities) + proposal.wait_probability == pytest.approx(1.0)
    if proposal.orders:
        assert proposal.selection is not None
        place = proposal.selection.candidates.index(proposal.selection.chosen)  # type: ignore[arg-type]
        assert proposal.log_probability == pytest.approx(math.log(proposal.probabilities[place]))
    else:
        assert proposal.log_probability == pytest.approx(math.log(proposal.wait_probability))


def test_draws_fall_as_often_as_their_probabilities_say() -> None:
    policy, seen, expected = ExploringPolicy(learned(-1.0), 1.0), Counter[str](), 0.0
    for seed in range(400):
        proposal = policy.propose(view(packet(500), spec(seed=seed)))
        seen[proposal.action] += 1
        expected += 1.0 - proposal.wait_probability
    deviation = math.sqrt(expected)
    assert abs(seen["germinate"] - expected) < 4 * deviation


def test_a_packet_that_is_decided_again_is_drawn_alike() -> None:
    first, again = view(packet(500), spec(seed=7)), view(packet(500), spec(seed=7, generation=3))
    assert draw(first) == draw(again)
    assert draw(first) != draw(view(packet(510), spec(seed=7)))


def test_what_the_inner_policy_would_grow_keeps_its_probability() -> None:
    found = [
        ExploringPolicy(learned(1.0, widening=1.0), 0.5).propose(view(packet(500), spec(seed=s))) for s in range(9)
    ]
    for proposal in found:
        assert max(proposal.probabilities) == pytest.approx(0.5 + 0.5 / 21 / 6)


def test_nothing_is_explored_that_is_impossible_or_judged() -> None:
    policy = ExploringPolicy(HeuristicPolicy(), 1.0)
    for seed in range(40):
        assert not policy.propose(view(packet(1400), spec(seed=seed))).orders, "too late"
        verdicts = policy.propose(view(packet(900, seeds=[judged(1)]), spec(seed=seed)))
        assert [order.action for order in verdicts.orders] == ["fossilize"]


def test_a_germination_tells_what_it_was_chosen_from() -> None:
    def surveyed(state, given_packet, run):  # type: ignore[no-untyped-def]
        return survey(state, given_packet, run, Catalog.builtin())

    run = context(spec(seed=3))
    state, policy = first_state(), ExploringPolicy(HeuristicPolicy(), 1.0)
    for step in range(210, 1200, 10):
        verdict = decide(run, state, packet(step), policy=policy, select=look_up, survey=surveyed)
        state = verdict.state
        if verdict.issues:
            break
    seen = verdict.observation
    assert seen is not None
    taken = seen.candidates[seen.chosen]
    command = verdict.issues[0].command
    assert (taken.slot_id, taken.blueprint_id) == (command.seed.slot_id, command.seed.blueprint_id)
    assert math.log(taken.probability) == pytest.approx(command.metadata.policy.log_probability)
    assert math.fsum(each.probability for each in seen.candidates) + seen.wait_probability == pytest.approx(1.0)
    assert command.metadata.reasons[0] == EXPLORED
    assert CATALOG.get(taken.blueprint_id)


def test_a_policy_that_does_not_explore_is_certain() -> None:
    run, state = context(), first_state()
    for step in range(10, 600, 10):
        verdict = decide(run, state, packet(step, loss=0.5), policy=HeuristicPolicy(), select=look_up)
        state = verdict.state
        if verdict.observation is not None:
            break
    seen = verdict.observation
    assert seen is not None
    assert [each.probability for each in seen.candidates] == [1.0, 0.0]
    assert seen.wait_probability == 0.0
