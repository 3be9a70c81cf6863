from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import Budget, Embargo, SeedStage, SlotEvidence, SlotSignal, SystemStatePacket, TriggerSettings
from esper.tamiyo.growing.budget import objection
from esper.tamiyo.growing.selection import select
from esper.tamiyo.growing.survey import Offers, survey
from esper.tamiyo.learned.linear import as_array
from esper.tamiyo.learned.observation import candidate_features, run_features
from esper.tamiyo.learned.table import table_of
from esper.tamiyo.learned.weights import FEATURE_NAMES
from esper.urza.catalog import completed
from esper.urza.cost import cost
from tests.unit.tamiyo.builders import AUTO, CATALOG, context, first_state, packet, seed_state, slot_signal, span_slot
from tests.unit.tamiyo.builders import spec as run_spec_of
from tests.unit.tamiyo.learned.weighing import learned, view

SLOTS = [span_slot(order).slot_id for order in range(2)]
BUDGETS = (
    Budget(),
    Budget(max_parameters=502 + 900),
    Budget(max_training_macs=3 * 480 * 3 * 64 * 2100),
    Budget(max_training_macs=10**9, max_seeds=1),
)
SPANS: Sequence[dict[str, float]] = ({}, {"span_units": 8}, {"span_factor": 4.0})


@st.composite
def packets(draw: st.DrawFn) -> list[SystemStatePacket]:
    """A few of one run: its layers grow, slots are closed and opened, seeds come and go, losses change."""
    found, width = [], 6
    for step in range(300, 700, 80):
        width += draw(st.sampled_from((0, 0, 8)))
        signals = [slot_signal(order) for order in range(2)]
        signals[0].width = signals[1].in_features = width
        signals[1].gradient_norm = draw(st.sampled_from((0.5, 2.0)))
        made = packet(step, loss=draw(st.sampled_from((0.5, 0.4))), slots=_told(draw, signals))
        made.metrics.parameters += 100 * (width - 6) + draw(st.sampled_from((0, 0, 50)))
        made.metrics.training_macs *= draw(st.sampled_from((1, 1, 3)))
        made.growth.germinated = draw(st.integers(0, 1))
        if draw(st.booleans()):
            made.growth.embargoes.append(Embargo(slot_id=SLOTS[0], until_step=step + draw(st.sampled_from((-1, 50)))))
        stage = draw(st.sampled_from((None, SeedStage.SEED_STAGE_RESETTING, SeedStage.SEED_STAGE_FOSSILIZED)))
        if stage is not None:
            made.seeds.append(seed_state(stage=stage, slot_id=SLOTS[1], gain=0.02, gain_standard_error=0.01))
        found.append(made)
    return found


def _told(draw: st.DrawFn, signals: list[SlotSignal]) -> list[SlotSignal]:
    """A packet may say nothing of a slot."""
    return signals if draw(st.sampled_from((True, True, False))) else signals[1:]


@settings(max_examples=40)
@given(packets(), st.sampled_from(BUDGETS), st.sampled_from(SPANS), st.integers(0, 1))
def test_what_is_remembered_of_a_run_is_what_each_packet_would_say_by_itself(
    given_packets: list[SystemStatePacket], budget: Budget, span: dict[str, float], next_slot: int
) -> None:
    trigger = TriggerSettings(trigger=AUTO, **span)  # type: ignore[arg-type]
    made = run_spec_of(budget=budget, trigger=trigger)
    run, state = context(made), first_state(made)
    offers, state.next_slot = Offers(run, CATALOG), next_slot
    for place, seen in enumerate(given_packets):
        if place == 2:
            state.evidence.append(SlotEvidence(slot_id=SLOTS[0], judged=1, gain_sum=0.0, forward_macs_sum=100.0))
        remembered, anew = offers.survey(state, seen), survey(state, seen, run, CATALOG)
        assert remembered.candidates == anew.candidates
        chosen, plainly = offers.select(state, seen), select(state, seen, run, CATALOG)
        assert (chosen.candidates, chosen.chosen) == (plainly.candidates, plainly.chosen)
        _priced_one_by_one(remembered.candidates, seen, run)
        scene, table = view(seen, made), table_of(remembered)
        plain = [[*run_features(scene), *own] for own in candidate_features(table.candidates, scene)]
        rows = table.rows(scene)
        assert rows.tobytes() == as_array(plain, len(FEATURE_NAMES)).tobytes(), "to the last bit"


def _priced_one_by_one(candidates, seen, run) -> None:  # type: ignore[no-untyped-def]
    signals = {item.slot_id: item for item in seen.slots}
    for item in candidates:
        signal, task = signals.get(item.slot.slot_id), run.spec.manifest.task
        price = cost(item.blueprint, item.slot, signal, completed(item.blueprint, item.values), task)
        assert (item.parameters, item.forward_macs) == (price.parameters, price.forward_macs)
        words = objection(seen, run, parameters=price.parameters, forward_macs=price.forward_macs)
        assert (item.excluded or None) == words or item.excluded.startswith("closed")


def test_where_nothing_changed_nothing_is_looked_at_again() -> None:
    offers, state = Offers(context(), CATALOG), first_state()
    first = offers.survey(state, packet(300))
    assert offers.survey(state, packet(310, loss=0.3)) is first
    wider = [slot_signal(0), slot_signal(1)]
    wider[0].width += 8
    assert offers.survey(state, packet(320, slots=wider)) is not first


def test_a_budget_is_held_against_every_packet_where_it_begins_to_bind_and_where_it_ends() -> None:
    limited = context(run_spec_of(budget=Budget(max_training_macs=6 * 480 * 3 * 64 * 2100)))
    offers, state = Offers(limited, CATALOG), first_state()
    dear, cheap = packet(310), packet(320)
    dear.metrics.training_macs *= 3
    found = [offers.survey(state, seen).candidates for seen in (packet(300), dear, cheap)]
    assert found[0] == found[2]
    assert found[1] == survey(state, dear, limited, CATALOG).candidates != found[0]


def test_what_is_remembered_of_numbers_is_forgotten_with_the_size_of_the_host() -> None:
    first, later = packet(300), packet(310)
    later.metrics.parameters += 50
    table = table_of(view(first).survey())
    rows = [table.rows(view(seen)) for seen in (first, later)]
    added = FEATURE_NAMES.index("added")
    assert (rows[0][:, added] > rows[1][:, added]).all()


def test_scores_are_given_to_whoever_looks_and_the_best_one_is_taken() -> None:
    seen = view(packet(500))
    policy = learned(0.1, widening=1.0)
    appraisal = policy.appraise(seen, seen.survey())
    assert appraisal is not None
    scores = [item.score for item in appraisal.candidates]
    assert max(scores) == appraisal.candidates[appraisal.best].score
    assert scores == [float(score) for score in appraisal.prediction.means["reward"]]
    assert np.isfinite(scores).all()
    assert [item.score for item in appraisal.candidates[1:3]] == scores[1:3]
