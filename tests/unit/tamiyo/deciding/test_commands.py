from __future__ import annotations

import pytest

from esper.core.messages.validation import violations
from esper.leyline import (
    BlendSchedule,
    DecisionReason,
    IncubationMode,
    IssuedCommand,
    OpenCommand,
    SeedStage,
    TamiyoRunState,
)
from esper.tamiyo.context import LIVE_STAGES, command_number
from esper.tamiyo.deciding.commands import issue, settle
from esper.tamiyo.growing.blends import blend_for
from esper.tamiyo.policy import CULL, FOSSILIZE, GERMINATE, Order
from tests.unit.tamiyo.builders import (
    ALWAYS,
    CATALOG,
    RUN,
    Simulation,
    context,
    first_state,
    life,
    packet,
    seed_state,
    spec,
)

GROW = Order(
    operation=GERMINATE,
    reason=DecisionReason.DECISION_REASON_FORCED,
    blueprint=CATALOG.get("span.linear"),
    slot_id="span:fc1-fc2",
)
METADATA = next(v for v in Simulation(run_spec=spec(ALWAYS)).run() if v.issues).metadata


def with_open(operation: int, deadline_step: int = 600) -> TamiyoRunState:
    state = first_state()
    state.open_commands.append(
        OpenCommand(command_id="c1", seed_id="s1", operation=operation, deadline_step=deadline_step)
    )
    return state


def test_ids_count_commands_and_seeds_of_the_run() -> None:
    state, run = first_state(), context()
    first = issue(GROW, METADATA, state, packet(500), run).command
    second = issue(GROW, METADATA, state, packet(510), run).command
    assert (first.command_id, second.command_id) == (f"{RUN}-g1-c1", f"{RUN}-g1-c2")
    assert (first.seed.seed_id, second.seed.seed_id) == ("s1", "s2")
    assert first.seed.initialization_seed != second.seed.initialization_seed
    assert [command.command_id for command in state.open_commands] == [first.command_id, second.command_id]


def test_a_name_that_an_operator_took_is_left_out() -> None:
    taken = [seed_state("s1", SeedStage.SEED_STAGE_DORMANT), seed_state("s2", SeedStage.SEED_STAGE_FOSSILIZED)]
    assert issue(GROW, METADATA, first_state(), packet(500, seeds=taken), context()).command.seed.seed_id == "s3"


def test_a_germination_says_everything_that_kasmina_and_the_executor_need() -> None:
    command = issue(GROW, METADATA, first_state(), packet(500), context()).command
    assert violations(command) == []
    assert {value.name: value.value for value in command.seed.parameters} == {"width": 8.0}
    assert command.deadline_steps == context().deadline_steps


def test_initial_weights_depend_on_the_run_seed_and_the_seed_number_alone() -> None:
    assert context(spec(seed=1)).initialization_seed(1) == context(spec(seed=1, generation=7)).initialization_seed(1)
    assert context(spec(seed=1)).initialization_seed(1) != context(spec(seed=2)).initialization_seed(1)
    assert 0 <= context().initialization_seed(1) < 2**63


def test_a_verdict_needs_a_seed_and_nothing_more() -> None:
    order = Order(operation=CULL, reason=DecisionReason.DECISION_REASON_GATE_FAILED, seed=seed_state("s7"))
    command = issue(order, METADATA, first_state(), packet(500), context()).command
    assert violations(command) == []
    assert (command.seed.seed_id, command.seed.slot_id) == ("s7", "")


def test_a_replayed_command_keeps_its_old_id_and_is_not_signed_again() -> None:
    old = IssuedCommand(command_id=f"{RUN}-g1-c1", decision_step=500)
    run = context(spec(generation=2, replay=[old]))
    given = packet(500, generation=2)
    state = first_state()
    first, second = (issue(GROW, METADATA, state, given, run) for _ in range(2))
    assert (first.is_replayed, first.command.command_id) == (True, old.command_id)
    assert (second.is_replayed, second.command.command_id) == (False, f"{RUN}-g2-c2")


def test_a_command_of_another_step_or_number_is_not_taken_for_a_replay() -> None:
    old = IssuedCommand(command_id=f"{RUN}-g1-c2", decision_step=500)
    run = context(spec(generation=2, replay=[old]))
    assert not issue(GROW, METADATA, first_state(), packet(500, generation=2), run).is_replayed
    late = first_state()
    late.commands_issued = 1
    assert not issue(GROW, METADATA, late, packet(510, generation=2), run).is_replayed


@pytest.mark.parametrize(
    ("text", "number"), [("run-g1-c12", 12), ("a-g1-c1-g2-c3", 3), ("operator-1", None), ("c4", None)]
)
def test_only_our_own_ids_have_a_number(text: str, number: int | None) -> None:
    assert command_number(text) == number


def test_a_germination_is_settled_when_its_seed_appears() -> None:
    state = with_open(GERMINATE)
    assert settle(state, packet(510), context()) == ()
    assert len(state.open_commands) == 1
    assert settle(state, packet(520, seeds=[seed_state("s1", SeedStage.SEED_STAGE_GERMINATED)]), context()) == ()
    assert not state.open_commands


@pytest.mark.parametrize("operation", [FOSSILIZE, CULL])
def test_a_verdict_is_settled_when_its_seed_has_left_its_life(operation: int) -> None:
    for stage in set(SeedStage.values()) - {SeedStage.SEED_STAGE_UNSPECIFIED}:
        state = with_open(operation)
        settle(state, packet(510, seeds=[seed_state("s1", stage)]), context())
        assert bool(state.open_commands) == (stage in LIVE_STAGES), SeedStage.Name(stage)


def test_a_command_without_effect_is_given_up_after_its_deadline() -> None:
    state = with_open(GERMINATE, deadline_step=600)
    assert settle(state, packet(600), context()) == ()
    assert settle(state, packet(610), context()) == ("c1",)
    assert state.retry_step == 610 + context().trigger.window_steps
    assert not state.open_commands


def test_silent_seeds_start_at_full_alpha_and_loud_ones_rise_from_zero() -> None:
    silent = blend_for(CATALOG.get("span.linear"), context())
    loud = blend_for(CATALOG.get("control.random_frozen"), context())
    assert (silent.alpha_start, silent.schedule) == (1.0, BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD)
    assert (loud.alpha_start, loud.schedule) == (0.0, BlendSchedule.BLEND_SCHEDULE_LINEAR)
    incubated = context(spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW, incubation_steps=100)))
    assert blend_for(CATALOG.get("span.linear"), incubated).alpha_start == 0.0
    for blend in (silent, loud):
        assert violations(blend) == []


def test_a_blend_takes_a_quarter_of_the_window_and_never_longer_than_the_limit() -> None:
    def steps(window_steps: int) -> int:
        return blend_for(CATALOG.get("span.linear"), context(spec(life=life(window_steps=window_steps)))).schedule_steps

    assert [steps(window) for window in (2, 100, 210, 4000)] == [1, 25, 50, 50]


def test_a_seed_that_incubates_learns_from_the_runs_teacher_as_long_as_there_is_one() -> None:
    incubating = context(spec(life=life(incubation=IncubationMode.INCUBATION_MODE_SHADOW, incubation_steps=100)))
    taught, untaught = packet(500), packet(500)
    taught.growth.teacher_digest = "a" * 64
    cases = [(taught, incubating, True), (untaught, incubating, False), (taught, context(), False)]
    for given, run, expected in cases:
        command = issue(GROW, METADATA, first_state(), given, run).command
        assert command.seed.include_teacher == expected
        assert violations(command) == []
