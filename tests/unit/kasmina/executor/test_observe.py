from __future__ import annotations

import math

import pytest


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
