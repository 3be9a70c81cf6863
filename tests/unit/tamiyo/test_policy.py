from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from esper.leyline import (
    Budget,
    DecisionReason,
    Embargo,
    GateVerdict,
    GrowthState,
    OpenCommand,
    SeedGate,
    SeedStage,
    SystemStatePacket,
    TamiyoRunSpec,
    TamiyoRunState,
    TriggerSettings,
)
from esper.tamiyo.context import BUSY_STAGES, LIVE_STAGES
from esper.tamiyo.growing.obstacles import OBSTACLES
from esper.tamiyo.policy import CULL, FOSSILIZE, GERMINATE, HeuristicPolicy, Proposal, View
from esper.tamiyo.signals import observe
from tests.unit.tamiyo.builders import (
    ALWAYS,
    AUTO,
    EVERY_STEPS,
    NEVER,
    Curve,
    context,
    first_state,
    improving,
    judged,
    look_up,
    narrow,
    packet,
    saturated,
    seed_state,
    spec,
)

PASS, FAIL = GateVerdict.GATE_VERDICT_PASS, GateVerdict.GATE_VERDICT_FAIL
STAGES = [stage for stage in SeedStage.values() if stage != SeedStage.SEED_STAGE_UNSPECIFIED]


def proposal(
    given: SystemStatePacket, run_spec: TamiyoRunSpec | None = None, state: TamiyoRunState | None = None
) -> Proposal:
    run, known = context(run_spec), state or first_state()
    signals = observe(known, given, run)
    view = View(
        context=run,
        packet=given,
        state=known,
        signals=signals,
        select=lambda: look_up(known, given, run),
        survey=lambda: look_up(known, given, run),
    )
    return HeuristicPolicy().propose(view)


def watched(curve: Curve, until: int, run_spec: TamiyoRunSpec | None = None) -> Proposal:
    """What is proposed at a step to a policy that saw the curve up to it."""
    state, run = first_state(), context(run_spec)
    for step in range(EVERY_STEPS, until, EVERY_STEPS):
        observe(state, packet(step, *curve(step)), run)
    return proposal(packet(until, *curve(until)), run_spec, state)


def reason(found: Proposal) -> str:
    return DecisionReason.Name(found.reasons[0]).removeprefix("DECISION_REASON_")


def test_a_seed_that_passed_the_twin_test_is_kept_and_one_that_failed_is_culled() -> None:
    kept = proposal(packet(500, seeds=[judged(PASS)]))
    assert [(order.operation, order.seed.seed_id) for order in kept.orders if order.seed] == [(FOSSILIZE, "s1")]
    culled = proposal(packet(500, seeds=[judged(FAIL)]))
    assert [order.operation for order in culled.orders] == [CULL]
    assert (kept.action, culled.action) == ("fossilize", "cull")


def test_any_failed_gate_of_a_living_seed_culls_it_and_a_dead_one_is_left_alone() -> None:
    for stage in STAGES:
        seed = seed_state("s1", stage, verdict=FAIL, gate=SeedGate.SEED_GATE_G1_GRADIENT_HEALTH)
        orders = proposal(packet(500, seeds=[seed])).orders
        assert [order.operation for order in orders if order.seed] == [CULL] * (stage in LIVE_STAGES)


@pytest.mark.parametrize("verdict", [GateVerdict.GATE_VERDICT_WAIT, GateVerdict.GATE_VERDICT_EXTEND])
def test_an_open_verdict_waits(verdict: int) -> None:
    found = proposal(packet(500, seeds=[judged(verdict)]))
    assert found.orders == ()
    assert reason(found) == "SEED_ALIVE"


def test_a_pass_of_an_earlier_gate_keeps_nothing() -> None:
    seed = seed_state("s1", SeedStage.SEED_STAGE_PROBATIONARY, verdict=PASS, gate=SeedGate.SEED_GATE_G3_INTERFACE)
    assert proposal(packet(500, seeds=[seed])).orders == ()


def test_a_seed_whose_command_is_open_is_not_commanded_again() -> None:
    state = first_state()
    state.open_commands.append(OpenCommand(command_id="c", seed_id="s1", operation=FOSSILIZE, deadline_step=900))
    assert proposal(packet(500, seeds=[judged(PASS)]), state=state).orders == ()


def test_nothing_is_grown_beside_a_seed_that_lives_or_is_being_removed() -> None:
    for stage in STAGES:
        found = proposal(packet(500, seeds=[seed_state("s1", stage)]), spec(ALWAYS))
        assert (reason(found) == "SEED_ALIVE") == (stage in BUSY_STAGES), SeedStage.Name(stage)


def test_a_narrow_host_is_grown_when_its_loss_has_flattened() -> None:
    found = watched(narrow, 600)
    assert reason(found) == "PLATEAU"
    (order,) = found.orders
    assert (order.operation, order.slot_id) == (GERMINATE, "span:fc1-fc2")
    assert order.blueprint is not None
    assert order.blueprint.blueprint_id == "span.linear"


def test_a_host_that_still_learns_is_left_alone() -> None:
    assert reason(watched(improving, 300)) == "STILL_IMPROVING"


def test_a_saturated_host_is_left_alone_however_flat_its_loss() -> None:
    for until in range(210, 1200, 110):
        assert reason(watched(saturated, until)) == "SATURATED"


def test_a_host_is_saturated_by_its_accuracy_even_where_its_loss_is_not_low() -> None:
    assert reason(watched(lambda step: (0.3, 0.99), 600)) == "SATURATED"
    by_loss_alone = spec(trigger=TriggerSettings(trigger=AUTO, saturation_share=1.0))
    assert reason(watched(lambda step: (0.3, 1.0), 600, by_loss_alone)) == "PLATEAU"


def test_a_forced_run_grows_at_once_after_its_warm_up_whatever_the_loss_does() -> None:
    assert reason(watched(saturated, 200, spec(ALWAYS))) == "WARMING_UP"
    assert reason(watched(saturated, 210, spec(ALWAYS))) == "FORCED"
    assert reason(watched(improving, 210, spec(ALWAYS))) == "FORCED"


def test_a_run_that_may_not_grow_never_does_but_still_judges() -> None:
    assert reason(watched(narrow, 600, spec(NEVER))) == "GROWTH_OFF"
    assert proposal(packet(500, seeds=[judged(FAIL)]), spec(NEVER)).action == "cull"


def test_growth_that_is_paused_or_ended_stays_so() -> None:
    growth = packet(500).growth
    growth.paused = True
    assert reason(proposal(packet(500, growth=growth), spec(ALWAYS))) == "PAUSED"
    growth.paused, growth.ended = False, True
    assert reason(proposal(packet(500, growth=growth), spec(ALWAYS))) == "GROWTH_ENDED"


def test_no_seed_is_grown_whose_life_would_outlast_the_constant_rate() -> None:
    run = context(spec(ALWAYS))
    last = run.spec.life.growth_end_step - run.life_steps
    assert reason(proposal(packet(last), spec(ALWAYS))) == "FORCED"
    assert reason(proposal(packet(last + 1), spec(ALWAYS))) == "TOO_LATE"


def test_after_a_germination_without_effect_the_policy_waits_for_its_retry_step() -> None:
    state = first_state()
    state.retry_step = 600
    assert reason(proposal(packet(590), spec(ALWAYS), state)) == "WARMING_UP"
    assert reason(proposal(packet(600), spec(ALWAYS), state)) == "FORCED"


def test_each_obstacle_gives_a_reason_of_its_own() -> None:
    names = [reason for reason, _ in OBSTACLES]
    assert len(set(names)) == len(names)


def growth_of(**changes: object) -> GrowthState:
    """The counters of a run without seeds, changed."""
    growth = packet(500).growth
    growth.MergeFrom(GrowthState(**changes))  # type: ignore[arg-type]
    return growth


EMBARGOES = [Embargo(slot_id=f"span:fc{order + 1}-fc{order + 2}", until_step=700 + order) for order in range(2)]


@pytest.mark.parametrize(
    ("found", "name", "words"),
    [
        (lambda: watched(narrow, 600, spec(NEVER)), "GROWTH_OFF", "the run's trigger is NEVER"),
        (
            lambda: proposal(packet(500, seeds=[seed_state("s1", SeedStage.SEED_STAGE_BLENDING)])),
            "SEED_ALIVE",
            "seed s1 is BLENDING",
        ),
        (lambda: proposal(packet(500, growth=growth_of(paused=True))), "PAUSED", "an order paused growth"),
        (
            lambda: proposal(packet(500, growth=growth_of(ended=True, culls_in_row=2))),
            "GROWTH_ENDED",
            "2 culls in a row",
        ),
        (lambda: proposal(packet(1400), spec(ALWAYS)), "TOO_LATE", "needs 250 steps to its verdict, 70 are left"),
        (lambda: proposal(packet(100)), "WARMING_UP", "step 100 of 210 before the first seed"),
        (lambda: proposal(packet(500)), "WARMING_UP", "not known yet over 105 steps"),
        (lambda: watched(lambda step: (0.3, 0.995), 600), "SATURATED", "99.50% .* are right, saturated from 99.00% on"),
        (lambda: watched(lambda step: (0.02, 0.5), 600), "SATURATED", "smoothed loss 0.02, saturated from 0.08 down"),
        (lambda: watched(improving, 300), "STILL_IMPROVING", r"falls by \d+\.\d+% in 100 steps, flat below 60.00%"),
        (lambda: watched(narrow, 600), "PLATEAU", r"falls by \d+\.\d+% in 100 steps, flat below 60.00%"),
        (
            lambda: proposal(packet(500), spec(ALWAYS, budget=Budget(max_parameters=510))),
            "BUDGET",
            r"^span:fc1-fc2: max_parameters is 510, \d+ would be needed",
        ),
        (
            lambda: proposal(packet(500, growth=growth_of(embargoes=EMBARGOES)), spec(ALWAYS)),
            "EMBARGO",
            "span:fc1-fc2: closed until step 700; span:fc2-fc3: closed until step 701",
        ),
        (
            lambda: proposal(packet(500), spec(trigger=TriggerSettings(trigger=ALWAYS, blueprint_ids=["span.conv"]))),
            "NO_SLOT",
            "span:fc1-fc2: no blueprint fits",
        ),
        (lambda: proposal(packet(500, seeds=[judged(FAIL)])), "GATE_FAILED", "cull seed s1: G4_SYSTEM_IMPACT FAIL"),
    ],
)
def test_every_reason_comes_with_its_numbers(found: Callable[[], Proposal], name: str, words: str) -> None:
    told = found()
    assert reason(told) == name
    assert re.search(words, told.detail), told.detail


def test_the_digest_pins_settings_and_version() -> None:
    policy = HeuristicPolicy()
    plain = policy.digest(context(), "1.0.0")
    assert plain == policy.digest(context(), "1.0.0")
    assert plain != policy.digest(context(), "1.0.1")
    assert plain != policy.digest(context(spec(ALWAYS)), "1.0.0")
