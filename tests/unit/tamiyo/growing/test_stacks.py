"""Growth in depth: doubled at the steps that the run fixed, to its target and within its budget, never too late."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from esper.core.errors import ContractError
from esper.core.messages.validation import violations
from esper.leyline import (
    Budget,
    DecisionReason,
    HostManifest,
    RiskReason,
    SeedStage,
    SlotKind,
    SlotSignal,
    SlotSpec,
    StackJudging,
    SystemStatePacket,
    TamiyoRunSpec,
    TaskType,
    TriggerSettings,
)
from esper.tamiyo.deciding.commands import issue
from esper.tamiyo.deciding.decide import decide
from esper.tamiyo.features import coverage, read
from esper.tamiyo.growing.budget import forecast_training_macs
from esper.tamiyo.policy import HeuristicPolicy, Proposal, View
from esper.tamiyo.signals import observe
from esper.tamiyo.trigger import updated
from tests.unit.tamiyo.builders import (
    ALWAYS,
    AUTO,
    TOTAL_STEPS,
    context,
    first_state,
    life,
    look_up,
    manifest,
    packet,
    seed_state,
    slot_signal,
    spec,
)

SLOT = "stack:blocks"
R = DecisionReason


def stack_slot(depth: int = 2, slot_id: str = SLOT, order: int = 2) -> SlotSpec:
    return SlotSpec(
        slot_id=slot_id,
        kind=SlotKind.SLOT_KIND_STACK,
        read_path="blocks",
        write_path="blocks",
        **dict.fromkeys(("in_features", "out_features", "width", "read_positions", "write_positions"), 8),
        read_kernel=1,
        write_kernel=1,
        is_foldable=False,
        order=order,
        depth=depth,
        block_parameters=100,
        block_forward_macs=80,
    )


def host(*stacks: SlotSpec) -> HostManifest:
    made = manifest()
    made.task = TaskType.TASK_TYPE_LANGUAGE_MODEL
    made.slots.extend(stacks or [stack_slot()])
    return made


def judging(**fields: Any) -> StackJudging:
    settings: dict[str, Any] = {
        "margin": 0.002,
        "error_rate": 0.02,
        "evaluations": 8,
        "max_clipped_share": 0.01,
        "window_fraction": 0.1,
        "window_recoveries": 1.5,
        "recovery_steps": 120,
    }
    return StackJudging(**{**settings, **fields})


def run_spec(
    mode: int = AUTO, *, target: int | None = None, steps: tuple[int, ...] = (350, 840), **changes: Any
) -> Any:
    trigger = TriggerSettings(trigger=mode, stack_steps=steps, target_depth=target)  # type: ignore[arg-type]
    return spec(**{"manifest": host(), "life": life(stack=judging()), "trigger": trigger, **changes})


def at(step: int, depth: int = 2, **changes: Any) -> SystemStatePacket:
    signal = SlotSignal(slot_id=SLOT, width=8, in_features=8, out_features=8, depth=depth)
    return packet(step, **{"slots": [slot_signal(0), slot_signal(1), signal], **changes})


def proposed(given: SystemStatePacket, run: TamiyoRunSpec | None = None) -> Proposal:
    made, state = context(run or run_spec()), first_state(run or run_spec())
    signals = observe(state, given, made)
    look = partial(look_up, state, given, made)
    view = View(context=made, packet=given, state=state, signals=signals, select=look, survey=look)
    return HeuristicPolicy().propose(view)


def stack_seed(stage: int = SeedStage.SEED_STAGE_FOSSILIZED, **fields: Any) -> Any:
    return seed_state(stage=stage, slot_id=SLOT, blueprint_id="stack.double", **fields)


def test_a_stack_waits_for_its_step_and_for_no_plateau() -> None:
    early, due = proposed(at(340, loss=2.0)), proposed(at(350, loss=2.0))
    assert (early.action, early.reasons) == ("wait", (R.DECISION_REASON_SCHEDULED,))
    assert early.detail == "stack 1 of 2 is due at step 350"
    assert (due.action, due.reasons) == ("germinate", (R.DECISION_REASON_SCHEDULED,))
    assert due.detail == "stack 1 of 2 was due from step 350 on"
    assert (due.orders[0].slot_id, due.orders[0].blueprint.blueprint_id) == (SLOT, "stack.double")  # type: ignore[union-attr]


def test_each_stack_has_its_turn_kept_or_not_and_then_none_is_left() -> None:
    for stage in (SeedStage.SEED_STAGE_FOSSILIZED, SeedStage.SEED_STAGE_DORMANT):
        one = [stack_seed(stage)]
        assert proposed(at(830, seeds=one)).detail == "stack 2 of 2 is due at step 840"
        assert proposed(at(840, seeds=one)).action == "germinate"
        two = [*one, stack_seed(stage, seed_id="s2")]
        assert "each of the 2 steps" in proposed(at(900, seeds=two)).detail


def test_one_stack_at_a_time() -> None:
    alive = stack_seed(SeedStage.SEED_STAGE_PROBATIONARY)
    assert proposed(at(900, seeds=[alive])).reasons == (R.DECISION_REASON_SEED_ALIVE,)


def test_none_is_grafted_where_window_and_recovery_no_longer_fit_before_the_decay() -> None:
    needed = 180 + 120 + 40
    last = 1470 - needed
    assert proposed(at(last)).action == "germinate"
    late = proposed(at(last + 10))
    assert late.reasons == (R.DECISION_REASON_TOO_LATE,)
    assert f"a stack needs {needed} steps to its verdict and to pay" in late.detail


def test_a_short_run_counts_the_recovery_that_its_window_allows() -> None:
    run = run_spec(life=life(stack=judging(recovery_steps=5000)))
    assert context(run).life_steps == 210 + 210 + 40


def test_a_target_depth_ends_growth_and_the_last_stack_is_as_long_as_is_left() -> None:
    part = proposed(at(400, depth=4), run_spec(target=7)).orders[0]
    assert part.blueprint.blueprint_id == "stack.part"  # type: ignore[union-attr]
    assert part.values == {"blocks": 3.0}
    whole = proposed(at(400, depth=4), run_spec(target=8)).orders[0]
    assert whole.blueprint.blueprint_id == "stack.double"  # type: ignore[union-attr]
    done = proposed(at(400, depth=8), run_spec(target=8))
    assert done.reasons == (R.DECISION_REASON_TARGET_REACHED,)
    assert done.detail == f"{SLOT}: deep enough: it has 8 of 8 equal blocks"
    for step in (10, 1390):
        at_its_goal = proposed(at(step, depth=8), run_spec(target=8))
        assert at_its_goal.reasons == (R.DECISION_REASON_TARGET_REACHED,), "neither early nor late"
    two = run_spec(target=3, manifest=host(stack_slot(2), stack_slot(3, "stack:layer4", order=3)))
    assert proposed(at(1390), two).reasons == (R.DECISION_REASON_TOO_LATE,)


def test_a_budget_shortens_a_stack_and_ends_growth_where_no_block_is_left() -> None:
    def under(parameters: int) -> Proposal:
        return proposed(at(400, depth=4), run_spec(budget=Budget(max_parameters=parameters)))

    assert under(902).orders[0].blueprint.blueprint_id == "stack.double"  # type: ignore[union-attr]
    assert under(901).orders[0].values == {"blocks": 3.0}
    assert under(601).reasons == (R.DECISION_REASON_BUDGET,)


def test_a_run_that_grows_stacks_grows_nothing_else_and_one_that_does_not_grows_no_stack() -> None:
    both = proposed(at(400))
    assert [item.slot.slot_id for item in both.selection.candidates] == [SLOT]  # type: ignore[union-attr]
    plain = run_spec(steps=())
    assert not context(plain).grows_stacks
    chosen = look_up(first_state(plain), at(400), context(plain))
    assert SLOT not in [item.slot.slot_id for item in chosen.candidates]


def test_a_forced_trigger_does_not_wait_for_a_step() -> None:
    forced = proposed(at(10), run_spec(ALWAYS))
    assert (forced.action, forced.reasons) == ("germinate", (R.DECISION_REASON_FORCED,))


def test_the_command_is_valid_and_carries_no_blend_of_its_own() -> None:
    run, given = run_spec(target=3), at(400)
    made, state = context(run), first_state(run)
    verdict = decide(made, state, given, policy=HeuristicPolicy(), select=look_up)
    (item,) = verdict.issues
    assert violations(item.command) == []
    seed = item.command.seed
    assert [(value.name, value.value) for value in seed.parameters] == [("blocks", 1.0)]
    assert (seed.blend.alpha_start, seed.blend.alpha_target, seed.blend.schedule_steps) == (1.0, 1.0, 0)
    again = issue(proposed(given, run).orders[0], verdict.metadata, first_state(run), given, made)
    assert again.command.seed == seed


def test_a_stack_under_judgement_lacks_no_measurement() -> None:
    stack = stack_seed(SeedStage.SEED_STAGE_PROBATIONARY)
    stack.ClearField("gradient_norm")
    stack.ClearField("rms_ratio")
    run = run_spec()
    assert coverage(read(at(400, seeds=[stack]), context(run))).average == 1.0


@pytest.mark.parametrize(
    ("stage", "is_alarming"),
    [(SeedStage.SEED_STAGE_PROBATIONARY, False), (SeedStage.SEED_STAGE_FOSSILIZED, True)],
)
def test_a_stack_may_make_the_loss_jump_while_it_is_judged_and_no_longer(stage: int, is_alarming: bool) -> None:
    run = run_spec()
    before = first_state(run)
    before.smoothed_loss = 1.0
    given = at(400, loss=1.9, seeds=[stack_seed(stage)])
    verdict = decide(context(run), before, given, policy=HeuristicPolicy(), select=look_up)
    assert verdict.state.conservative == is_alarming
    assert RiskReason.RISK_REASON_LOSS_SPIKE in [finding.reason for finding in verdict.findings]


def test_steps_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ContractError, match="each must be later"):
        context(run_spec(steps=(10, 10)))


def test_a_change_of_the_steps_replaces_them() -> None:
    before = TriggerSettings(trigger=AUTO, stack_steps=[10, 20])
    assert list(updated(before, TriggerSettings(stack_steps=[30])).stack_steps) == [30]
    assert list(updated(before, TriggerSettings()).stack_steps) == [10, 20]


def depths_of(run: TamiyoRunSpec, depth: int, **metrics: Any) -> list[tuple[str, int]]:
    """What the policy grows at each step of its schedule if every stack is kept: blueprints and depths after them."""
    found: list[tuple[str, int]] = []
    seeds: list[Any] = []
    for step in run.trigger.stack_steps:
        proposal = proposed(at(step, depth, seeds=seeds, **metrics), run)
        if not proposal.orders:
            found.append((proposal.detail, depth))
            continue
        (order,) = proposal.orders
        depth += int(order.values.get("blocks", depth))
        found.append((order.blueprint.blueprint_id, depth))  # type: ignore[union-attr]
        seeds.append(stack_seed(seed_id=f"s{len(seeds)}", forward_macs=80, age_steps=200, stage_step=step + 200))
    return found


@pytest.mark.parametrize(
    ("target", "steps", "grown"),
    [
        (12, (350, 840), [("stack.double", 6), ("stack.double", 12)]),
        (8, (350, 840), [("stack.double", 6), ("stack.part", 8)]),
        (4, (350, 840), [("stack.part", 4), (f"{SLOT}: deep enough: it has 4 of 4 equal blocks", 4)]),
        (None, (350, 840), [("stack.double", 6), ("stack.double", 12)]),
        (3, (350,), [(f"{SLOT}: deep enough: it has 3 of 3 equal blocks", 3)]),
    ],
)
def test_the_schedule_ends_at_the_target_depth(target: int | None, steps: Any, grown: list[tuple[str, int]]) -> None:
    run = run_spec(target=target, steps=steps, manifest=host(stack_slot(3)))
    assert depths_of(run, 3) == grown


def test_of_several_runs_the_one_tried_least_grows_first_in_forward_order() -> None:
    run = run_spec(manifest=host(stack_slot(2), stack_slot(3, "stack:layer4", order=3)))
    first = proposed(at(400), run)
    assert first.orders[0].slot_id == SLOT
    assert proposed(at(900, seeds=[stack_seed()]), run).orders[0].slot_id == "stack:layer4"
    again = [stack_seed(), stack_seed(seed_id="s2")]
    again[1].slot_id = "stack:layer4"
    longer = run_spec(manifest=run.manifest, steps=(10, 20, 30))
    assert proposed(at(900, seeds=again), longer).orders[0].slot_id == SLOT


def under_macs(limit: int, given: SystemStatePacket) -> Proposal:
    return proposed(given, run_spec(budget=Budget(max_training_macs=limit)))


def test_a_training_budget_counts_both_arms_and_judging_shortens_a_stack_and_ends_growth() -> None:
    given = at(400, depth=4)
    run = run_spec()
    whole, three, one = (forecast_training_macs(given, context(run), forward_macs=80 * blocks) for blocks in (4, 3, 1))
    steps_alone = given.metrics.training_macs * TOTAL_STEPS * (480 + 4 * 80) // (400 * 480)
    assert whole > steps_alone  # twin and evaluations cost more than the steps that were made before the stack save
    assert under_macs(whole, given).orders[0].blueprint.blueprint_id == "stack.double"  # type: ignore[union-attr]
    assert under_macs(whole - 1, given).orders[0].values == {"blocks": 3.0}
    assert under_macs(three - 1, given).orders[0].values == {"blocks": 2.0}
    none_left = under_macs(one - 1, given)
    assert (none_left.action, none_left.reasons) == ("wait", (R.DECISION_REASON_BUDGET,))
    assert none_left.detail == f"{SLOT}: max_training_macs is {one - 1}, {one} would be needed"


def test_evaluations_count_on_the_judging_set_as_it_was_told() -> None:
    given, run = at(400, depth=4), run_spec()
    least = forecast_training_macs(given, context(run), forward_macs=320)
    run.life.judge_samples = 2 * run.life.min_samples
    more = forecast_training_macs(given, context(run), forward_macs=320) - least
    assert more == run.life.min_samples * 3 * run.life.stack.evaluations * (2 * 480 + 320)


def test_blueprints_that_the_run_names_are_the_ones_that_it_grows_by() -> None:
    def named(*blueprints: str, target: int | None = None) -> Proposal:
        run = run_spec(target=target)
        run.trigger.blueprint_ids.extend(blueprints)
        return proposed(at(400, depth=4), run)

    part = named("stack.part").orders[0]
    assert (part.blueprint.blueprint_id, part.values) == ("stack.part", {"blocks": 4.0})  # type: ignore[union-attr]
    assert named("stack.double").orders[0].blueprint.blueprint_id == "stack.double"  # type: ignore[union-attr]
    both = named("stack.part", "stack.double", target=6).orders[0]
    assert (both.blueprint.blueprint_id, both.values) == ("stack.part", {"blocks": 2.0})  # type: ignore[union-attr]
    short = named("stack.double", target=6)
    assert short.action == "wait"
    assert short.detail == f"{SLOT}: 2 more blocks need stack.part, which isn't among the blueprints that the run names"
