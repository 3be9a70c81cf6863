from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core.messages.validation import violations
from esper.leyline import (
    Budget,
    DecisionReason,
    IssuedCommand,
    SeedStage,
    SystemMode,
    SystemStatePacket,
    TamiyoRunState,
    TriggerSettings,
)
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.deciding.decide import Verdict, decide
from esper.tamiyo.policy import HeuristicPolicy
from esper.tamiyo.runs import blob_of, state_from
from tests.unit.tamiyo.builders import (
    ALWAYS,
    EVERY_STEPS,
    RUN,
    TOTAL_STEPS,
    Curve,
    Simulation,
    actions,
    by_eight,
    context,
    first_state,
    improving,
    look_up,
    narrow,
    packet,
    reasons,
    saturated,
    seed_state,
    spec,
)


def decided(given_packet: SystemStatePacket, state: TamiyoRunState | None = None, **changes: object) -> Verdict:
    run = context(spec(ALWAYS, **changes))
    return decide(run, state or first_state(), given_packet, policy=HeuristicPolicy(), select=look_up)


def test_a_narrow_host_is_grown_judged_and_grown_again_until_the_decay_is_near() -> None:
    found = actions(Simulation(curve=narrow).run())
    grown = [step for step, action, _ in found if action == "germinate"]
    assert len(grown) >= 3
    assert grown[0] >= TOTAL_STEPS * 0.1
    assert grown[-1] <= TOTAL_STEPS * 0.6
    assert [action for _, action, _ in found] == ["germinate", "fossilize"] * len(grown)
    assert [seed for _, action, seed in found if action == "fossilize"] == [f"s{n + 1}" for n in range(len(grown))]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_run_that_says_no_width_widens_one_layer_to_four_times_and_then_no_other(is_kept: bool) -> None:
    simulation = Simulation(curve=narrow, run_spec=spec(), is_kept=lambda seed: is_kept)
    verdicts = list(simulation.run())
    found = actions(verdicts)
    assert [action for _, action, _ in found] == ["germinate", "fossilize" if is_kept else "cull"]
    orders = [issue.command.seed for verdict in verdicts for issue in verdict.issues]
    assert [(given.name, given.value) for given in orders[0].parameters] == [("width", 3 * 6)]
    later = [verdict for verdict in verdicts if verdict.selection and not verdict.issues]
    assert {verdict.metadata.reasons[0] for verdict in later} == {DecisionReason.DECISION_REASON_WIDENED}
    assert all("the one usual widening was s1; a span_width asks for more" in each.metadata.detail for each in later)
    assert later


def test_slots_take_turns() -> None:
    simulation = Simulation(curve=narrow)
    list(simulation.run())
    slots = [seed.slot_id for seed in simulation.seeds.values()]
    assert slots[:2] == ["span:fc1-fc2", "span:fc2-fc3"]


def test_a_saturated_host_is_never_grown() -> None:
    assert actions(Simulation(curve=saturated).run()) == []


def test_two_culls_end_growth_even_where_it_is_forced() -> None:
    found = actions(Simulation(curve=saturated, run_spec=by_eight(ALWAYS), is_kept=lambda seed: False).run())
    assert [action for _, action, _ in found] == ["germinate", "cull"] * 2


@pytest.mark.parametrize("curve", [narrow, saturated, improving])
def test_every_decision_and_command_is_valid(curve: Curve) -> None:
    for verdict in Simulation(curve=curve).run():
        assert violations(verdict.metadata) == []
        assert violations(verdict.state) == []
        assert all(violations(issue.command) == [] for issue in verdict.issues)


def test_the_same_packets_give_the_same_verdicts_bit_for_bit() -> None:
    def history() -> list[bytes]:
        return [
            verdict.state.SerializeToString(deterministic=True) + verdict.metadata.SerializeToString(deterministic=True)
            for verdict in Simulation(curve=narrow, is_kept=lambda seed: seed % 2 == 1).run()
        ]

    assert history() == history()


def test_measured_times_change_nothing_unless_the_run_asks_for_it() -> None:
    slow = packet(500)
    slow.metrics.step_latency_ms = 500.0
    quick, late = decided(packet(500)), decided(slow)
    assert [issue.command.seed for issue in quick.issues] == [issue.command.seed for issue in late.issues]
    assert quick.state == late.state
    assert decided(slow, latency_rules=True).issues == ()


def test_deciding_leaves_the_state_it_was_given_alone() -> None:
    state = first_state()
    before = state.SerializeToString(deterministic=True)
    assert decided(packet(500), state).state != state
    assert state.SerializeToString(deterministic=True) == before


def test_a_risk_holds_a_germination_back_and_says_so_and_the_next_packet_tries_again() -> None:
    held = decided(packet(500, mode=SystemMode.SYSTEM_MODE_DEGRADED))
    assert held.issues == ()
    assert reasons(held) == ["CONSERVATIVE", "FORCED"]
    assert held.metadata.detail == "the run or the plane is in conservative mode"
    assert held.metadata.policy.action == "germinate"
    assert held.metadata.HasField("selection")
    again = decided(packet(510), held.state)
    assert len(again.issues) == 1
    assert again.issues[0].command.command_id == f"{RUN}-g1-c1"
    assert again.issues[0].command.seed.slot_id == "span:fc1-fc2"


def test_a_non_finite_loss_makes_conservative_and_growth_waits_out_the_dwell() -> None:
    verdict = decided(packet(500, loss=math.nan))
    assert verdict.state.conservative
    assert verdict.mode_change is not None
    assert verdict.metadata.conservative
    state, held = verdict.state, 0
    for step in range(510, 700, EVERY_STEPS):
        verdict = decided(packet(step), state)
        state = verdict.state
        if verdict.issues:
            break
        assert reasons(verdict)[0] == "CONSERVATIVE"
        assert verdict.metadata.detail == "conservative mode since step 500: non finite loss"
        held += 1
    assert verdict.issues
    assert held == TamiyoConfig().conservative_dwell_steps // EVERY_STEPS


def test_a_rule_that_holds_a_germination_back_is_named_with_its_numbers() -> None:
    state = decided(packet(490, loss=0.5)).state
    del state.open_commands[:]
    spiked = decided(packet(500, loss=0.9), state)
    assert reasons(spiked)[0] == "RISK"
    assert spiked.metadata.detail == "loss spike 0.8, limit 0.5"


def test_a_conservative_run_still_keeps_and_culls() -> None:
    simulation = Simulation(curve=lambda step: (0.3 if step < 300 else math.nan, 0.8), run_spec=spec(ALWAYS))
    found = actions(simulation.run())
    assert [action for _, action, _ in found] == ["germinate", "fossilize"]
    assert simulation.state is not None
    assert simulation.state.conservative


def test_losses_from_before_a_twin_was_installed_are_forgotten() -> None:
    state = first_state()
    for step in range(10, 500, EVERY_STEPS):
        state = decided(packet(step, seeds=[seed_state()]), state).state
    culled = seed_state("s1", SeedStage.SEED_STAGE_CULLED, stage_step=490)
    state = decided(packet(500, seeds=[culled]), state).state
    assert [point.step for point in state.window] == [500]
    installed = seed_state("s1", SeedStage.SEED_STAGE_EMBARGOED, stage_step=510)
    after = decided(packet(520, seeds=[installed]), decided(packet(510, seeds=[installed]), state).state)
    assert [point.step for point in after.state.window] == [510, 520]
    assert after.signals.slope is None
    assert after.state.last_change_step == 510


def test_a_kept_seed_leaves_the_window_as_it_is() -> None:
    state = first_state()
    for step in range(10, 500, EVERY_STEPS):
        state = decided(packet(step, seeds=[seed_state()]), state).state
    kept = seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED, stage_step=490)
    verdict = decided(packet(500, seeds=[kept]), state)
    assert verdict.signals.slope is not None
    assert verdict.state.last_change_step == 490


def test_a_lack_of_budget_and_a_lack_of_slots_have_their_own_reasons() -> None:
    assert reasons(decided(packet(500), budget=Budget(max_seeds=0))) == ["BUDGET"]
    misfit = TriggerSettings(trigger=ALWAYS, blueprint_ids=["span.conv"])
    assert reasons(decided(packet(500), trigger=misfit)) == ["NO_SLOT"]


def test_a_command_that_kasmina_replays_although_it_was_not_decided_again_is_told() -> None:
    old = [
        IssuedCommand(command_id=f"{RUN}-g1-c9", decision_step=500),
        IssuedCommand(command_id="pause-by-hand", decision_step=500),
    ]
    verdict = decided(packet(500, generation=2), generation=2, replay=old)
    assert verdict.unmatched_ids == (f"{RUN}-g1-c9",)
    assert verdict.replayed_ids == (f"{RUN}-g1-c9", "pause-by-hand")
    assert [issue.is_replayed for issue in verdict.issues] == [False]


@given(
    checkpoint=st.integers(1, TOTAL_STEPS // EVERY_STEPS - 1), killed_after=st.integers(0, 60), kept=st.integers(0, 3)
)
@settings(max_examples=6)
def test_a_run_that_was_killed_and_resumed_decides_like_an_unbroken_one(
    checkpoint: int, killed_after: int, kept: int
) -> None:
    """Rewound to a checkpoint, with everything accepted since then replayed, the rest of the run is the same."""

    def new(**changes: object) -> Simulation:
        return Simulation(curve=narrow, is_kept=lambda seed: bool(seed >> kept & 1) or seed == 1, **changes)  # type: ignore[arg-type]

    unbroken = actions(new().run())
    at_step = checkpoint * EVERY_STEPS
    killed_at = min(TOTAL_STEPS, at_step + killed_after * EVERY_STEPS)
    first = new()
    before = actions(first.run(to_step=at_step))
    assert first.state is not None
    blob = blob_of(first.state)
    seeds = {seed_id: type(seed).FromString(seed.SerializeToString()) for seed_id, seed in first.seeds.items()}
    growth = type(first.growth).FromString(first.growth.SerializeToString())
    lost = [
        IssuedCommand(command_id=issue.command.command_id, decision_step=issue.command.step)
        for verdict in first.run(at_step + EVERY_STEPS, killed_at)
        for issue in verdict.issues
    ]
    resumed = new(run_spec=by_eight(generation=2, replay=lost), state=state_from(blob, RUN), seeds=seeds, growth=growth)
    verdicts = list(resumed.run(at_step + EVERY_STEPS))
    assert before + actions(iter(verdicts)) == unbroken
    assert [i for verdict in verdicts for i in verdict.replayed_ids] == [command.command_id for command in lost]
    assert not any(verdict.unmatched_ids for verdict in verdicts)
    for verdict in verdicts:
        assert all(issue.is_replayed == (issue.command.step <= killed_at) for issue in verdict.issues)
