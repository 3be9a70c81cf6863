from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import DependencyViolationError
from esper.leyline import (
    Budget,
    DecisionReason,
    Embargo,
    HostManifest,
    SeedStage,
    SlotEvidence,
    SlotKind,
    SlotSpec,
    TamiyoRunSpec,
    TriggerSettings,
)
from esper.tamiyo.growing.selection import PREFERRED, Selection, eligible_slots, evidence_of, select, slot_scores
from tests.unit.tamiyo.builders import (
    ALWAYS,
    AUTO,
    CATALOG,
    by_eight,
    context,
    first_state,
    manifest,
    packet,
    seed_state,
    slot_signal,
    span_slot,
    spec,
)
from tests.unit.urza.own.making import described

FIRST, SECOND = span_slot(0).slot_id, span_slot(1).slot_id


def chosen(selection: Selection) -> tuple[str, str]:
    assert selection.chosen is not None
    assert selection.chosen.blueprint is not None
    return selection.chosen.slot.slot_id, selection.chosen.blueprint.blueprint_id


def selected(run_spec: TamiyoRunSpec | None = None, **changes: object) -> Selection:
    state = first_state()
    state.next_slot = int(changes.pop("next_slot", 0))  # type: ignore[call-overload]
    state.evidence.extend(changes.pop("evidence", ()))  # type: ignore[arg-type]
    return select(state, packet(500, **changes), context(run_spec), CATALOG)


def residual_slot(order: int) -> SlotSpec:
    slot = span_slot(0)
    slot.slot_id, slot.kind = f"residual:fc{order}", SlotKind.SLOT_KIND_RESIDUAL_LINEAR
    slot.out_features, slot.is_foldable, slot.order = slot.in_features, False, order
    return slot


def host_with(*slots: SlotSpec) -> HostManifest:
    host = manifest()
    del host.slots[:]
    host.slots.extend(slots)
    return host


def test_slots_are_taken_in_forward_order_one_after_the_other() -> None:
    assert chosen(selected()) == (FIRST, "span.linear")
    assert chosen(selected(next_slot=1)) == (SECOND, "span.linear")


def test_an_embargoed_slot_is_skipped_until_its_last_step_is_over() -> None:
    growth = packet(500).growth
    growth.embargoes.append(Embargo(slot_id=FIRST, until_step=501))
    closed = selected(growth=growth)
    assert chosen(closed)[0] == SECOND
    assert closed.candidates[0].excluded == "closed until step 501"
    growth.embargoes[0].until_step = 500
    assert chosen(selected(growth=growth))[0] == FIRST


def test_a_slot_stays_closed_until_what_was_culled_there_is_cleared() -> None:
    for stage in (SeedStage.SEED_STAGE_EMBARGOED, SeedStage.SEED_STAGE_RESETTING):
        closing = selected(by_eight(), seeds=[seed_state("s1", stage)])
        assert chosen(closing)[0] == SECOND
        assert closing.candidates[0].excluded == "closed until seed s1 is cleared from it"
    assert chosen(selected(by_eight(), seeds=[seed_state("s1", SeedStage.SEED_STAGE_DORMANT)]))[0] == FIRST


def test_a_slot_whose_seed_would_break_the_budget_is_skipped() -> None:
    # Eight units beside fc1-fc2 cost 568 parameters, beside fc2-fc3 only 136.
    limited = by_eight(budget=Budget(max_parameters=502 + 200))
    assert chosen(selected(limited))[0] == SECOND


def test_with_nothing_affordable_nothing_is_chosen_and_the_budget_is_blamed() -> None:
    selection = selected(spec(budget=Budget(max_parameters=510)))
    assert selection.chosen is None
    reason, words = selection.lack
    assert reason == DecisionReason.DECISION_REASON_BUDGET
    assert "max_parameters is" in words
    assert selection.as_message() is None


def test_the_price_follows_the_width_that_the_host_has_now() -> None:
    grown = slot_signal(1)
    grown.in_features += 8
    before = selected(by_eight(), next_slot=1)
    after = selected(by_eight(), next_slot=1, slots=[slot_signal(0), grown])
    assert after.chosen is not None
    assert before.chosen is not None
    assert after.chosen.parameters == before.chosen.parameters + 8 * 8


def asked(selection: Selection) -> dict[str, float]:
    assert selection.chosen is not None
    return dict(selection.chosen.values)


@pytest.mark.parametrize(("units", "added"), [(1, 3), (6, 18), (16, 48), (17, 48), (64, 48), (4096, 48)])
def test_a_layer_of_a_run_that_says_nothing_grows_to_four_times_its_width_by_48_units_at_most(
    units: int, added: int
) -> None:
    layer = slot_signal(0)
    layer.width = units
    assert asked(selected(slots=[layer, slot_signal(1)])) == {"width": added}


def test_the_usual_step_is_cut_to_the_budget_and_said_factors_are_not_cut_to_48_units() -> None:
    limited = spec(budget=Budget(max_parameters=502 + 5 * (64 + 1 + 6)))
    assert asked(selected(limited)) == {"width": 5}
    layer = slot_signal(0)
    layer.width = 64
    said = spec(trigger=TriggerSettings(trigger=AUTO, span_factor=4.0))
    assert asked(selected(said, slots=[layer, slot_signal(1)])) == {"width": 192}


def test_one_widening_is_usual_whatever_became_of_it_and_what_widens_nothing_does_not_count() -> None:
    for stage in (SeedStage.SEED_STAGE_FOSSILIZED, SeedStage.SEED_STAGE_DORMANT):
        spent = selected(seeds=[seed_state("s1", stage)])
        reason, words = spent.lack
        assert (spent.chosen, reason) == (None, DecisionReason.DECISION_REASON_WIDENED)
        assert "the one usual widening was s1; a span_width asks for more" in words
        assert chosen(selected(by_eight(), seeds=[seed_state("s1", stage)]))[0] == FIRST
    other = seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED)
    other.slot_id = "stack:blocks"
    assert chosen(selected(seeds=[other]))[0] == FIRST
    residual = spec(manifest=host_with(residual_slot(0)))
    other.slot_id = residual_slot(0).slot_id
    assert chosen(selected(residual, seeds=[other]))[1] == "residual.linear"


def test_a_factor_widens_by_a_share_of_the_width_that_the_layer_has_now() -> None:
    doubling = spec(trigger=TriggerSettings(trigger=AUTO, span_factor=2.0))
    wide = slot_signal(0)
    wide.width += 6
    before, after = selected(doubling), selected(doubling, slots=[wide, slot_signal(1)])
    assert (asked(before), asked(after)) == ({"width": 6.0}, {"width": 12.0})
    assert before.chosen is not None
    assert after.chosen is not None
    assert after.chosen.parameters == 2 * before.chosen.parameters == 12 * (64 + 1 + 6)


def test_a_factor_takes_what_the_budget_leaves_and_a_number_of_units_is_taken_whole_or_not() -> None:
    for units in (1, 3, 5, 6):
        limit = Budget(max_parameters=502 + units * (64 + 1 + 6) + 70)
        assert asked(selected(spec(budget=limit, trigger=TriggerSettings(trigger=AUTO, span_factor=2.0)))) == {
            "width": units
        }
    fixed = TriggerSettings(trigger=AUTO, span_units=3)
    limit = Budget(max_parameters=502 + 2 * (64 + 1 + 6))
    assert asked(selected(spec(trigger=fixed))) == {"width": 3.0}
    assert chosen(selected(spec(trigger=fixed, budget=limit)))[0] == SECOND


def test_where_not_even_one_unit_is_affordable_the_budget_is_blamed_with_its_price() -> None:
    limited = spec(budget=Budget(max_parameters=510), trigger=TriggerSettings(trigger=AUTO, span_factor=2.0))
    reason, words = selected(limited).lack
    assert reason == DecisionReason.DECISION_REASON_BUDGET
    assert f"{502 + 64 + 1 + 6} would be needed" in words


def test_a_factor_means_nothing_to_what_widens_no_layer() -> None:
    settings = TriggerSettings(trigger=AUTO, span_factor=2.0)
    residual = selected(spec(manifest=host_with(residual_slot(0)), trigger=settings))
    assert chosen(residual)[1] == "residual.linear"
    assert asked(residual) == {}


def test_foldable_spans_come_alone_and_other_slots_only_where_there_is_none() -> None:
    mixed = eligible_slots([residual_slot(0), span_slot(1)])
    assert [slot.slot_id for slot in mixed] == [SECOND]
    assert [slot.order for slot in eligible_slots([residual_slot(3), residual_slot(1)])] == [1, 3]
    residual = selected(spec(manifest=host_with(residual_slot(0))))
    assert chosen(residual)[1] == "residual.linear"


def test_every_kind_of_slot_has_a_preferred_blueprint_that_fits_it() -> None:
    others = {SlotKind.SLOT_KIND_STACK, SlotKind.SLOT_KIND_SPAN_HEADS}  # grown by schedule, and only when named
    kinds = set(SlotKind.values()) - {SlotKind.SLOT_KIND_UNSPECIFIED, *others}
    assert set(PREFERRED) == kinds
    for kind, blueprint_id in PREFERRED.items():
        assert kind in CATALOG.get(blueprint_id).slot_kinds


def test_named_blueprints_are_tried_in_their_order() -> None:
    trigger = TriggerSettings(trigger=ALWAYS, blueprint_ids=["residual.linear", "control.random_frozen", "span.linear"])
    assert chosen(selected(spec(trigger=trigger)))[1] == "control.random_frozen"


@pytest.mark.parametrize("names", [["residual.linear"], ["residual.linear", "span.linear"]])
def test_a_blueprint_that_is_named_is_used_though_other_slots_fold(names: list[str]) -> None:
    host = host_with(residual_slot(0), span_slot(1))
    trigger = TriggerSettings(trigger=ALWAYS, blueprint_ids=names)
    grown = [chosen(selected(spec(manifest=host, trigger=trigger), next_slot=turn))[1] for turn in range(2)]
    assert set(grown) == set(names)


def test_a_named_blueprint_takes_foldable_slots_where_it_fits_some() -> None:
    host = host_with(residual_slot(0), span_slot(1))
    trigger = TriggerSettings(trigger=ALWAYS, blueprint_ids=["control.random_frozen"])
    selection = selected(spec(manifest=host, trigger=trigger))
    assert [item.slot.slot_id for item in selection.candidates] == [SECOND]


def test_a_name_that_fits_no_slot_leaves_every_slot_out() -> None:
    selection = selected(spec(trigger=TriggerSettings(trigger=ALWAYS, blueprint_ids=["span.conv"])))
    assert selection.chosen is None
    assert selection.lack[0] == DecisionReason.DECISION_REASON_NO_SLOT
    assert "no blueprint fits" in selection.lack[1]
    assert {item.excluded for item in selection.candidates} == {"no blueprint fits"}


def test_a_name_that_no_blueprint_has_is_an_error() -> None:
    with pytest.raises(DependencyViolationError, match=r"span\.round"):
        selected(spec(trigger=TriggerSettings(trigger=ALWAYS, blueprint_ids=["span.round"])))


def test_a_blueprint_of_the_users_own_is_chosen_at_the_price_that_its_sheet_says(tmp_path: Path) -> None:
    own = described(tmp_path).completed(1)[0]
    slot = residual_slot(3)
    trigger = TriggerSettings(trigger=ALWAYS, blueprint_ids=["lab.gated"])
    run = spec(trigger=trigger, manifest=host_with(slot), own_blueprints=[own])
    selection = select(first_state(), packet(500, slots=()), context(run), CATALOG.with_own(run.own_blueprints))
    assert chosen(selection) == (slot.slot_id, "lab.gated")
    assert selection.chosen is not None
    assert selection.chosen.parameters == (3 * 8 + 2) * slot.out_features
    with pytest.raises(DependencyViolationError, match=r"lab\.gated"):
        select(first_state(), packet(500), context(run), CATALOG)


def test_a_control_is_never_chosen_unless_it_is_named() -> None:
    assert "control.random_frozen" not in PREFERRED.values()
    assert not any(CATALOG.get(blueprint_id).is_control for blueprint_id in PREFERRED.values())


def test_judged_slots_are_weighed_by_gain_per_mac_and_untried_ones_count_as_the_best() -> None:
    good = SlotEvidence(slot_id=FIRST, judged=1, gain_sum=0.04, forward_macs_sum=400)
    poor = SlotEvidence(slot_id=SECOND, judged=1, gain_sum=-0.01, forward_macs_sum=100)
    slots = [span_slot(0), span_slot(1)]
    assert slot_scores(slots, [good, poor]) == {FIRST: 1.0, SECOND: 0.0}
    assert slot_scores(slots, [poor]) == {FIRST: 1.0, SECOND: 0.0}
    assert chosen(selected(next_slot=1, evidence=[good, poor]))[0] == FIRST
    assert chosen(selected(next_slot=1, evidence=[good]))[0] == SECOND


def test_evidence_counts_the_dead_and_leaves_out_the_living() -> None:
    seeds = [
        seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED, gain=0.03, forward_macs=100),
        seed_state("s2", SeedStage.SEED_STAGE_EMBARGOED, gain=-0.01, forward_macs=50),
        seed_state("s3", SeedStage.SEED_STAGE_PROBATIONARY, gain=0.5),
        seed_state("s4", SeedStage.SEED_STAGE_CULLED),
    ]
    (found,) = evidence_of(packet(500, seeds=seeds))
    assert (found.judged, found.forward_macs_sum) == (2, 150)
    assert found.gain_sum == pytest.approx(0.02)


@given(st.integers(0, 7), st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_the_choice_is_always_the_best_open_candidate_and_all_are_listed(start: int, gains: list[float]) -> None:
    evidence = [
        SlotEvidence(slot_id=slot_id, judged=1, gain_sum=gain, forward_macs_sum=100)
        for slot_id, gain in zip((FIRST, SECOND), gains, strict=True)
    ]
    selection = selected(next_slot=start, evidence=evidence)
    assert {item.slot.slot_id for item in selection.candidates} == {FIRST, SECOND}
    assert selection.chosen is not None
    assert selection.chosen.score == max(item.score for item in selection.candidates)
    message = selection.as_message()
    assert message is not None
    assert len(message.candidates) == 2
