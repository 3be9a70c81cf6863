"""The promises that the trainer builds on: exact grafts, exact culls, side passes without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from esper.core.errors import ConfigError
from esper.leyline import BlendConfig, BlendMode, BlendSchedule

SPANS = [
    ("mlp", "span_linear:fc1-fc2", "span.linear", 8),
    ("noisy mlp", "span_linear:fc2-fc3", "span.linear", 3),
    ("noisy convnet", "span_conv:conv1-conv2", "span.conv", 3),
    ("noisy convnet", "span_conv_linear:conv2-fc", "span.conv", 2),
    ("conv1d", "span_conv:conv1-conv2", "span.conv", 3),
    ("transformer", "span_linear:blocks.0.fc1-blocks.0.fc2", "span.linear", 4),
]
RESIDUALS = [
    ("noisy mlp", "residual_linear:act1-act1", "residual.linear", {"width": 4}),
    ("mlp", "residual_linear:act2-act2", "adapter.low_rank", {"rank": 2}),
    ("mlp", "residual_linear:act1-act1", "gate.channel", {}),
    ("conv1d", "residual_conv:act1-act1", "residual.conv", {"width": 3}),
    ("conv1d", "residual_conv:act1-act1", "gate.channel", {}),
    ("conv1d", "residual_conv:act2-act2", "adapter.low_rank", {"rank": 2}),
    ("conv1d", "residual_conv:act1-act1", "attention.self", {"heads": 2, "head_size": 3}),
    ("transformer", "residual_linear:blocks.0-blocks.0", "attention.self", {"heads": 2, "head_size": 4}),
]
RAMP = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_target=1.0,
    alpha_start=0.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=4,
)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("host", "slot", "blueprint", "width"), SPANS)
def test_a_culled_run_is_bit_for_bit_the_never_grafted_one(rig, host, slot, blueprint, width, optimizer):
    grown, plain = rig(host, optimizer=optimizer), rig(host, optimizer=optimizer)
    grown.train(4)
    collected = grown.graft(blueprint, slot, width=width)
    assert collected.reports[-1].max_logit_delta == 0.0
    grown.train(7)
    plain.train(11)
    assert grown.arm.digest() != plain.arm.digest()
    assert grown.executor.twin.digest() == plain.arm.digest()
    grown.do(grown.directive("PROBE"), grown.directive("JUDGE", look=1))
    collected = grown.do(grown.directive("INSTALL_TWIN"), grown.directive("CHECK_RESET"))
    assert list(collected.reports[-1].remains) == []
    grown.train(5)
    plain.train(5)
    assert grown.arm.digest() == plain.arm.digest()
    assert grown.executor.seeds == ()


@pytest.mark.parametrize(("host", "slot", "blueprint", "parameters"), RESIDUALS)
def test_every_zero_output_blueprint_grafts_without_changing_an_output(rig, host, slot, blueprint, parameters):
    run = rig(host)
    run.train(3)
    before = run.outputs()
    report = run.graft(blueprint, slot, **parameters).reports[-1]
    assert report.max_logit_delta == 0.0
    assert torch.equal(run.outputs(), before)
    run.train(6)
    observation = run.executor.collect(run.step).observations[0]
    assert observation.gradients_finite
    assert observation.gradient_norm > 0.0
    assert observation.rms_ratio > 0.0
    assert observation.is_schedule_done


@pytest.mark.parametrize("slot", ["span_linear:fc1-fc2", "residual_linear:act1-act1"])
def test_a_control_is_frozen_and_blends_in_from_alpha_0(rig, slot):
    run = rig("mlp")
    run.train(2)
    report = run.graft("control.random_frozen", slot, blend=RAMP, width=5, scale=1.0).reports[-1]
    assert report.max_logit_delta == 0.0
    weights = [parameter.clone() for parameter in run.arm.grafts[0].module.parameters()]
    run.train(6)
    assert run.executor.alpha_of("s1") == 1.0
    assert all(torch.equal(a, b) for a, b in zip(weights, run.arm.grafts[0].module.parameters(), strict=True))
    observation = run.executor.collect(run.step).observations[0]
    assert not observation.HasField("gradient_norm")
    run.arm.grafts[0].is_muted = True
    muted = run.outputs()
    run.arm.grafts[0].is_muted = False
    assert not torch.equal(muted, run.outputs())


@pytest.mark.parametrize("host", ["noisy mlp", "noisy convnet"])
def test_an_incubating_seed_leaves_no_trace_in_the_host(rig, host):
    incubating, plain = rig(host), rig(host)
    slot = "span_linear:fc1-fc2" if host == "noisy mlp" else "span_conv:conv1-conv2"
    blueprint = "span.linear" if host == "noisy mlp" else "span.conv"
    incubating.do(incubating.build(blueprint, slot, width=4), incubating.directive("INCUBATE", duration_steps=6))
    incubating.train(8)
    incubating.do()
    plain.train(8)
    assert incubating.arm.digest() == plain.arm.digest()


def test_incubation_leaves_batchnorm_two_samples_of_a_small_batch(rig):
    incubating = rig("noisy mlp")
    batch = incubating.task.batch
    incubating.task.batch = lambda step: tuple(part[:6] for part in batch(step))
    incubating.do(
        incubating.build("span.linear", "span_linear:fc1-fc2", width=4),
        incubating.directive("INCUBATE", duration_steps=3),
    )
    incubating.train(4)
    assert incubating.do().observations[0].incubation_steps == 3


def test_an_incubated_seed_has_learned_and_enters_with_its_optimiser_state(rig):
    run = rig("mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4), run.directive("INCUBATE", duration_steps=6))
    run.train(6)
    observation = run.do().observations[0]
    assert observation.incubation_steps == 6
    assert observation.isolation_violations == 0
    assert observation.incubation_score.samples == 32
    assert observation.gradient_norm > 0.0
    collected = run.do(run.directive("SNAPSHOT_TWIN"), run.directive("ATTACH", slot_id="x", blend=RAMP))
    assert collected.reports[-1].max_logit_delta == 0.0
    graft = run.arm.grafts[0]
    assert graft.module.write.weight.detach().abs().sum() > 0.0
    assert run.arm.optimizer.state[graft.module.write.weight]["step"] == 6


def test_training_goes_on_while_the_seed_warms_up(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    rates = []
    for _ in range(6):
        run.train(1)
        rates.append(run.arm.optimizer.param_groups[1]["lr"] / run.arm.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert run.executor.alpha_of("s1") == 1.0


def test_host_and_seed_parameters_are_told_apart(rig):
    run = rig("mlp")
    host = {id(parameter) for parameter in run.executor.host_parameters()}
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    assert {id(parameter) for parameter in run.executor.host_parameters()} == host
    assert {id(parameter) for parameter in run.executor.seed_parameters()}.isdisjoint(host)
    assert len(run.executor.seed_parameters()) == 3


def test_directives_for_a_later_step_wait_for_it(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(1)
    assert run.do(run.directive("JUDGE", look=1, at_step=3)).reports == ()
    run.train(1)
    assert run.do().reports == ()
    run.train(1)
    collected = run.do()
    assert [report.step for report in collected.reports] == [3]
    assert collected.observations[0].judgement.look == 1


def test_a_directive_is_done_once(rig):
    run = rig("mlp")
    directive = run.build("span.linear", "span_linear:fc1-fc2", width=4)
    assert len(run.do(directive).reports) == 1
    assert run.do(directive).reports == ()
    assert run.executor.seeds == ("s1",)


def test_rollback_and_halt_are_left_to_the_trainer(rig):
    run = rig("mlp")
    halt = run.directive("HALT", seed_id="", rationale="enough")
    assert run.executor.execute([halt], 0) == (halt,)
    run.executor.report(halt, 0)
    report = run.executor.collect(0).reports[0]
    assert (report.directive_id, report.succeeded) == (halt.directive_id, True)


def test_evidence_is_announced_until_it_is_collected(rig):
    run = rig("mlp")
    assert not run.executor.has_evidence
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    assert not run.executor.has_evidence
    run.executor.execute([run.directive("PROBE")], 0)
    assert run.executor.has_evidence
    run.executor.collect(0)
    assert not run.executor.has_evidence
    run.train(4)
    run.executor.at_boundary(run.step)
    assert run.executor.has_evidence
    assert run.executor.collect(run.step).observations[0].is_schedule_done
    assert not run.executor.has_evidence


def test_an_unjudged_seed_leaves_by_its_twin_at_the_end(rig):
    run, plain = rig("noisy mlp"), rig("noisy mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(5)
    plain.train(5)
    assert run.executor.finish(run.step) == ()
    assert run.arm.digest() == plain.arm.digest()
    assert run.executor.twin is None
    assert run.executor.seeds == ()


def test_without_a_twin_an_unjudged_seed_stays_in_the_host_that_learnt_around_it_and_is_named(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.train(5)
    outputs = run.outputs()
    assert run.executor.finish(run.step) == ("s1",)
    assert torch.equal(run.outputs(), outputs)
    assert run.executor.fossils == {"span_linear:fc1-fc2": 1}
    assert run.executor.finish(run.step) == ()


@pytest.mark.parametrize("is_permanent", [False, True])
def test_a_seed_that_was_ordered_out_leaves_at_the_end_though_its_fade_is_not_over(rig, is_permanent):
    run = rig("mlp")
    run.graft("residual.linear", "residual_linear:act1-act1", width=4, twin=False)
    run.train(5)
    if is_permanent:
        run.do(run.directive("DROP_TWIN"))
    run.do(run.directive("FADE", duration_steps=10))
    run.train(2)
    assert run.executor.finish(run.step) == ()
    assert run.executor.seeds == ()
    assert run.executor.fossils == {}


@pytest.mark.parametrize("in_host", [False, True])
def test_a_seed_that_gives_the_host_nothing_leaves_at_the_end(rig, zero_output, in_host):
    run = rig("mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))
    if in_host:
        run.do(run.directive("ATTACH", slot_id="x", blend=zero_output), run.directive("MUTE"))
        run.train(1)
    outputs = run.outputs()
    assert run.executor.finish(run.step) == ()
    assert run.executor.seeds == ()
    assert torch.equal(run.outputs(), outputs)


def test_the_work_of_twin_and_side_passes_is_counted(rig):
    run = rig("mlp")
    forward = 12 * 6 + 6 * 7 + 7 * 5
    assert run.executor.macs.forward == forward
    assert run.executor.twin_macs.training == 0
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    grown = forward + 4 * (12 + 7)
    assert run.executor.macs.forward == grown
    assert run.executor.twin_macs.forward == forward
    run.do(run.directive("JUDGE", look=1))
    assert run.executor.side_macs == 32 * (2 * grown + forward)


def test_the_manifest_describes_host_and_slots(rig):
    run = rig("convnet", optimizer="sgd")
    manifest = run.executor.manifest()
    assert manifest.optimizer_family == "SGD"
    assert manifest.weights_digest == run.arm.digest()
    assert [spec.path for spec in manifest.submodules] == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert [slot.slot_id for slot in manifest.slots] == ["span_conv:conv1-conv2", "span_conv_linear:conv2-fc"]
    assert manifest.parameters == sum(parameter.numel() for parameter in run.arm.model.parameters())


def test_a_host_without_a_slot_trains_but_has_no_manifest(rig_of, toy_task):
    run = rig_of(nn.Sequential(nn.Linear(12, 5)), toy_task)
    run.train(2)
    with pytest.raises(ConfigError, match=r"no slot where a seed fits; looked at 0 \(Linear\); .*--grow never"):
        run.executor.manifest()


class Refusal(Exception):
    """An error of the host's own."""


class Shy(nn.Module):
    """Trains as it is, and raises its own error as soon as someone looks: at hooks, or at counters of operators."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.fc1, self.act, self.fc2 = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.at == "hooks" and self.fc1._forward_hooks:
            raise Refusal("no hooks, please")
        if self.at == "counters" and _get_current_dispatch_mode() is not None:
            raise Refusal("no counting, please")
        return self.fc2(self.act(self.fc1(x)))


@pytest.mark.parametrize("at", ["hooks", "counters"])
def test_a_host_that_cannot_be_looked_into_trains_and_says_why_it_has_no_slot(rig_of, toy_task, at):
    run = rig_of(Shy(at), toy_task)
    with pytest.raises(ConfigError, match=r"model = 'Shy'.*Refusal: no .*, please; it trains with --grow never"):
        run.executor.manifest()
    run.train(2)
    assert run.executor.collect(2).slots == ()


def test_work_that_cannot_be_counted_is_said(rig_of, toy_task):
    run = rig_of(Shy("counters"), toy_task)
    assert run.executor.uncounted == "Refusal: no counting, please"
    assert run.executor.macs.training == 0


def test_wiring_up_moves_no_counter_of_the_host(rig_of, toy_task):
    host = Shy("nothing")
    run = rig_of(host, toy_task)
    run.graft("span.linear", "span_linear:fc1-fc2", width=3)
    run.executor.manifest()
    assert (run.arm.model.calls, run.executor.twin.model.calls) == (0, 0)
    run.train(1)
    assert (run.arm.model.calls, run.executor.twin.model.calls) == (1, 1)


def test_a_compiled_script_trains_and_says_that_no_seed_can_look_into_it(rig_of, toy_task):
    run = rig_of(torch.jit.script(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5))), toy_task)
    run.train(2)
    with pytest.raises(ConfigError, match="is a compiled script, inside which nothing grows; give the module it is of"):
        run.executor.manifest()
    assert run.executor.macs.forward == 12 * 6 + 6 * 5


def test_whatever_a_host_raises_at_a_graft_fails_the_directive_and_not_the_run(rig_of, toy_task):
    run, plain = rig_of(Shy("nothing"), toy_task), rig_of(Shy("nothing"), toy_task)
    plain.arm.model.load_state_dict(run.arm.model.state_dict())
    slot = "residual_linear:act-act"
    built = run.build("residual.linear", slot, width=3)
    run.arm.model.act.register_forward_hook(refuse_company)
    why = run.failure(built, run.directive("ATTACH", slot_id=slot, blend=RAMP))
    assert why == "Refusal: I was here first"
    for each in (run, plain):
        each.train(3)
    assert run.arm.digest() == plain.arm.digest()


def refuse_company(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
    if len(module._forward_hooks) > 1:
        raise Refusal("I was here first")
