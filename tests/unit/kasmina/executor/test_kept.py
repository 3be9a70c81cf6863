"""A kept seed is kept: for every blueprint, judge and outcome of its fold the judged network is the one at the end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch

from esper.kasmina.control.orders import dispatch
from esper.kasmina.executor.fold import fold
from esper.kasmina.executor.stack_slots import STACK_FACTORIES
from esper.leyline import (
    BlendConfig,
    BlendMode,
    BlendSchedule,
    GateVerdict,
    JudgeMode,
    SeedGate,
    SeedOperation,
    SeedRecord,
    SeedStage,
    SeedState,
)
from esper.urza.blueprints import BUILTIN
from tests.drilled import drilled
from tests.unit.kasmina.control.making import fresh_state, life, on_seed, spec, turn

JUDGES = {"twin": JudgeMode.JUDGE_MODE_TWIN, "muted": JudgeMode.JUDGE_MODE_MUTED}
RISING = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_start=0.0,
    alpha_target=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=4,
)


@dataclass(frozen=True, slots=True)
class Place:
    """A host, one of its slots, and a blueprint that fits."""

    host: str
    slot_id: str
    blueprint_id: str
    parameters: tuple[tuple[str, float], ...] = ()
    folds: bool = False


PLACES = (
    Place("mlp", "span_linear:fc1-fc2", "span.linear", (("width", 4),), folds=True),
    Place("transformer", "span_linear:blocks.1.fc1-blocks.1.fc2", "span.linear", (("width", 4),), folds=True),
    Place("convnet", "span_conv:conv1-conv2", "span.conv", (("width", 3),), folds=True),
    Place("convnet", "span_conv_linear:conv2-fc", "span.conv", (("width", 2),), folds=True),
    Place("mlp", "residual_linear:act1-act1", "residual.linear", (("width", 4),)),
    Place("conv1d", "residual_conv:act1-act1", "residual.conv", (("width", 3),)),
    Place("mlp", "residual_linear:act1-act1", "adapter.low_rank", (("rank", 2),)),
    Place("conv1d", "residual_conv:act2-act2", "adapter.low_rank", (("rank", 2),)),
    Place("mlp", "linear:fc2-fc2", "adapter.lora", (("rank", 2), ("alpha", 4)), folds=True),
    Place("conv1d", "residual_conv:act1-act1", "gate.channel"),
    Place("transformer", "residual_linear:blocks.0-blocks.0", "attention.self", (("heads", 2), ("head_size", 4))),
    Place("mlp", "span_linear:fc1-fc2", "control.random_frozen", (("width", 4), ("scale", 1.0))),
    Place("conv1d", "residual_conv:act1-act1", "control.random_frozen", (("width", 3), ("scale", 1.0))),
)
# "kept as a module" is what an optimiser that can't be merged makes of a span, and all that the others can become.
CASES = [
    (place, judge, outcome)
    for place, judge in itertools.product(PLACES, JUDGES)
    for outcome in (("folds", "kept as a module", "fold fails") if place.folds else ("kept as a module",))
]


def test_every_blueprint_of_a_module_is_tried():
    """But for heads, which fold/test_networks.py keeps: they need a host that attends."""
    tried = {place.blueprint_id for place in PLACES}
    assert tried == {row.blueprint_id for row in BUILTIN} - STACK_FACTORIES - {"span.heads"}


def keeping(run, place, judge, blend):
    """What Kasmina orders when the seed that has passed its judgement is fossilised."""
    manifest = run.executor.manifest()
    record = SeedRecord(
        state=SeedState(
            seed_id="s1",
            stage=SeedStage.SEED_STAGE_PROBATIONARY,
            slot_id=place.slot_id,
            blueprint_id=place.blueprint_id,
            gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT,
            verdict=GateVerdict.GATE_VERDICT_PASS,
        ),
        germination=SeedOperation(seed_id="s1", blend=blend),
    )
    state = fresh_state()
    state.seeds.append(record)
    work = turn(state, step=320, run=spec(life=life(judge=JUDGES[judge]), manifest=manifest))
    outcome = dispatch.apply(work, on_seed("FOSSILIZE", step=320))
    assert outcome.accepted
    return outcome.directives


def grown(rig, place, judge, outcome, zero_output):
    stays = outcome == "kept as a module"
    layers = {"offers_layers": place.blueprint_id == "adapter.lora", "merges_adapters": not stays}
    run = rig(place.host, optimizer="adafactor" if stays else "adam", **layers)
    is_control = place.blueprint_id == "control.random_frozen"
    blend = RISING if is_control else zero_output
    run.prefix = "setup"
    run.train(2)
    run.graft(place.blueprint_id, place.slot_id, twin=judge == "twin", blend=blend, **dict(place.parameters))
    run.train(7)
    return run, blend


def is_told_apart(place, judge, outcome):
    """Each place once, under judges in turn; every outcome of a fold in the smallest host."""
    number = PLACES.index(place)
    if number == 0:
        return judge == "twin"
    return judge == list(JUDGES)[number % 2] and outcome == ("folds" if place.folds else "kept as a module")


@pytest.mark.parametrize(("place", "judge", "outcome"), drilled(CASES, is_told_apart))
def test_the_network_at_the_end_of_the_run_is_the_judged_one(rig, zero_output, monkeypatch, place, judge, outcome):
    run, blend = grown(rig, place, judge, outcome, zero_output)
    directives = keeping(run, place, judge, blend)
    if outcome == "fold fails":
        monkeypatch.setitem(fold.RELATIVE_TOLERANCE, torch.float32, -1.0)
    judged, parameters = run.outputs(), run.arm.parameter_count()
    run.executor.execute(directives, run.step)
    run.executor.at_boundary(run.step)
    reports = run.executor.collect(run.step).reports
    assert [report.succeeded for report in reports].count(False) == (outcome == "fold fails")
    run.train(3)
    trained, digest = run.outputs(), run.arm.digest()
    saved = run.executor.state_dict()
    assert run.executor.finish(run.step) == ()
    assert torch.equal(run.outputs(), trained)
    assert run.arm.digest() == digest
    is_merged = outcome == "folds" and place.blueprint_id == "adapter.lora"
    assert run.arm.parameter_count() == (rig(place.host).arm.parameter_count() if is_merged else parameters)
    assert run.executor.fossils == {place.slot_id: 1}
    assert bool(run.executor.seeds) is (outcome != "folds")
    assert not torch.equal(judged, trained)

    resumed, _ = grown(rig, place, judge, outcome, zero_output)
    resumed.executor.load_state_dict(saved)
    assert resumed.executor.finish(run.step) == ()
    assert torch.equal(resumed.outputs(), trained)
    assert resumed.arm.digest() == digest
