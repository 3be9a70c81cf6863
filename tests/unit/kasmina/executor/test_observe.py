from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from esper.leyline import BlendConfig, BlendMode, BlendSchedule, ConfidenceKind


def test_an_observation_tells_losses_alpha_and_gradients(rig):
    run = rig("mlp")
    run.executor.note_loss(1.5, 0.1)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.executor.note_loss(1.2, None)
    run.train(1)
    observation = run.executor.collect(run.step).observations[0]
    assert (observation.seed_id, observation.step, observation.alpha) == ("s1", 1, 1.0)
    assert (observation.smoothed_loss, observation.smoothed_loss_at_graft) == (1.2, 1.5)
    assert not observation.HasField("smoothed_loss_standard_error")
    assert not observation.is_schedule_done
    assert observation.gradients_finite


def test_evidence_is_told_once(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    assert run.do(run.directive("PROBE")).observations[0].HasField("probe")
    assert not run.do().observations[0].HasField("probe")


def test_a_permanent_seed_is_observed_no_more(rig):
    run = rig("mlp")
    run.graft("gate.channel", "residual_linear:act1-act1")
    run.train(5)
    assert len(run.do(run.directive("DROP_TWIN")).observations) == 0
    assert run.executor.fossils == {"residual_linear:act1-act1": 1}


def test_slot_signals_carry_the_gradient_norm_of_the_slots_layers(rig):
    run = rig("mlp")
    assert not run.do().slots[0].HasField("gradient_norm")
    run.train(1)
    signals = {signal.slot_id: signal for signal in run.do().slots}
    model = run.arm.model
    gradients = [p.grad for layer in (model.fc1, model.fc2) for p in layer.parameters()]
    expected = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert signals["span_linear:fc1-fc2"].gradient_norm == pytest.approx(expected, rel=1e-5)
    assert not signals["residual_linear:act1-act1"].HasField("gradient_norm")


def test_norms_that_the_step_measured_are_not_measured_again(rig):
    run = rig("mlp")
    run.train(1)
    model, before = run.arm.model, {signal.slot_id: signal.gradient_norm for signal in run.do().slots}
    weight, others = model.fc1.weight, [model.fc1.bias, *model.fc2.parameters()]
    run.executor.note_norms({weight: 2 * weight.grad.norm()})
    weighed = {signal.slot_id: signal.gradient_norm for signal in run.do().slots}["span_linear:fc1-fc2"]
    expected = math.hypot(2 * float(weight.grad.norm()), *(float(other.grad.norm()) for other in others))
    assert weighed == pytest.approx(expected, rel=1e-5)
    run.executor.note_norms({})
    assert {signal.slot_id: signal.gradient_norm for signal in run.do().slots} == before


def rising(mode: str, **fields) -> BlendConfig:
    return BlendConfig(
        mode=BlendMode.Value(f"BLEND_MODE_{mode}"),
        alpha_start=0.0,
        alpha_target=1.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=4,
        **fields,
    )


@pytest.mark.parametrize(
    ("blend", "weights"),
    [
        (rising("RESIDUAL"), [0.5]),
        (rising("CONVEX"), [0.5]),
        (rising("CHANNEL", alpha_vec=[0.0, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0]), [0.0, 0.125, 0.25, 0.25, 0.5, 0.5, 0.5]),
    ],
)
def test_the_weights_of_a_blend_are_told(rig, blend, weights):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", blend=blend, width=4)
    run.train(3)
    told = run.do().observations[0].blend
    assert told.alpha_mean == pytest.approx(np.mean(weights))
    assert told.alpha_p95 == pytest.approx(sorted(weights)[math.ceil(0.95 * len(weights)) - 1])
    assert told.sparsity == pytest.approx(np.mean(np.equal(weights, 0)))
    assert told.clamped_fraction == 0
    assert not told.HasField("gate_mean")


def test_a_confidence_blend_tells_its_gate_and_who_has_none(rig):
    run = rig("mlp")
    gate = {"confidence": ConfidenceKind.CONFIDENCE_KIND_MARGIN, "gate_slope": 4.0, "gate_threshold": 0.2}
    blend = rising("CONFIDENCE", **gate, share_max=0.15)
    run.graft("span.linear", "span_linear:fc1-fc2", blend=blend, width=4)
    run.train(3)
    told = run.do().observations[0].blend
    assert 0.2 < told.gate_mean < 1
    assert told.alpha_mean <= told.alpha_p95 <= 0.15 + 1e-6
    assert told.clamped_fraction > 0
    assert told.gateless_samples == 0
    with torch.no_grad():
        run.arm.model.fc3.bias[0] = float("nan")
    run.outputs()
    told = run.do().observations[0].blend
    assert (told.gate_mean, told.sparsity) == (0.0, 1.0)
    assert told.gateless_samples == len(run.task.probe_inputs())
