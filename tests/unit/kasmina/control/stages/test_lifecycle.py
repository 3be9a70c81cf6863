"""The lifecycle's table, and that nothing leaves it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import LifecycleConflict
from esper.kasmina.control.stages.lifecycle import ALIVE, CULLABLE, NEXT, move, require_stage, stage_name
from esper.leyline import GateVerdict, SeedGate, SeedRecord, SeedStage, SeedState

STAGES = [stage for stage in SeedStage.values() if stage != SeedStage.SEED_STAGE_UNSPECIFIED]


def record(stage: int) -> SeedRecord:
    return SeedRecord(state=SeedState(seed_id="s1", stage=stage))  # type: ignore[arg-type]


@pytest.mark.parametrize("from_stage", STAGES)
@pytest.mark.parametrize("to_stage", STAGES)
def test_a_seed_moves_along_the_table_and_nowhere_else(from_stage: SeedStage, to_stage: SeedStage) -> None:
    seed = record(from_stage)
    seed.state.verdict, seed.state.gate = GateVerdict.GATE_VERDICT_PASS, SeedGate.SEED_GATE_G1_GRADIENT_HEALTH
    if to_stage in NEXT[from_stage]:
        moved = move(seed, to_stage, step=7, command_id="c", reason="r")
        assert (moved.from_stage, moved.to_stage, seed.state.stage) == (from_stage, to_stage, to_stage)
        assert (seed.state.stage_step, seed.state.verdict, seed.state.gate) == (7, 0, 0)
    else:
        with pytest.raises(LifecycleConflict, match=stage_name(to_stage)):
            move(seed, to_stage, step=7, command_id="c", reason="r")
        assert seed.state.stage == from_stage


def test_every_stage_has_a_row_and_only_the_end_of_a_run_is_final() -> None:
    assert set(NEXT) == set(STAGES)
    assert [stage for stage in STAGES if not NEXT[stage]] == [SeedStage.SEED_STAGE_TERMINATED]


def test_a_life_goes_forward_skips_nothing_but_incubation_and_begins_anew_only_after_a_reset() -> None:
    words = "DORMANT GERMINATED TRAINING BLENDING SHADOWING PROBATIONARY FOSSILIZED"
    life = [SeedStage.Value(f"SEED_STAGE_{word}") for word in words.split()]
    way_out = [SeedStage.Value(f"SEED_STAGE_{word}") for word in ["CULLED", "EMBARGOED", "RESETTING", "DORMANT"]]
    steps = {*itertools.pairwise(life), (life[1], life[3]), *itertools.pairwise(way_out)}
    ends = {(stage, out) for stage in STAGES for out in (SeedStage.SEED_STAGE_CULLED, SeedStage.SEED_STAGE_TERMINATED)}
    assert {(before, after) for before in STAGES for after in NEXT[before]} - ends == steps


def test_every_living_seed_can_be_culled_or_is_on_its_way_out() -> None:
    assert {SeedStage.SEED_STAGE_CULLED} == ALIVE - CULLABLE
    assert all(SeedStage.SEED_STAGE_CULLED in NEXT[stage] for stage in CULLABLE)


@given(st.lists(st.sampled_from(STAGES), max_size=30))
def test_whatever_is_tried_a_life_follows_the_table(wishes: list[SeedStage]) -> None:
    seed, lived = record(SeedStage.SEED_STAGE_DORMANT), [SeedStage.SEED_STAGE_DORMANT]
    for wish in wishes:
        try:
            move(seed, wish, step=1, command_id="c", reason="r")
        except LifecycleConflict:
            continue
        lived.append(wish)
    assert all(after in NEXT[before] for before, after in itertools.pairwise(lived))


def test_an_action_in_the_wrong_stage_is_told_which_stages_it_needs() -> None:
    with pytest.raises(LifecycleConflict, match=r"s1 is DORMANT; FOSSILIZE needs PROBATIONARY"):
        require_stage(record(SeedStage.SEED_STAGE_DORMANT), {SeedStage.SEED_STAGE_PROBATIONARY}, "FOSSILIZE")
