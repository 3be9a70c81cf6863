"""A fold is exact in outputs and names, carries the optimiser's memory, and refuses what it can't do."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.core.errors import GraftFailed
from esper.kasmina.executor.fold.fold import fold, fold_obstacle
from tests.drilled import drilled

FOLDS = [
    ("mlp", "span_linear:fc1-fc2", "span.linear", 8),
    ("convnet", "span_conv:conv1-conv2", "span.conv", 3),
    ("convnet", "span_conv_linear:conv2-fc", "span.conv", 2),
    ("conv1d", "span_conv_linear:conv2-fc", "span.conv", 3),
    ("transformer", "span_linear:blocks.1.fc1-blocks.1.fc2", "span.linear", 4),
]


def grown(rig, host, slot, blueprint, width, **options):
    run = rig(host, **options)
    run.train(3)
    run.graft(blueprint, slot, width=width)
    run.train(8)
    return run


@pytest.mark.parametrize(
    ("host", "slot", "blueprint", "width", "optimizer"),
    [*((*case, "adamw") for case in FOLDS), (*FOLDS[0], "sgd"), (*FOLDS[1], "adam")],
)
def test_outputs_stay_names_stay_and_the_seed_is_gone(rig, host, slot, blueprint, width, optimizer):
    run = grown(rig, host, slot, blueprint, width, optimizer=optimizer)
    names, before = list(run.arm.model.state_dict()), run.outputs()
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert report.folded
    assert report.max_logit_delta < 1e-5
    assert torch.allclose(run.outputs(), before, atol=1e-5)
    assert list(run.arm.model.state_dict()) == names
    assert run.executor.seeds == ()
    assert len(run.arm.optimizer.param_groups) == 1
    assert all(parameter in run.arm.optimizer.state for parameter in run.executor.host_parameters())
    assert run.executor.fossils == {slot: 1}
    run.train(3)


# Deviations as shares of how far the outputs move: rounding, but for the one count that Adam and its relatives keep for
# a joined tensor. RAdam's count also says how far its first steps are held back.
SHARES = {
    **dict.fromkeys(("sgd", "nesterov", "rmsprop", "adadelta"), 1e-9),
    "adagrad": 1e-6,
    **dict.fromkeys(("adam", "adamw", "nadam", "adamax"), 0.1),
    "radam": 0.2,
}
# Lion makes whole steps of any gradient, be it rounding alone, as of a bias before BatchNorm.
LION = [(FOLDS[0], "lion"), (FOLDS[3], "lion")]


def is_told_apart(fold, optimizer):
    """Each optimiser in the smallest host, each other fold under one of them in turn."""
    number = FOLDS.index(fold)
    return number == 0 or optimizer == list(SHARES)[number]


@pytest.mark.parametrize(("fold", "optimizer"), drilled([*product(FOLDS, SHARES), *LION], is_told_apart))
def test_the_next_steps_are_those_of_the_unfolded_run(rig, fold, optimizer):
    """Adagrad makes whole steps of a bias before BatchNorm, whose gradient is rounding alone."""
    folded, unfolded = (grown(rig, *fold, optimizer=optimizer, double=True) for _ in range(2))
    start = folded.outputs()
    assert folded.do(folded.directive("FOLD"), folded.directive("DROP_TWIN")).reports[0].folded
    unfolded.do(unfolded.directive("DROP_TWIN"))
    for _ in range(5):
        folded.train(1)
        unfolded.train(1)
        moved = (unfolded.outputs() - start).norm()
        assert (folded.outputs() - unfolded.outputs()).norm() <= SHARES.get(optimizer, 1e-9) * moved


def test_adams_first_step_after_a_fold_is_close_and_momentum_is_exact(rig):
    run = grown(rig, "mlp", "span_linear:fc1-fc2", "span.linear", 8, optimizer="adam")
    optimizer, layer = run.arm.optimizer, run.arm.model.fc1
    seed_weight = run.arm.grafts[0].module.read.weight
    state = optimizer.state[seed_weight]
    beta1, beta2 = 0.9, 0.999
    expected = (state["exp_avg"] / (1 - beta1**8)) / (state["exp_avg_sq"] / (1 - beta2**8)).sqrt()
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    joined = optimizer.state[layer.weight]
    assert joined["step"] == 11
    direction = (joined["exp_avg"] / (1 - beta1**11)) / (joined["exp_avg_sq"] / (1 - beta2**11)).sqrt()
    assert torch.allclose(direction[6:], expected, rtol=1e-4, equal_nan=True)


def test_the_next_seed_reads_the_widened_layer(rig):
    run = grown(rig, "mlp", "span_linear:fc1-fc2", "span.linear", 8)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    signals = {signal.slot_id: signal for signal in run.executor.collect(run.step).slots}
    assert signals["span_linear:fc1-fc2"].width == 14
    assert signals["span_linear:fc2-fc3"].in_features == 14
    assert signals["residual_linear:act1-act1"].out_features == 14
    report = run.graft("span.linear", "span_linear:fc2-fc3", "s2", width=4).reports[-1]
    assert report.max_logit_delta == 0.0
    assert run.arm.grafts[0].module.read.in_features == 14
    run.train(6)
    run.do(run.directive("FOLD", "s2"), run.directive("DROP_TWIN", "s2"))
    assert run.arm.model.fc2.weight.shape == (11, 14)
    assert (run.arm.model.fc2.out_features, run.arm.model.fc3.in_features) == (11, 11)


def test_batch_norms_channels_and_statistics_are_joined(rig):
    run = grown(rig, "convnet", "span_conv:conv1-conv2", "span.conv", 3)
    seed_norm = run.arm.grafts[0].module.between[0]
    mean, weight = seed_norm.running_mean.clone(), seed_norm.weight.detach().clone()
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    norm = run.arm.model.bn1
    assert norm.num_features == 7
    assert torch.equal(norm.running_mean[4:], mean)
    assert torch.equal(norm.weight[4:], weight)
    assert run.arm.model.conv1.weight.shape == (7, 1, 3, 3)
    assert run.arm.model.conv2.weight.shape == (6, 7, 3, 3)


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ("adafactor", "optimiser Adafactor remembers row_var of shape [2, 1] for a parameter [2, 3], which can't"),
        ("shampoo", "optimiser Shampoo remembers outer of shape [2, 2] for a parameter [2, 3], which can't be joined"),
    ],
)
def test_what_is_not_remembered_value_by_value_is_refused_by_name_and_the_seed_stays(rig, optimizer, why):
    run = grown(rig, "mlp", "span_linear:fc1-fc2", "span.linear", 8, optimizer=optimizer)
    before = run.outputs()
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert not report.folded
    assert why in report.failure
    assert torch.equal(run.outputs(), before)
    assert run.executor.seeds == ("s1",)
    run.train(3)
    assert run.executor.collect(run.step).observations == ()


def test_a_seed_that_is_still_warming_up_or_paused_is_not_folded(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=8)
    run.train(2)
    assert "warm-up isn't over" in fold_obstacle(run.arm, run.arm.grafts[0], run.step)
    run.do(run.directive("MUTE"))
    assert "paused" in fold_obstacle(run.arm, run.arm.grafts[0], run.step)


def test_a_permanent_seed_on_the_widened_activation_keeps_the_next_one_unfolded(rig):
    run = grown(rig, "mlp", "residual_linear:act1-act1", "residual.linear", 4)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    run.graft("span.linear", "span_linear:fc1-fc2", "s2", width=4)
    run.train(6)
    report = run.do(run.directive("FOLD", "s2"), run.directive("DROP_TWIN", "s2")).reports[0]
    assert not report.folded
    assert "seed s1 has a fixed width" in report.failure
    assert run.executor.seeds == ("s1", "s2")


def test_a_span_across_a_layer_norm_stays_a_module(rig_of, toy_task):
    torch.default_generator.manual_seed(2)
    host = nn.Sequential(nn.Linear(12, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5))
    run = rig_of(host, toy_task)
    run.graft("span.linear", "span_linear:0-3", width=4)
    run.train(6)
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert not report.folded
    assert "1 (LayerNorm) is not per channel" in report.failure


def test_a_fold_that_changes_an_output_is_undone_completely(rig):
    run = grown(rig, "convnet", "span_conv:conv1-conv2", "span.conv", 3)
    graft, digest = run.arm.grafts[0], run.arm.digest()
    groups = [len(group["params"]) for group in run.arm.optimizer.param_groups]
    values = iter([torch.zeros(2, 2), torch.ones(2, 2)])
    with pytest.raises(GraftFailed, match="changed an output by 1"):
        fold(run.arm, graft, run.step, lambda: next(values), run.reached)
    assert run.arm.digest() == digest
    assert [len(group["params"]) for group in run.arm.optimizer.param_groups] == groups
    assert run.arm.model.bn1.num_features == 4
    other = grown(rig, "convnet", "span_conv:conv1-conv2", "span.conv", 3)
    run.train(3)
    other.train(3)
    assert run.arm.digest() == other.arm.digest()


class Layers(nn.Module):
    """Two layers between which a span folds, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Averaging(Layers):
    """Keeps an average of its first layer, for others to evaluate."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.fc1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for mine, theirs in zip(self.average.parameters(), self.fc1.parameters(), strict=True):
                    mine.lerp_(theirs, 0.05)
        return super().forward(x)


class Masking(Layers):
    """Halves the gradients of half of a layer, once they have accumulated."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = torch.ones(6, 12)
        self.halves[:3] = 0.5
        self.fc1.weight.register_post_accumulate_grad_hook(self.masked)

    def masked(self, parameter: Tensor) -> None:
        parameter.grad.mul_(self.halves)


class Holding(Layers):
    """Trains the layer that it knew when it was built."""

    def __init__(self) -> None:
        super().__init__()
        self.known = [self.fc1.weight]
        self.fc1.register_forward_hook(lambda module, arguments, output: self.trained(arguments[0], output))

    def trained(self, x: Tensor, output: Tensor) -> Tensor:
        if not self.training:
            return output
        known = functional.linear(x, self.known[0], self.fc1.bias[: len(self.known[0])])
        known = functional.pad(known, (0, output.shape[1] - known.shape[1]))
        return output.detach() + known - known.detach()


class WidthError(Exception):
    """A host's own."""


class StoppingAtWidth(Layers):
    """Knows its width by heart, in training and with an exception of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.act.register_forward_pre_hook(StoppingAtWidth.checked)

    def checked(self, arguments: tuple[Tensor]) -> None:
        if self.training and arguments[0].shape[1] != 6:
            raise WidthError("expected 6")


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (Averaging, "breaks a training pass: RuntimeError: The size of tensor a"),
        (Masking, "breaks a training pass: RuntimeError: "),
        (Holding, "leaves fc1.weight without gradient in training"),
        (StoppingAtWidth, "breaks a training pass: WidthError: expected 6"),
    ],
)
def test_a_fold_that_training_could_not_go_on_from_is_undone_and_the_run_goes_on(rig_of, toy_task, host, why):
    def grown_run():
        torch.default_generator.manual_seed(2)
        run = rig_of(host(), toy_task)
        run.graft("span.linear", "span_linear:fc1-fc2", width=4)
        run.train(6)
        return run

    run, unfolded = grown_run(), grown_run()
    failure = run.failure(run.directive("FOLD"))
    assert f"folding seed s1 {why}" in failure
    run.do(run.directive("DROP_TWIN"))
    unfolded.do(unfolded.directive("DROP_TWIN"))
    assert run.arm.digest() == unfolded.arm.digest()
    for each in (run, unfolded):
        each.train(3)
    assert run.arm.digest() == unfolded.arm.digest()
    assert run.executor.seeds == ("s1",)
    assert tuple(run.arm.model.fc1.weight.shape) == (6, 12)


class Skipping(Layers):
    """Leaves its two layers out of every other training pass, by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(12, 5)
        self.register_forward_hook(Skipping.skipped)

    def skipped(self, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        beside = self.beside(arguments[0])
        return beside if self.training and torch.rand(()).item() < 0.5 else output + beside


def test_a_layer_that_training_skips_by_chance_folds_all_the_same(rig_of, toy_task):
    folds = 0
    for seed_id in ("s1", "s2", "s3", "s4"):
        run = rig_of(Skipping(), toy_task)
        run.graft("span.linear", "span_linear:fc1-fc2", seed_id, width=4)
        run.train(6)
        folds += run.do(run.directive("FOLD", seed_id), run.directive("DROP_TWIN", seed_id)).reports[0].folded
    assert folds == 4
