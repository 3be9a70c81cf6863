"""Each directive is done wholly or not at all, and says why not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.leyline import BlendConfig, BlendMode, BlendSchedule, ConfidenceKind, DirectiveKind, OptimizerAdjustment


def test_a_damaged_artefact_is_not_built(rig):
    run = rig("mlp")
    directive = run.build("span.linear", "span_linear:fc1-fc2", width=4)
    run.recipes[directive.artifact_digest] += b"\x00"
    assert "damaged or exchanged" in run.failure(directive)
    assert run.executor.seeds == ()


def test_an_artefact_of_another_blueprint_is_not_built(rig):
    run = rig("mlp")
    directive = run.build("span.linear", "span_linear:fc1-fc2", width=4)
    directive.blueprint_id = "residual.linear"
    assert "is for 'span.linear', expected 'residual.linear'" in run.failure(directive)


@pytest.mark.parametrize(
    ("blueprint", "slot", "parameters", "complaint"),
    [
        ("span.conv", "span_linear:fc1-fc2", {"width": 4}, "span.conv fits SLOT_KIND_SPAN_CONV"),
        ("span.linear", "span_linear:fc7-fc8", {"width": 4}, "no slot 'span_linear:fc7-fc8'"),
        ("span.linear", "span_linear:fc1-fc2", {"width": 2.5}, "width is 2.5, expected a whole number"),
        ("span.linear", "span_linear:fc1-fc2", {}, "width is None, expected a whole number"),
        ("adapter.low_rank", "residual_linear:act1-act1", {"rank": 7}, "rank 7 exceeds the 6 features"),
        ("attention.self", "residual_linear:act1-act1", {"heads": 1, "head_size": 2}, "has no positions"),
        ("control.random_frozen", "residual_linear:act1-act1", {"width": 2, "scale": 0.0}, "scale is 0.0"),
        ("unheard.of", "span_linear:fc1-fc2", {}, "names factory 'unheard.of', which this executor lacks"),
    ],
)
def test_a_seed_that_does_not_fit_is_refused_by_name(rig, blueprint, slot, parameters, complaint):
    run = rig("mlp")
    failure = run.failure(run.build(blueprint, slot, **parameters))
    assert any(part in failure for part in complaint.split("|"))
    assert run.executor.seeds == ()


def test_a_language_model_takes_no_seed_that_reads_later_tokens(rig):
    run = rig("transformer")
    run.graft("attention.self", "residual_linear:blocks.0-blocks.0", heads=2, head_size=4)
    run.train(6)
    tokens = run.task.probe_inputs().clone()
    with run.arm.measured(1):
        before = run.arm.model(tokens)
        tokens[:, -1] = (tokens[:, -1] + 1) % 7
        after = run.arm.model(tokens)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_a_seed_that_was_not_built_cannot_be_attached(rig, zero_output):
    run = rig("mlp")
    assert "isn't built here" in run.failure(run.directive("ATTACH", slot_id="x", blend=zero_output))


def test_a_failed_graft_is_undone_completely(rig, zero_output):
    run, plain = rig("noisy mlp"), rig("noisy mlp")
    run.train(2)
    run.do(run.directive("SNAPSHOT_TWIN"), run.build("span.linear", "span_linear:fc1-fc2", width=4))
    with torch.no_grad():
        run.executor._state.lives["s1"].module.write.weight.fill_(float("inf"))
    assert "not finite" in run.failure(run.directive("ATTACH", slot_id="x", blend=zero_output))
    assert run.arm.grafts == []
    assert len(run.arm.optimizer.param_groups) == 1
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in run.arm.model.modules())
    run.train(3)
    plain.train(5)
    assert run.arm.digest() == plain.arm.digest()


def test_a_seed_of_the_wrong_shape_is_refused_at_the_graft(rig, zero_output):
    run = rig("mlp")
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))
    run.executor._state.lives["s1"].module.write = nn.Linear(4, 9, bias=False)
    assert run.failure(run.directive("ATTACH", slot_id="x", blend=zero_output))
    assert run.arm.grafts == []
    run.train(1)


def test_only_one_twin_lives_at_a_time(rig):
    run = rig("mlp")
    run.do(run.directive("SNAPSHOT_TWIN"))
    assert "there is a twin already" in run.failure(run.directive("SNAPSHOT_TWIN"))
    run.do(run.directive("DROP_TWIN"))
    assert "no twin to install" in run.failure(run.directive("INSTALL_TWIN"))


def test_a_blend_can_be_replaced_and_a_seed_muted(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(5)
    half = BlendConfig(
        mode=BlendMode.BLEND_MODE_RESIDUAL,
        alpha_start=0.5,
        alpha_target=0.5,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=0,
    )
    run.do(run.directive("SET_BLEND", blend=half))
    assert run.executor.alpha_of("s1") == 0.5
    run.do(run.directive("MUTE"))
    assert run.executor.alpha_of("s1") == 0.0
    muted = run.outputs()
    run.arm.grafts[0].is_muted = True
    assert torch.equal(run.outputs(), muted)


def test_a_fading_seed_leaves_when_alpha_is_0_and_is_reported_then(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4, twin=False)
    run.train(5)
    assert run.do(run.directive("FADE", duration_steps=4), run.directive("REMOVE")).reports == ()
    alphas = []
    for _ in range(4):
        run.train(1)
        alphas.append(run.executor.alpha_of("s1"))
    assert alphas == pytest.approx([1.0, 0.75, 0.5, 0.25])
    before = {id(parameter): run.arm.optimizer.state[parameter] for parameter in run.executor.host_parameters()}
    reports = run.do(run.directive("CHECK_RESET")).reports
    assert [DirectiveKind.Name(report.kind)[15:] for report in reports] == ["CHECK_RESET", "FADE", "REMOVE"]
    assert list(reports[0].remains) != []
    assert list(run.do(run.directive("CHECK_RESET")).reports[0].remains) == []
    assert run.arm.grafts == []
    assert len(run.arm.optimizer.param_groups) == 1
    assert all(
        run.arm.optimizer.state[parameter] is before[id(parameter)] for parameter in run.executor.host_parameters()
    )


def test_remains_are_found_and_named(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    remains = list(run.do(run.directive("CHECK_RESET")).reports[0].remains)
    assert remains == [
        "a tap on fc1",
        "a tap on fc2",
        "a graft of the main arm",
        "a parameter group of the optimiser",
        "a twin",
        "the seed's record",
    ]


def test_optimiser_changes_reach_both_arms_and_their_schedules(rig):
    run = rig("mlp", optimizer="adamw")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    change = OptimizerAdjustment(learning_rate_factor=0.5, momentum=0.8, weight_decay=0.3)
    run.do(run.directive("ADJUST_OPTIMIZER", seed_id="", optimizer=change))
    run.train(6)
    for arm in (run.arm, run.executor.twin):
        for group in arm.optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.005)
            assert group["betas"] == (0.8, 0.999)
            assert group["weight_decay"] == 0.3


def test_biases_without_weight_decay_stay_without(rig):
    run = rig("mlp")
    weights = [part for part in run.arm.model.parameters() if part.dim() == 2]
    biases = [part for part in run.arm.model.parameters() if part.dim() == 1]
    run.arm.optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    )
    change = OptimizerAdjustment(weight_decay=0.3)
    run.do(run.directive("ADJUST_OPTIMIZER", seed_id="", optimizer=change))
    assert [group["weight_decay"] for group in run.arm.optimizer.param_groups] == [0.3, 0.0]


def test_a_setting_that_the_optimiser_lacks_is_refused_before_anything_changes(rig_of, toy_task):
    torch.default_generator.manual_seed(1)
    run = rig_of(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)), toy_task)
    run.arm.optimizer = torch.optim.Adagrad(run.arm.model.parameters(), lr=0.1)
    change = OptimizerAdjustment(learning_rate_factor=0.5, momentum=0.8)
    assert "Adagrad has no momentum" in run.failure(run.directive("ADJUST_OPTIMIZER", seed_id="", optimizer=change))
    assert run.arm.optimizer.param_groups[0]["lr"] == 0.1


BY_ENTROPY = BlendConfig(
    mode=BlendMode.BLEND_MODE_CONFIDENCE,
    alpha_start=0.0,
    alpha_target=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=2,
    confidence=ConfidenceKind.CONFIDENCE_KIND_ENTROPY,
    gate_slope=4.0,
    gate_threshold=0.2,
)


def test_a_confidence_blend_gates_each_sample_by_the_hosts_own_logits(rig):
    run, plain = rig("noisy mlp"), rig("noisy mlp")
    run.train(2)
    report = run.graft("residual.linear", "residual_linear:act1-act1", blend=BY_ENTROPY, width=4).reports[-1]
    assert report.max_logit_delta == 0.0
    plain.train(7)
    run.train(5)
    assert run.executor.twin.digest() == plain.arm.digest()
    gate = run.arm.grafts[0]._state.gate
    assert gate.shape == (16,)
    assert gate.unique().numel() > 1


def test_a_blend_changed_to_confidence_and_back_asks_for_logits_only_in_between(rig, zero_output):
    run = rig("noisy mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(2)
    run.do(run.directive("SET_BLEND", blend=BY_ENTROPY))
    run.train(2)
    graft = run.arm.grafts[0]
    assert graft._state.gate.shape == (16,)
    assert len(run.arm.model._forward_pre_hooks) == 1
    run.do(run.directive("SET_BLEND", blend=zero_output))
    run.train(1)
    assert not run.arm.model._forward_pre_hooks


def test_a_blend_that_the_host_cannot_feed_is_refused_and_the_old_one_stays(rig):
    run = rig("transformer")
    run.graft("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", width=4)
    before = run.arm.grafts[0].blend
    assert "logits" in run.failure(run.directive("SET_BLEND", blend=BY_ENTROPY))
    assert run.arm.grafts[0].blend is before
    run.train(1)


def test_a_host_without_class_logits_refuses_a_confidence_blend(rig):
    run = rig("transformer")
    blend = BlendConfig(
        mode=BlendMode.BLEND_MODE_CONFIDENCE,
        alpha_start=1.0,
        alpha_target=1.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=0,
        confidence=ConfidenceKind.CONFIDENCE_KIND_MARGIN,
        gate_slope=4.0,
        gate_threshold=0.2,
    )
    run.do(run.build("gate.channel", "residual_linear:blocks.0-blocks.0"))
    assert "needs logits [samples, classes]" in run.failure(run.directive("ATTACH", slot_id="x", blend=blend))
    assert run.arm.grafts == []


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 6)
        self.fc2 = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.fc1(x))
        return self.fc2(hidden), hidden


class Wordy(TwoOutputs):
    def forward(self, x: Tensor) -> str:
        return str(super().forward(x))


def test_a_host_that_returns_no_tensor_is_told_so(rig_of, toy_task):
    with pytest.raises(ConfigError, match=r"Wordy.*returns str, expected a tensor"):
        rig_of(Wordy(), toy_task)


def test_an_unknown_directive_kind_is_reported_as_failed(rig):
    run = rig("mlp")
    directive = run.directive("PROBE")
    directive.kind = 999
    assert "directive kind 999" in run.failure(directive)


def test_an_earlier_seed_that_is_pruned_under_a_twin_leaves_the_twin_too(rig):
    run = rig("mlp")
    run.graft("residual.linear", "residual_linear:act1-act1", width=4)
    run.train(5)
    run.do(run.directive("DROP_TWIN"))
    run.graft("span.linear", "span_linear:fc1-fc2", "s2", width=4)
    run.train(2)
    run.do(run.directive("FADE", duration_steps=2))
    assert "a graft of the twin" in run.do(run.directive("CHECK_RESET")).reports[0].remains
    run.train(2)
    run.do()
    assert list(run.do(run.directive("CHECK_RESET")).reports[0].remains) == []
    run.do(run.directive("INSTALL_TWIN", "s2"))
    assert run.executor.seeds == ()
    assert run.arm.grafts == []
    assert len(run.arm.optimizer.param_groups) == 1
    run.train(1)


def test_a_hook_that_raises_anything_fails_its_directive_and_not_the_run(rig, zero_output):
    class OddError(Exception):
        pass

    def hook(module, arguments, output):
        if grafted:
            raise OddError("as users do")

    run, grafted = rig("mlp"), []
    run.do(run.build("span.linear", "span_linear:fc1-fc2", width=4))
    run.arm.model.fc2.register_forward_hook(hook)
    grafted.append(True)
    assert "as users do" in run.failure(run.directive("ATTACH", slot_id="x", blend=zero_output))


def test_a_seed_that_leaves_the_process_fails_its_directive_and_nothing_else(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(2)

    def leave(*_: object) -> None:
        raise SystemExit(5)

    run.arm.graft("s1").module.forward = leave
    failure = run.failure(run.directive("PROBE"))
    assert "sys.exit(5) was called" in failure
