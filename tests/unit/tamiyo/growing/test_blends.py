"""A run asks for a blend; each germination carries it as far as the seed can have it, and tells where it can't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.blends import blend_problem, graft_problem
from esper.core.errors import ContractError
from esper.core.messages.validation import violations
from esper.leyline import (
    BlendMode,
    BlendSchedule,
    BlendSettings,
    ConfidenceKind,
    IncubationMode,
    TaskType,
    TriggerSettings,
)
from esper.tamiyo.context import RunContext
from esper.tamiyo.growing.blends import blend_for, incubates
from esper.tamiyo.trigger import updated
from tests.unit.tamiyo.builders import ALWAYS, CATALOG, Simulation, context, life, manifest, spec

RESIDUAL = BlendMode.BLEND_MODE_RESIDUAL
CONVEX = BlendMode.BLEND_MODE_CONVEX
CHANNEL = BlendMode.BLEND_MODE_CHANNEL
CONFIDENCE = BlendMode.BLEND_MODE_CONFIDENCE
HOLD = BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD
COSINE = BlendSchedule.BLEND_SCHEDULE_COSINE
SHADOW = life(incubation=IncubationMode.INCUBATION_MODE_SHADOW, incubation_steps=100)


def asking(blend: BlendSettings, **changes: object) -> RunContext:
    return context(spec(trigger=TriggerSettings(trigger=ALWAYS, blend=blend), **changes))


def test_what_is_asked_is_what_the_command_says() -> None:
    asked = BlendSettings(mode=CONVEX, schedule=COSINE, schedule_steps=40, alpha_target=0.5)
    commands = [
        issue.command
        for verdict in Simulation(run_spec=spec(trigger=TriggerSettings(trigger=ALWAYS, blend=asked))).run()
        for issue in verdict.issues
    ]
    blend = commands[0].seed.blend
    assert (blend.mode, blend.schedule, blend.schedule_steps) == (CONVEX, COSINE, 40)
    assert (blend.alpha_start, blend.alpha_target) == (0.0, 0.5)
    assert violations(commands[0]) == []


def test_a_gate_is_completed_and_bounds_stay_as_they_were_asked() -> None:
    asked = BlendSettings(mode=CONFIDENCE, share_max=0.8, confidence=ConfidenceKind.CONFIDENCE_KIND_ENTROPY)
    blend = blend_for(CATALOG.get("span.linear"), asking(asked))
    assert (blend.confidence, blend.gate_slope, blend.gate_threshold) == (asked.confidence, 4.0, 0.2)
    assert blend.share_max == 0.8
    assert not blend.HasField("share_min")
    assert violations(blend) == []


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (BlendSettings(mode=CHANNEL), "alpha_vec"),
        (BlendSettings(mode=CONVEX, alpha_vec=[0.5]), "alpha_vec"),
        (BlendSettings(mode=CONVEX, schedule=HOLD), "WARMUP_HOLD"),
        (BlendSettings(alpha_target=0.0), "alpha_target"),
    ],
)
def test_what_no_seed_could_have_is_refused_when_the_run_opens(asked: BlendSettings, problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        asking(asked)


@pytest.mark.parametrize(
    ("asked", "changes", "words"),
    [
        (BlendSettings(mode=CHANNEL, alpha_vec=[0.5] * 4), {}, "don't divide"),
        (BlendSettings(schedule=HOLD), {"life": SHADOW}, "must start at alpha 0"),
        (BlendSettings(schedule_steps=500), {}, "judging window"),
    ],
)
def test_a_slot_that_cant_have_it_is_told_and_left_alone(
    asked: BlendSettings, changes: dict[str, object], words: str
) -> None:
    run = spec(trigger=TriggerSettings(trigger=ALWAYS, blend=asked), **changes)
    verdicts = list(Simulation(run_spec=run).run())
    assert not [issue for verdict in verdicts for issue in verdict.issues]
    assert any("its blend: " in verdict.metadata.detail and words in verdict.metadata.detail for verdict in verdicts)


def test_an_update_replaces_what_was_asked_as_a_whole() -> None:
    before = TriggerSettings(blend=BlendSettings(mode=CHANNEL, alpha_vec=[0.1, 0.2]))
    after = updated(before, TriggerSettings(blend=BlendSettings(mode=CONVEX)))
    assert after.blend == BlendSettings(mode=CONVEX)
    assert updated(before, TriggerSettings(warmup_steps=3)).blend == before.blend


shares = st.floats(0, 1, width=32)


@st.composite
def settings(draw: st.DrawFn) -> BlendSettings:
    low, high = sorted([draw(shares), draw(shares)])
    return BlendSettings(
        mode=draw(st.sampled_from([None, RESIDUAL, CONVEX, CHANNEL, CONFIDENCE])),
        schedule=draw(st.sampled_from([None, *BlendSchedule.values()[1:]])),
        schedule_steps=draw(st.none() | st.integers(1, 300)),
        alpha_target=draw(st.none() | shares),
        alpha_vec=draw(st.lists(shares, max_size=8)),
        gate_slope=draw(st.none() | st.floats(0.1, 20)),
        share_min=low,
        share_max=high,
    )


@given(settings(), st.sampled_from(["span.linear", "residual.linear", "control.random_frozen"]), st.booleans())
def test_whatever_is_asked_a_command_is_valid_and_kasmina_takes_it_or_the_slot_is_left(
    asked: BlendSettings, blueprint_id: str, is_incubated: bool
) -> None:
    try:
        run = asking(asked, **({"life": SHADOW} if is_incubated else {}))
    except ContractError:
        return
    blueprint = CATALOG.get(blueprint_id)
    blend = blend_for(blueprint, run)
    assert violations(blend) == []
    host = manifest()
    assert host.task == TaskType.TASK_TYPE_CLASSIFICATION
    is_silent = blueprint.is_zero_output and not incubates(blueprint, run)
    refused = blend_problem(blend, 6, host, run.spec.life) or graft_problem(blend, is_silent=is_silent)
    if asked.mode != CHANNEL and asked.schedule != HOLD and asked.schedule_steps <= 210:
        assert refused is None
