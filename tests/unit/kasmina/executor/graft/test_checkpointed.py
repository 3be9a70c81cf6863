"""Hosts whose blocks are checkpointed train, grow and are measured as those that keep their activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.core.errors import ConfigError
from esper.leyline import BlendConfig, BlendMode, BlendSchedule

# What torch says of a pass without gradients, in which none are missed.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
CLASSES = 5


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.drop(self.act(self.fc1(x))))


class Host(nn.Module):
    """Whole blocks under a checkpoint, or each layer of them under one of its own."""

    def __init__(self, how: Callable[..., Any], *, by_layer: bool = False) -> None:
        super().__init__()
        torch.default_generator.manual_seed(2)
        self.first = nn.Linear(12, 12)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(12, CLASSES)
        self.how, self.by_layer = how, by_layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            if self.by_layer:
                hidden = self.how(block.fc1, x)
                x = x + self.how(block.fc2, block.drop(block.act(hidden)))
            else:
                x = self.how(block, x)
        return self.head(x)


def keeping(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def again(function: Callable[..., Any], *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False)


def reentrant(function: Callable[..., Any], *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=True)


RAMP = BlendConfig(
    mode=BlendMode.BLEND_MODE_CONVEX,
    alpha_target=0.8,
    alpha_start=0.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=4,
)
ZERO_OUTPUT = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_target=1.0,
    alpha_start=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD,
    schedule_steps=4,
)
SPLIT = ("blocks.0.fc1-blocks.0.fc2", "blocks.1.fc1-blocks.1.fc2")
SEEDS: list[tuple[str, str, dict[str, Any]]] = [
    ("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", {"width": 4}),
    ("residual.linear", "residual_linear:blocks.1-blocks.1", {"width": 3}),
    ("gate.channel", "residual_linear:blocks.0.act-blocks.0.act", {"blend": RAMP}),
]


@pytest.mark.parametrize("how", [again, reentrant])
@pytest.mark.parametrize(("blueprint", "slot", "options"), SEEDS)
def test_a_grown_checkpointed_run_is_bit_for_bit_the_one_that_keeps(rig_of, toy_task, how, blueprint, slot, options):
    runs = rig_of(Host(keeping), toy_task), rig_of(Host(how), toy_task)
    for run in runs:
        run.train(2)
        run.graft(blueprint, slot, **options)
        run.train(6)
        run.do(run.directive("PROBE"), run.directive("JUDGE", look=1))
    plain, rerun = runs
    assert plain.arm.digest() == rerun.arm.digest()
    assert plain.executor.twin.digest() == rerun.executor.twin.digest()
    assert plain.arm.digest() != plain.executor.twin.digest()


@pytest.mark.parametrize("how", [again, reentrant])
def test_what_a_checkpoint_runs_again_is_no_needed_work(rig_of, toy_task, how):
    plain, rerun = rig_of(Host(keeping), toy_task), rig_of(Host(how), toy_task)
    macs = plain.executor.macs
    assert (rerun.executor.macs.forward, rerun.executor.macs.training) == (macs.forward, macs.training)
    assert macs.training == 3 * macs.forward - 12 * 12
    assert rerun.executor.macs.is_reentrant == (how is reentrant)


@pytest.mark.parametrize("how", [again, reentrant])
def test_counting_and_probing_leave_the_gradients_of_the_last_step(rig_of, toy_task, how):
    run = rig_of(Host(how), toy_task)
    run.graft("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", width=4)
    run.train(6)
    before = [parameter.grad for parameter in run.executor.host_parameters()]
    run.do(run.directive("PROBE"))
    run.do(run.directive("FOLD", "s1"))
    run.executor.manifest()
    after = [parameter.grad for parameter in run.executor.host_parameters()]
    kept = [a is b for a, b in zip(before, after, strict=True)]
    assert kept.count(False) == 3


def test_a_span_over_two_checkpoints_keeps_its_input_for_the_second_pass(rig_of, toy_task):
    runs = rig_of(Host(keeping), toy_task), rig_of(Host(again, by_layer=True), toy_task, slots=SPLIT)
    for run in runs:
        run.graft("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", width=4)
        run.train(4)
    assert runs[0].arm.digest() == runs[1].arm.digest()
    assert runs[1].arm.grafts[0]._spent is None


def test_a_span_that_begins_and_ends_in_different_reentrant_checkpoints_is_not_offered(rig_of, toy_task):
    whole, split = rig_of(Host(reentrant), toy_task), rig_of(Host(reentrant, by_layer=True), toy_task)
    names = [slot.slot_id for slot in whole.executor.manifest().slots]
    assert names.count("span_linear:blocks.0.fc1-blocks.0.fc2") == 1
    assert "span_linear" not in " ".join(slot.slot_id for slot in split.executor.manifest().slots)
    assert any("different re-entrant checkpoints" in reason for reason in split.executor.places.unseen)
    named = rig_of(Host(reentrant, by_layer=True), toy_task, slots=SPLIT)
    with pytest.raises(
        ConfigError, match=r"slots = 'span_linear:blocks.0.fc1-blocks.0.fc2'.*give them use_reentrant=False"
    ):
        named.executor.manifest()
    assert rig_of(Host(again, by_layer=True), toy_task, slots=SPLIT).executor.manifest().slots


def test_a_span_that_becomes_cut_is_refused_and_training_goes_on(rig_of, toy_task):
    run, plain = rig_of(Host(again, by_layer=True), toy_task, slots=SPLIT), rig_of(Host(keeping), toy_task)
    run.arm.model.how = reentrant
    slot = "span_linear:blocks.0.fc1-blocks.0.fc2"
    why = run.failure(
        run.build("span.linear", slot, width=4), run.directive("ATTACH", slot_id=slot, blend=ZERO_OUTPUT, isolate=False)
    )
    assert why.endswith("cuts seed s1's gradient: use checkpoint(..., use_reentrant=False)")
    for each in (run, plain):
        each.train(3)
    assert run.arm.digest() == plain.arm.digest()


def test_where_isolation_cannot_be_proven_it_is_refused(rig_of, toy_task):
    run = rig_of(Host(reentrant), toy_task)
    slot = "span_linear:blocks.0.fc1-blocks.0.fc2"
    built = run.build("span.linear", slot, width=4)
    why = run.failure(built, run.directive("INCUBATE", duration_steps=4))
    assert "isolation can't be proven" in why
    assert "use_reentrant=False" in why
    why = run.failure(run.directive("ATTACH", slot_id=slot, blend=ZERO_OUTPUT, isolate=True))
    assert "isolation can't be proven" in why


def test_a_host_whose_hooks_act_on_accumulated_gradients_is_not_moved_by_counting(rig_of, toy_task):
    host = Host(reentrant)
    moved: list[Tensor] = []
    host.head.weight.register_post_accumulate_grad_hook(moved.append)
    run = rig_of(host, toy_task)
    assert moved == []
    assert "re-entrant" in run.executor.uncounted
    with pytest.raises(ConfigError, match="re-entrant"):
        run.executor.manifest()


def test_an_incubating_seed_in_a_checkpointed_host_leaves_no_trace(rig_of, toy_task):
    run, plain = rig_of(Host(again), toy_task), rig_of(Host(keeping), toy_task)
    slot = "span_linear:blocks.0.fc1-blocks.0.fc2"
    run.do(run.build("span.linear", slot, width=4), run.directive("INCUBATE", duration_steps=4))
    for each in (run, plain):
        each.train(5)
    assert run.arm.digest() == plain.arm.digest()
