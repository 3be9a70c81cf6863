"""A stack in the executor: found, grafted with its proof, evaluated, kept as part of the host or undone bit for bit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from esper.core.errors import ConfigError
from esper.leyline import SlotKind
from tests.unit.kasmina.executor.conftest import Block, TokenTask, Transformer

SLOT = "stack:blocks"


class OneBlock(Transformer):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block())


class Impatient(Transformer):
    """Runs the first two of its blocks, however many there are."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in list(self.blocks)[:2]:
            x = block(x)
        return self.head(x)


def stack_spec(run):
    return next(slot for slot in run.executor.manifest().slots if slot.kind == SlotKind.SLOT_KIND_STACK)


def test_a_run_of_blocks_is_a_slot_with_its_sizes_and_its_work(rig):
    spec = stack_spec(rig("transformer"))
    assert (spec.slot_id, spec.depth, spec.order) == (SLOT, 2, max(1, spec.order))
    assert spec.block_parameters == 2 * 8 + 8 * 12 + 12 + 12 * 8 + 8
    assert spec.block_forward_macs == 8 * 2 * 8 * 12
    assert (spec.in_features, spec.read_positions) == (8, 8)


def test_the_models_own_slots_come_as_before_and_a_stack_can_be_named_alone(rig):
    every = [slot.slot_id for slot in rig("transformer").executor.manifest().slots]
    named = [slot.slot_id for slot in rig("transformer", slots=(SLOT,)).executor.manifest().slots]
    assert every[-1] == SLOT
    assert named == [SLOT]


@pytest.mark.parametrize(
    ("model", "name", "why"),
    [(OneBlock, SLOT, "it has one block"), (Transformer, "stack:heads", "is no list of blocks")],
)
def test_a_named_run_that_is_none_is_refused_in_one_line(rig_of, model, name, why):
    with pytest.raises(ConfigError, match=why):
        rig_of(model(), TokenTask(), slots=(name,)).executor.manifest()


def test_lists_that_are_no_runs_are_told_with_the_reason(rig_of):
    (line,) = rig_of(OneBlock(), TokenTask()).executor.places.refused_runs
    assert line == "blocks: it has one block, a run needs two"


def test_a_stack_deepens_the_arm_and_not_the_twin_and_says_what_it_did(rig):
    run = rig("transformer")
    run.train(2)
    before = run.executor.parameters, run.executor.macs.forward
    report = run.stack().reports[-1]
    spec, executor = stack_spec(run), run.executor
    assert len(executor.arm.model.blocks) == 4
    assert len(executor.twin.model.blocks) == 2
    assert report.added_parameters == executor.parameters - before[0] == 2 * spec.block_parameters
    assert report.added_forward_macs == executor.macs.forward - before[1] == 2 * spec.block_forward_macs
    assert report.max_logit_delta > 0.0
    assert executor.alpha_of("s1") == 1.0
    (signal,) = [signal for signal in executor.collect(run.step).slots if signal.slot_id == SLOT]
    assert signal.depth == 4


def test_a_part_of_the_run_is_its_last_blocks(rig):
    run = rig("transformer")
    run.train(2)
    first = run.arm.model.blocks[0].fc1.weight.detach().clone()
    last = run.arm.model.blocks[1].fc1.weight.detach().clone()
    run.stack(blocks=1)
    weights = [block.fc1.weight for block in run.arm.model.blocks]
    assert all(torch.equal(a, b) for a, b in zip(weights, [first, last, last], strict=True))


def test_what_ends_the_branches_is_halved_in_originals_and_copies_alike(rig):
    run = rig("transformer", halves_ends=True)
    run.train(2)
    before = {name: value.clone() for name, value in run.arm.model.state_dict().items()}
    run.stack()
    after = run.arm.model.state_dict()
    for place in range(4):
        for name in ("norm.weight", "fc1.weight", "fc2.weight", "fc2.bias"):
            factor = 0.5 if name.startswith("fc2") else 1.0
            assert torch.equal(after[f"blocks.{place}.{name}"], factor * before[f"blocks.{place % 2}.{name}"])
    assert torch.equal(run.executor.twin.model.blocks[1].fc2.weight, before["blocks.1.fc2.weight"])


def test_a_stack_repeats_blocks_as_they_are_unless_it_is_asked_to(rig):
    run = rig("transformer")
    run.train(2)
    before = run.arm.model.blocks[1].fc2.weight.detach().clone()
    run.stack()
    assert torch.equal(run.arm.model.blocks[3].fc2.weight, before)
    assert run.executor.places.halved_by(SLOT) == ()


def test_a_stack_that_is_undone_by_hand_gives_the_ends_back(rig):
    run = rig("transformer", halves_ends=True)
    run.train(2)
    before = run.arm.digest()
    run.stack()
    run.do(run.directive("REMOVE"))
    assert run.arm.digest() == before


def test_what_would_be_halved_is_known_before_the_first_step(rig):
    run = rig("transformer", halves_ends=True)
    with torch.no_grad():
        for block in run.arm.model.blocks:
            block.fc2.weight.zero_()
            block.fc2.bias.zero_()
    run.executor.places.try_stacks()
    assert run.executor.places.halved_by(SLOT) == ("fc2",)


def test_blocks_that_do_not_run_are_taken_out_again(rig_of):
    run, plain = (rig_of(Impatient(), TokenTask()) for _ in range(2))
    plain.arm.model.load_state_dict(run.arm.model.state_dict())
    parts = [run.directive("SNAPSHOT_TWIN"), run.build("stack.double", SLOT)]
    why = run.failure(*parts, run.directive("ATTACH", slot_id=SLOT, blend={}))
    assert "ran 0 times" in why
    assert len(run.arm.model.blocks) == 2
    run.do(run.directive("INSTALL_TWIN"))
    for each in (run, plain):
        each.train(3)
    assert run.arm.digest() == plain.arm.digest()


def test_an_out_of_memory_takes_the_copies_out_again(rig):
    run = rig("transformer")
    loss, run.task.loss = run.task.loss, None

    def exhausted(outputs, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.task.loss = exhausted
    parts = [run.directive("SNAPSHOT_TWIN"), run.build("stack.double", SLOT)]
    assert "out of memory" in run.failure(*parts, run.directive("ATTACH", slot_id=SLOT, blend={}))
    run.task.loss = loss
    assert len(run.arm.model.blocks) == 2
    assert sum(len(group["params"]) for group in run.arm.optimizer.param_groups) == len(
        list(run.arm.model.parameters())
    )


def test_what_copies_hold_is_their_own_and_a_checkpoint_can_still_be_made(rig_of):
    model = Transformer()
    for block in model.blocks:
        block.guard = threading.Lock()
    run = rig_of(model, TokenTask())
    assert run.arm.unkept() == []
    run.stack()
    assert run.arm.unkept() == []
    guards = {id(block.guard) for block in run.arm.model.blocks}
    assert len(guards) == 4
    run.arm.take_out_copies()
    assert run.arm.unkept() == []


def test_a_stack_without_a_twin_is_refused(rig):
    run = rig("transformer")
    why = run.failure(run.build("stack.double", SLOT), run.directive("ATTACH", slot_id=SLOT, blend={}))
    assert "undone by its twin alone" in why


def test_a_module_inside_the_blocks_keeps_them_from_being_repeated(rig):
    run = rig("transformer")
    slot_id = next(slot.slot_id for slot in run.executor.manifest().slots if slot.write_path.startswith("blocks.0."))
    blueprint = "span.linear" if slot_id.startswith("span") else "residual.linear"
    run.graft(blueprint, slot_id, "s0", width=2)
    run.do(run.directive("DROP_TWIN", "s0"))
    parts = [run.directive("SNAPSHOT_TWIN"), run.build("stack.double", SLOT)]
    why = run.failure(*parts, run.directive("ATTACH", slot_id=SLOT, blend={}))
    assert "holds seeds of their own (s0)" in why


def test_a_stacks_recipe_fits_no_other_slot_and_no_other_recipe_fits_a_stack(rig):
    run = rig("transformer")
    other = next(slot.slot_id for slot in run.executor.manifest().slots if slot.slot_id != SLOT)
    assert "one of them is a stack's" in run.failure(run.build("stack.double", other))
    assert "one of them is a stack's" in run.failure(run.build("span.linear", SLOT, width=2))


def test_evaluations_come_at_their_very_steps_and_in_order(rig):
    run = rig("transformer")
    run.train(1)
    run.stack()
    side = run.executor.side_macs
    run.executor.execute([run.directive("JUDGE", look=1, at_step=step) for step in (3, 4, 6)], run.step)
    run.train(4)
    (first,) = run.executor.collect(run.step).observations
    run.train(2)
    (second,) = run.executor.collect(run.step).observations
    assert [part.step for part in first.evaluations] == [3, 4]
    assert [part.step for part in second.evaluations] == [6]
    one = first.evaluations[0]
    assert one.twin.samples == 16
    assert one.twin.variance > 0.0
    assert 0.0 <= one.clipped_share <= 1.0
    assert run.executor.side_macs > side


def test_an_evaluation_leaves_no_trace(rig):
    run, plain = rig("transformer"), rig("transformer")
    for each in (run, plain):
        each.stack()
    run.executor.execute([run.directive("JUDGE", look=1, at_step=step) for step in (1, 2)], run.step)
    for each in (run, plain):
        each.train(4)
    assert run.arm.digest() == plain.arm.digest()
    assert run.executor.twin.digest() == plain.executor.twin.digest()


def test_a_culled_stack_ends_in_the_never_grafted_run_and_leaves_nothing(rig):
    run, plain = rig("transformer", optimizer="adamw"), rig("transformer", optimizer="adamw")
    for each in (run, plain):
        each.train(3)
    run.stack()
    run.executor.execute([run.directive("JUDGE", look=1, at_step=99)], run.step)
    run.train(4)
    run.do(run.directive("INSTALL_TWIN"))
    (report,) = run.do(run.directive("CHECK_RESET")).reports
    assert list(report.remains) == []
    plain.train(4)
    for each in (run, plain):
        each.train(3)
    assert run.arm.digest() == plain.arm.digest()
    assert stack_spec(run).depth == 2


def test_a_kept_stack_is_plain_pytorch_and_is_stacked_again(rig):
    run = rig("transformer")
    run.stack()
    run.train(2)
    run.executor.execute([run.directive("JUDGE", look=2, at_step=50)], run.step)
    run.do(run.directive("DROP_TWIN"))
    assert run.executor.seeds == ()
    assert not run.executor.is_unsettled
    assert run.executor.fossils == {SLOT: 1}
    deeper = Transformer()
    deeper.blocks = nn.Sequential(OrderedDict((str(i), Block()) for i in range(4)))
    deeper.load_state_dict(run.arm.model.state_dict())
    run.stack("s2")
    assert len(run.arm.model.blocks) == 8
    run.train(60)
    assert all(not observation.evaluations for observation in run.executor.collect(run.step).observations)


def test_a_seed_that_is_not_judged_at_the_end_leaves_by_its_twin(rig):
    run, plain = rig("transformer"), rig("transformer")
    run.stack()
    for each in (run, plain):
        each.train(3)
    assert run.executor.finish(run.step) == ()
    assert run.arm.digest() == plain.arm.digest()


def test_evaluations_are_booked_to_their_stack_with_both_arms(rig):
    run = rig("transformer")
    run.train(2)
    run.stack()
    executor = run.executor
    both = executor.macs.forward + executor.twin_macs.forward
    before = executor.side_macs
    run.do(run.directive("JUDGE", at_step=2, look=1))
    spent = executor.side_macs - before
    assert dict(executor.evaluation_macs) == {"s1": spent}
    assert spent > 0
    assert spent % both == 0
    saved = executor.state_dict()
    again = rig("transformer")
    again.recipes = run.recipes
    again.executor.load_state_dict(saved)
    assert again.executor.evaluation_macs == {"s1": spent}


class Counting(Transformer):
    """Runs as many blocks as it was built with, whatever stands in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.count = len(self.blocks)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for place in range(self.count):
            x = self.blocks[place](x)
        return self.head(x)


class Topped(Counting):
    """Its last block differs: a copy stands before it, and the count leaves that one out instead of the copy."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks.append(nn.Sequential(Block()))
        self.count = len(self.blocks)


class Broken(Transformer):
    def forward(self, tokens):
        if len(self.blocks) > 2:
            raise IndexError("list index out of range")
        return super().forward(tokens)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Counting, "the copied block blocks.2 ran 0 times in a forward pass, expected once"),
        (Broken, "at 4 blocks it ends in IndexError: list index out of range"),
    ],
)
def test_a_run_that_cannot_be_repeated_is_tried_and_told_before_anything_is_grown(rig_of, model, why):
    run = rig_of(model(), TokenTask())
    before = run.arm.digest()
    run.executor.places.try_stacks()
    assert run.executor.places.refused_runs == (f"blocks: {why}",)
    assert SLOT not in [slot.slot_id for slot in run.executor.manifest().slots]
    assert (run.arm.digest(), len(run.arm.model.blocks)) == (before, 2)
    named = rig_of(model(), TokenTask(), slots=(SLOT,))
    with pytest.raises(ConfigError, match=f"slots = '{SLOT}': can't be repeated: .*{why[:20]}"):
        named.executor.places.try_stacks()


@pytest.mark.parametrize("parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("halves_ends", [False, True])
def test_blocks_with_parametrised_layers_are_repeated_trained_and_undone(rig_of, parametrised, halves_ends):
    model = Transformer()
    for block in model.blocks:
        parametrised(block.fc1)
        parametrised(block.fc2)
    run = rig_of(model, TokenTask(), halves_ends=halves_ends)
    run.executor.places.try_stacks()
    assert run.executor.places.refused_runs == ()
    run.train(2)
    run.stack()
    of_blocks = [parameter for block in run.arm.model.blocks for parameter in block.parameters()]
    assert len(set(of_blocks)) == 2 * len(list(run.executor.twin.model.blocks.parameters()))
    copied = [parameter.detach().clone() for parameter in run.arm.model.blocks[3].parameters()]
    run.train(2)
    assert not any(map(torch.equal, copied, run.arm.model.blocks[3].parameters()))
    undone = rig_of(run.executor.twin.model, TokenTask(), halves_ends=halves_ends)
    before = undone.arm.digest()
    undone.stack()
    undone.do(undone.directive("REMOVE"))
    assert undone.arm.digest() == before


def test_a_run_that_can_be_repeated_stays_a_slot_and_leaves_no_trace(rig):
    run, plain = rig("transformer"), rig("transformer")
    run.executor.places.try_stacks()
    assert run.executor.places.refused_runs == ()
    for each in (run, plain):
        each.train(2)
        each.stack()
        each.train(2)
    assert run.arm.digest() == plain.arm.digest()


def test_a_block_behind_the_copies_that_no_longer_runs_refuses_them(rig_of):
    run = rig_of(Topped(), TokenTask())
    parts = [run.directive("SNAPSHOT_TWIN"), run.build("stack.part", SLOT, blocks=1)]
    why = run.failure(*parts, run.directive("ATTACH", slot_id=SLOT, blend={}))
    assert "the moved block blocks.3 ran 0 times" in why
    assert len(run.arm.model.blocks) == 3


class Watched(Transformer):
    """Notes the samples of passes outside training that record gradients, at four blocks; may want eight at least."""

    passed: ClassVar[list[int]] = []
    least = 1

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not self.training and len(self.blocks) == 4:
            Watched.passed.append(len(tokens))
            if len(tokens) < Watched.least:
                raise ValueError("too few")
        return super().forward(tokens)


class LongProbe(TokenTask):
    def probe_inputs(self) -> torch.Tensor:
        return self.tokens[:16, :-1]


@pytest.mark.parametrize("least", [1, 8])
def test_a_stack_is_proven_by_very_few_samples_or_where_a_host_does_not_bear_them_by_more(rig_of, monkeypatch, least):
    run = rig_of(Watched(), LongProbe())
    run.train(2)
    monkeypatch.setattr(Watched, "least", least)
    Watched.passed.clear()
    run.stack()
    assert Watched.passed
    assert (max(Watched.passed) <= 4) == (least == 1)
