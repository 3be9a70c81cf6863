"""Layers that run more than once in a pass grow where a seed is one thing at every call, and else say why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.trace import trace_forward
from esper.kasmina.executor.slots.search import Search, find_slots

CLASSES = 5


def searched(model: nn.Module, inputs: Tensor, named: tuple[str, ...] | None = None) -> Search:
    return find_slots(model, trace_forward(model, inputs), named=named, is_causal=False)


class Siamese(nn.Module):
    """One tower over both halves of the features."""

    def __init__(self, norm: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 5), norm(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return self.head((self.tower(first) - self.tower(second)).square())


class Recurrent(nn.Module):
    """A state that goes three times through the same two layers, under a checkpoint of both or of each."""

    def __init__(self, *, checkpoints: bool = False, by_layer: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 5), nn.Linear(5, 12), nn.Linear(12, CLASSES)
        self.checkpoints, self.by_layer = checkpoints, by_layer

    def _both(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            if self.by_layer:
                hidden = torch.relu(checkpoint(self.first, x, use_reentrant=False))
                x = torch.tanh(x + checkpoint(self.second, hidden, use_reentrant=False))
            else:
                x = torch.tanh(
                    x + (checkpoint(self._both, x, use_reentrant=False) if self.checkpoints else self._both(x))
                )
        return self.head(x)


class Conv(nn.Module):
    """One block of convolutions twice, at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1)
        )
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.block(x)
        coarse = self.block(F.max_pool2d(fine, 2))
        return self.head(coarse.flatten(1))


@pytest.mark.parametrize(
    ("host", "shape", "slot", "positions"),
    [
        (Siamese(), (12,), "span_linear:tower.0-tower.4", (2, 2)),
        (Siamese(nn.BatchNorm1d), (12,), "span_linear:tower.0-tower.4", (2, 2)),
        (Recurrent(), (12,), "span_linear:first-second", (3, 3)),
        (Conv(), (1, 6, 6), "span_conv:block.0-block.3", (45, 45)),
    ],
)
def test_a_span_at_all_calls_is_found_and_is_the_work_of_all(host, shape, slot, positions):
    slots = {slot.slot_id: slot for slot in searched(host, torch.randn(4, *shape)).slots}
    assert slots[slot].obstacle == ""
    assert (slots[slot].read_positions, slots[slot].write_positions) == positions


@pytest.mark.parametrize(
    ("host", "shape", "slot", "blueprint"),
    [
        (Siamese, (12,), "span_linear:tower.0-tower.4", "span.linear"),
        (lambda: Siamese(nn.BatchNorm1d), (12,), "span_linear:tower.0-tower.4", "span.linear"),
        (Recurrent, (12,), "span_linear:first-second", "span.linear"),
        (Conv, (1, 6, 6), "span_conv:block.0-block.3", "span.conv"),
    ],
)
def test_a_span_grows_and_folds_as_the_wider_layer_that_it_is(rig_of, toy_task, host, shape, slot, blueprint):
    torch.default_generator.manual_seed(2)
    toy_task.inputs = toy_task.inputs if shape == (12,) else torch.randn(96, *shape)
    task = copy.copy(toy_task)
    model = host()
    models = model, copy.deepcopy(model)
    folded, unfolded = (rig_of(each, copy.copy(task), optimizer="sgd", double=True) for each in models)
    for run in (folded, unfolded):
        run.train(2)
        start = run.outputs()
        assert run.graft(blueprint, slot, width=3).reports[-1].max_logit_delta == 0
        run.train(6)
        assert (run.outputs() - start).abs().max() > 1e-3
    before = folded.outputs()
    assert folded.do(folded.directive("FOLD"), folded.directive("DROP_TWIN")).reports[0].folded
    torch.testing.assert_close(folded.outputs(), before, rtol=0, atol=1e-12)
    assert folded.executor.seeds == ()
    for run in (folded, unfolded):
        for module in run.arm.model.modules():  # its masks are drawn for all features at once
            module.p = 0.0
        for graft in run.arm.grafts:
            for module in graft.module.modules():
                module.rate = 0.0
        run.train(5)
    torch.testing.assert_close(folded.outputs(), unfolded.outputs(), rtol=0, atol=1e-10)


def test_a_seed_at_all_calls_costs_the_work_of_all(rig_of, toy_task):
    run = rig_of(Recurrent(), toy_task)
    before = run.executor.macs.forward
    report = run.graft("span.linear", "span_linear:first-second", width=2).reports[-1]
    assert report.added_forward_macs == 3 * (12 * 2 + 2 * 12)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    assert run.executor.macs.forward - before == report.added_forward_macs


def test_a_residual_seed_inside_a_shared_tower_is_added_at_each_call(rig_of, toy_task):
    run = rig_of(Siamese(), toy_task)
    slot = "residual_linear:tower.2-tower.2"
    assert run.graft("residual.linear", slot, width=3).reports[-1].max_logit_delta == 0
    run.train(6)
    run.do(run.directive("PROBE"), run.directive("JUDGE", look=1))
    model, seed = run.arm.model.eval(), run.arm.grafts[0].module.eval()
    first, second = (
        (lambda hidden: model.tower[4](hidden + seed(hidden)))(torch.relu(model.tower[0](part)))
        for part in toy_task.inputs[:8].chunk(2, 1)
    )
    torch.testing.assert_close(run.outputs(), model.head((first - second).square()))


def test_an_activation_that_stands_at_several_places_offers_none_of_them():
    """One seed for layers that have nothing to do with each other, and that may come to be of other widths."""
    relu = nn.ReLU()
    host = nn.Sequential(nn.Linear(4, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 2))
    found = searched(host, torch.randn(3, 4))
    assert [slot.slot_id for slot in found.slots] == ["span_linear:0-2", "span_linear:2-4"]
    with pytest.raises(ConfigError, match="'1' runs 2 times in a forward pass of what holds it, where one seed can't"):
        searched(host, torch.randn(3, 4), named=("1",))


class NormedTwice(nn.Module):
    """One BatchNorm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.second(torch.relu(self.norm(self.first(x)))))))


def test_a_norm_that_stands_at_several_places_is_not_widened():
    slots = {slot.slot_id: slot.obstacle for slot in searched(NormedTwice(), torch.randn(3, 4)).slots}
    assert slots["span_linear:first-second"] == "norm runs 2 times in a forward pass, and first 1"
    assert slots["span_linear:second-head"] == "norm runs 2 times in a forward pass, and second 1"


class Otherwise(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "ends":
            x = self.second(torch.relu(self.first(x)))
            return self.third(torch.relu(self.first(x)))
        if self.how == "steps":
            x = self.second(torch.relu(self.first(x)))
            return self.third(self.second(torch.tanh(self.first(x))))
        left, right = torch.relu(self.first(x)), torch.relu(self.first(-x))
        return self.third(self.second(left) + self.second(right))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("ends", "first runs 2 times in a forward pass, and doesn't lead on alike: to second, third"),
        ("steps", "first runs 2 times in a forward pass, and doesn't lead on alike: to second by other steps"),
        ("turns", "first and second don't run by turns"),
    ],
)
def test_calls_that_no_one_seed_fits_are_told_with_the_reason(how, words):
    found = searched(Otherwise(how), torch.randn(3, 6))
    assert "span_linear:first-second" not in [slot.slot_id for slot in found.slots]
    assert words in found.unseen


def test_a_call_that_the_graph_does_not_show_closes_the_slot():
    """The whole can't be traced: of its part alone a graph is seen."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for row in x:
                x = x + row
            x = self.part(x)
            return self.head(self.part[2](self.part[0](x).softmax(1)))

    found = searched(Hidden(), torch.randn(3, 4))
    assert [slot.slot_id for slot in found.slots if slot.is_span] == []
    assert "part.0 runs 2 times in a forward pass, not always where its graph shows it" in found.unseen


def test_a_checkpoint_that_runs_the_end_of_a_repeated_span_alone_is_refused(rig_of, toy_task, zero_output):
    """It couldn't be told for which of the calls, and training goes on as before."""
    split, plain = rig_of(Recurrent(by_layer=True), toy_task, slots=("first-second",)), rig_of(Recurrent(), toy_task)
    plain.arm.model.load_state_dict(split.arm.model.state_dict())
    slot = "span_linear:first-second"
    built = split.build("span.linear", slot, width=4)
    why = split.failure(built, split.directive("ATTACH", slot_id=slot, blend=zero_output, isolate=False))
    assert "backward runs second again without first, both of which run more than once in a pass" in why
    for each in (split, plain):
        each.train(3)
    assert split.arm.digest() == plain.arm.digest()


def test_a_checkpoint_around_a_repeated_span_grows_as_without_it(rig_of, toy_task):
    runs = [rig_of(Recurrent(checkpoints=checkpoints), toy_task) for checkpoints in (False, True)]
    runs[1].arm.model.load_state_dict(runs[0].arm.model.state_dict())
    for run in runs:
        run.graft("span.linear", "span_linear:first-second", width=4)
        run.train(5)
    assert runs[0].arm.digest() == runs[1].arm.digest()


class Tower(nn.Module):
    """A list of blocks, over both halves of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return self.head((self.blocks(first) - self.blocks(second)).square())


def test_a_tower_of_blocks_is_stacked_at_all_calls(rig_of, toy_task):
    run = rig_of(Tower(), toy_task)
    run.train(2)
    before, macs = copy.deepcopy(run.arm.model), run.executor.macs.forward
    report = run.stack()
    assert len(run.arm.model.blocks) == 4
    assert run.executor.macs.forward - macs == report.reports[-1].added_forward_macs == 2 * 2 * 6 * 6
    twice = nn.Sequential(before.blocks, before.blocks)
    first, second = (twice(part) for part in toy_task.inputs[:8].chunk(2, 1))
    torch.testing.assert_close(run.outputs(), before.head((first - second).square()))
    run.train(3)


def two_views(model: nn.Module, inputs: Tensor) -> Tensor:
    """A step that passes two views of a batch one after the other."""
    return (model(inputs) - model(-inputs)).square()


def test_a_network_that_a_step_calls_twice_offers_what_it_offers_once():
    host, inputs = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4)
    once = searched(host, inputs)
    twice = find_slots(host, trace_forward(host, inputs, forward=two_views), named=None, is_causal=False)
    assert [slot.slot_id for slot in twice.slots] == [slot.slot_id for slot in once.slots] != []
    assert [slot.read_positions for slot in twice.slots] == [2, 2]


def halves_called(model: nn.Module, inputs: Tensor) -> Tensor:
    """A step that calls a part of a network twice, and never the network itself."""
    return (model[0](inputs) - model[0](-inputs)).square()


def test_a_part_that_a_step_calls_twice_is_grown_though_the_network_is_not_called():
    tower = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    host, inputs = nn.ModuleList([tower]), torch.randn(3, 4)
    found = find_slots(host, trace_forward(host, inputs, forward=halves_called), named=None, is_causal=False)
    assert [slot.slot_id for slot in found.slots] == ["span_linear:0.0-0.2", "residual_linear:0.1-0.1"]


def test_an_adapter_is_added_at_each_call_and_merges(rig_of, toy_task):
    run = rig_of(Recurrent(), toy_task, offers_layers=True, double=True)
    run.train(2)
    report = run.graft("adapter.lora", "linear:second-second", rank=2, alpha=6.0).reports[-1]
    assert (report.max_logit_delta, report.added_forward_macs) == (0, 3 * (5 * 2 + 2 * 12))
    start = run.outputs()
    run.train(6)
    before = run.outputs()
    assert (before - start).abs().max() > 1e-3
    assert run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0].folded
    torch.testing.assert_close(run.outputs(), before, rtol=0, atol=1e-12)
