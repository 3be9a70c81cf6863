"""A paused seed is out of the forward pass and stays as it is; when it goes on, nothing of its course is missing."""

from __future__ import annotations

import pytest
import torch

from esper.leyline import BlendConfig, BlendMode, BlendSchedule
from esper.tolaria.ranks.replica import has_unused, taking_part
from tests.unit.kasmina.executor.test_saved import through_a_file

SPAN = "span_linear:fc1-fc2"
RISING = BlendConfig(
    mode=BlendMode.BLEND_MODE_CONVEX,
    alpha_start=0.0,
    alpha_target=0.8,
    schedule=BlendSchedule.BLEND_SCHEDULE_COSINE,
    schedule_steps=20,
)


def state_of(run):
    """Weights and moments of the seed."""
    parameters = list(run.arm.graft("s1").module.parameters())
    moments = [run.arm.optimizer.state[parameter] for parameter in parameters]
    return [parameter.detach().clone() for parameter in parameters] + [
        value.clone() for entry in moments for value in entry.values() if isinstance(value, torch.Tensor)
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_weights_and_moments_stay_while_the_host_trains_as_without_it(rig, optimizer):
    run = rig("mlp", optimizer=optimizer)
    run.graft("span.linear", SPAN, width=4)
    run.do(run.directive("MUTE"))
    run.train(6)
    assert run.arm.model.state_dict()["fc1.weight"].equal(run.executor.twin.model.state_dict()["fc1.weight"])
    run.do(run.directive("UNMUTE"))
    run.train(5)
    before = state_of(run)
    assert len(before) > len(list(run.arm.graft("s1").module.parameters()))
    run.do(run.directive("MUTE"))
    run.train(7)
    assert all(a.equal(b) for a, b in zip(before, state_of(run), strict=True))
    observed = run.do().observations[0]
    assert (observed.alpha, run.executor.alpha_of("s1")) == (0.0, 0.0)
    assert not observed.HasField("blend")
    run.do(run.directive("UNMUTE"))
    run.train(1)
    assert not all(a.equal(b) for a, b in zip(before, state_of(run), strict=True))


def test_the_work_of_a_paused_seed_is_not_counted(rig):
    run = rig("mlp")
    run.graft("span.linear", SPAN, width=4)
    grown, topology = run.executor.macs, run.executor.topology
    run.do(run.directive("MUTE"))
    assert run.executor.macs.forward == grown.forward - 4 * (12 + 7)
    assert run.executor.topology > topology
    run.do(run.directive("UNMUTE"))
    assert run.executor.macs == grown


def test_alpha_and_judgement_are_put_off_by_the_pause(rig):
    run = rig("mlp")
    run.graft("span.linear", SPAN, blend=RISING, width=4)
    run.executor.execute([run.directive("JUDGE", look=1, at_step=30)], 0)
    run.train(10)
    middle = run.do().observations[0].alpha
    assert middle == pytest.approx(0.4)
    run.do(run.directive("MUTE"))
    run.train(25)
    assert not run.do().observations[0].is_schedule_done
    run.executor.execute([run.directive("PROBE")], run.step)
    assert not run.do().observations[0].HasField("judgement")
    found = run.do(run.directive("UNMUTE")).observations[0]
    assert found.alpha == middle
    assert found.HasField("probe")
    run.train(19)
    assert not run.do().observations[0].HasField("judgement")
    run.train(1)
    found = run.do().observations[0]
    assert found.HasField("judgement")
    assert (found.is_schedule_done, found.alpha) == (True, 0.8)


def test_an_incubating_seed_stops_learning_and_goes_on(rig):
    run = rig("mlp")
    run.do(run.build("span.linear", SPAN, width=4), run.directive("INCUBATE", duration_steps=12))
    run.train(5)
    run.do(run.directive("MUTE"))
    run.train(20)
    observed = run.do().observations[0]
    assert observed.incubation_steps == 5
    assert not observed.HasField("incubation_score")
    run.do(run.directive("UNMUTE"))
    run.train(7)
    observed = run.do().observations[0]
    assert observed.incubation_steps == 12
    assert observed.HasField("incubation_score")


def test_a_paused_seed_goes_on_bit_for_bit_from_a_checkpoint(rig):
    def paused(run):
        run.graft("span.linear", SPAN, blend=RISING, width=4)
        run.train(5)
        run.executor.execute([run.directive("MUTE"), run.directive("JUDGE", look=1, at_step=15)], run.step)
        run.train(4)

    def go_on(run):
        run.do(run.directive("UNMUTE"))
        run.train(10)
        return run.do().observations[0].SerializeToString(deterministic=True), run.arm.digest()

    first, second = rig("noisy mlp"), rig("noisy mlp")
    paused(first)
    second.executor.load_state_dict(through_a_file(first.executor.state_dict()))
    second.step = first.step
    second.prefix = "e"
    second.train(3)
    first.train(3)
    assert second.executor.alpha_of("s1") == 0.0
    assert go_on(first) == go_on(second)


def test_a_paused_seed_is_culled_by_its_twin_or_by_removal(rig):
    run = rig("mlp")
    run.graft("span.linear", SPAN, width=4)
    run.train(3)
    twin = run.executor.twin.digest()
    run.do(run.directive("MUTE"), run.directive("INSTALL_TWIN"))
    assert run.arm.digest() == twin
    run.graft("span.linear", SPAN, "s2", twin=False, width=4)
    run.do(run.directive("MUTE", "s2"), run.directive("FADE", "s2", duration_steps=3))
    run.train(3)
    run.do()
    assert run.executor.alpha_of("s2") == 0.0
    assert run.arm.graft("s2") is None


def test_what_cant_be_done_is_told(rig):
    run = rig("mlp")
    run.graft("span.linear", SPAN, width=4)
    assert "isn't paused" in run.failure(run.directive("UNMUTE"))
    run.do(run.directive("MUTE"))
    assert "paused already, since step 0" in run.failure(run.directive("MUTE"))
    stacked = rig("transformer")
    stacked.stack()
    assert "can't be paused" in stacked.failure(stacked.directive("MUTE"))


def test_what_ranks_reduce_is_what_takes_part(rig):
    """A reduction that expected gradients of a paused seed would wait for them in vain."""
    run = rig("mlp")
    run.graft("span.linear", SPAN, width=4)
    assert taking_part(run.arm) == [run.arm.model, run.arm.grafts[0].module]
    run.do(run.directive("MUTE"))
    assert taking_part(run.arm) == [run.arm.model]
    assert not has_unused(run.arm, run.task)
