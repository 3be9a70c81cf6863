"""A seed learns from a teacher while it incubates: the loss is Hinton's, and nobody but the seed notices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.judge.teacher import SHARE, TEMPERATURE, Teacher
from esper.leyline import BlendConfig, BlendMode, BlendSchedule
from tests.unit.kasmina.executor.test_saved import through_a_file

SPAN = "span_linear:fc1-fc2"


def teacher_of(run, seed=3):
    """A wider network with weights of its own."""
    torch.default_generator.manual_seed(seed)
    wide = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).eval()
    with torch.no_grad():
        wide[2].weight *= 4
    return Teacher(wide)


def incubating(rig, *, is_taught, steps=12, host="mlp"):
    run = rig(host)
    teacher = teacher_of(run)
    run.executor.teach(teacher)
    digest = teacher.digest if is_taught else ""
    run.do(
        run.build("span.linear", SPAN, width=6),
        run.directive("INCUBATE", duration_steps=steps, teacher_digest=digest),
    )
    return run, teacher


@torch.no_grad()
def divergence(teacher, run):
    inputs = run.task.inputs[:64]
    return float(teacher.divergence(run.task, inputs, run.arm.model(inputs)))


@torch.no_grad()
def test_the_divergence_is_the_textbooks(rig):
    run = rig("mlp")
    teacher = teacher_of(run)
    inputs = run.task.probe_inputs()
    outputs = run.arm.model(inputs)
    taught = (teacher.module(inputs).double() / TEMPERATURE).softmax(1)
    said = (outputs.double() / TEMPERATURE).softmax(1)
    expected = (taught * (taught / said).log()).sum(1).mean() * TEMPERATURE**2
    assert float(teacher.divergence(run.task, inputs, outputs)) == pytest.approx(float(expected), rel=1e-5)
    assert float(teacher.divergence(run.task, inputs, teacher.module(inputs))) == pytest.approx(0.0, abs=1e-6)


@torch.no_grad()
def test_of_a_text_every_position_counts(rig):
    run = rig("transformer")
    other = copy.deepcopy(run.arm.model)
    with torch.no_grad():
        other.head.weight *= 3
    inputs = run.task.probe_inputs()
    outputs = run.arm.model(inputs)
    found = Teacher(other.eval()).divergence(run.task, inputs, outputs)
    taught, said = ((logits / TEMPERATURE).softmax(-1).double() for logits in (other(inputs), outputs))
    expected = (taught * (taught / said).log()).sum(-1).mean() * TEMPERATURE**2
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_seed_comes_closer_to_its_teacher_and_the_host_notices_nothing(rig):
    far, near = {}, {}
    digests = set()
    for is_taught in (True, False):
        run, teacher = incubating(rig, is_taught=is_taught, steps=60)
        run.train(60)
        digests.add(run.arm.digest())
        observed = run.executor.collect(run.step).observations[0]
        assert observed.HasField("distillation_loss") == is_taught
        far[is_taught] = divergence(teacher, run)
        run.do(run.directive("ATTACH", slot_id=SPAN, blend=rising()))
        run.train(2)
        near[is_taught] = divergence(teacher, run)
    assert len(digests) == 1
    assert far[True] == far[False]
    assert near[True] < near[False]


def rising():
    return BlendConfig(
        mode=BlendMode.BLEND_MODE_RESIDUAL,
        alpha_start=0.0,
        alpha_target=1.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=1,
    )


def test_a_teacher_that_is_dropped_teaches_nobody_and_the_seed_goes_on_by_the_task(rig):
    run, teacher = incubating(rig, is_taught=True)
    plain, _ = incubating(rig, is_taught=False)
    run.do(run.directive("DROP_TEACHER", ""))
    assert run.executor.teacher is None
    run.train(6)
    plain.train(6)
    assert run.executor.collect(run.step).observations == plain.executor.collect(plain.step).observations
    again = run.directive("INCUBATE", "s2", duration_steps=5, teacher_digest=teacher.digest)
    assert "an order made the run forget it" in run.failure(run.build("span.linear", SPAN, "s2", width=4), again)


def test_another_teacher_than_the_one_that_was_registered_is_refused(rig):
    run = rig("mlp")
    incubate = {"duration_steps": 5, "teacher_digest": teacher_of(run).digest}
    build = run.build("span.linear", SPAN, width=4)
    assert "start the run with --teacher" in run.failure(build, run.directive("INCUBATE", **incubate))
    run.executor.teach(teacher_of(run, seed=4))
    assert "has digest" in run.failure(run.directive("INCUBATE", **incubate))


def test_a_taught_seed_goes_on_bit_for_bit_from_a_checkpoint_and_not_without_its_teacher(rig):
    first, teacher = incubating(rig, is_taught=True)
    first.train(4)
    state = through_a_file(first.executor.state_dict())
    second = rig("mlp")
    with pytest.raises(ConfigError, match="give the same --teacher again"):
        second.executor.load_state_dict(state)
    second = rig("mlp")
    second.executor.teach(teacher)
    second.executor.load_state_dict(state)
    second.step = first.step
    first.train(5)
    second.train(5)
    seen = [run.executor.collect(run.step).observations[0] for run in (first, second)]
    assert seen[0] == seen[1]
    assert seen[0].distillation_loss > 0


def test_the_teachers_work_is_booked(rig):
    taught, _ = incubating(rig, is_taught=True)
    plain, _ = incubating(rig, is_taught=False)
    for run in (taught, plain):
        run.train(1)
    assert taught.executor.side_macs - plain.executor.side_macs == 4 * (12 * 16 + 16 * 5)
    assert 0 < SHARE < 1
