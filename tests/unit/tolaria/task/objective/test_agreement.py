"""Outputs and targets are compared before the first step: aligned where only their form differs, refused otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.feeds.loader import Loader
from esper.tolaria.task.objective.agreement import agreed, check_passes, training_sizes
from esper.tolaria.task.objective.task import make_task

CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION
LANGUAGE_MODEL = TaskType.TASK_TYPE_LANGUAGE_MODEL
REGRESSION = TaskType.TASK_TYPE_REGRESSION

# What a network saw: a pass that leaves no trace also puts back what functions close over.
SEEN: list[bool | None] = []


class Gives(nn.Module):
    """Whatever a function of the inputs and a weight of 1 gives."""

    def __init__(self, function: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, inputs: Tensor) -> object:
        return self.function(inputs, self.weight)


def splits(targets: Tensor, task: TaskType, outputs: int, inputs: Tensor | None = None) -> Splits:
    inputs = torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    part = Split(inputs, targets)
    return Splits(train=part, judge=part, test=part, task=task, outputs=outputs)


def check(model: nn.Module, data: Splits, /, **settings: object) -> Splits:
    """What preparation does with a model and its data."""
    config = TrainConfig(**{"batch_size": 4, **settings})
    data = agreed(config, model, data)
    check_passes(config, model, make_task(data), Loader(data.train, config.batch_size, 1), data)
    return data


NUMBERS = torch.randn(10, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 3


@pytest.mark.parametrize(
    ("targets", "outputs"),
    [
        (NUMBERS, (1,)),
        (NUMBERS.unsqueeze(1), ()),
        (NUMBERS.unsqueeze(1), (1,)),
        (NUMBERS.reshape(5, 2), (1, 2)),
        (NUMBERS.reshape(5, 2, 1), (2,)),
        (NUMBERS.reshape(1, 2, 5), (10,)),
    ],
)
def test_regression_targets_take_the_outputs_shape_so_that_nothing_is_broadcast(
    targets: Tensor, outputs: tuple[int, ...]
) -> None:
    model = Gives(lambda inputs, weight: weight * inputs.new_full((len(inputs), *outputs), 0.5))
    data = check(model, splits(targets, REGRESSION, targets[0].numel()), batch_size=1)
    assert data.train.targets.shape == (len(targets), *outputs)
    task = make_task(data)
    loss = task.loss(model(data.train.inputs), data.train.targets)
    assert float(loss.detach()) == float(F.mse_loss(torch.full_like(targets.flatten(), 0.5), targets.flatten()))
    assert task.scores(model(data.train.inputs), data.train.targets).shape == (len(targets),)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int8, torch.bool, torch.float16, torch.float64])
def test_labels_of_any_type_train_and_score_as_int64_ones(dtype: torch.dtype) -> None:
    labels, model = torch.arange(10) % 2, nn.Linear(3, 2)
    data = check(model, splits(labels.to(dtype), CLASSIFICATION, 2))
    outputs = model(data.train.inputs)
    loss = make_task(data).loss(outputs, data.train.targets)
    assert float(loss.detach()) == float(F.cross_entropy(outputs, labels).detach())


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float16, torch.float64])
def test_numbers_of_any_type_can_be_regressed_on(dtype: torch.dtype) -> None:
    numbers, model = torch.arange(10) % 2, nn.Linear(3, 1)
    data = check(model, splits(numbers.to(dtype), REGRESSION, 1))
    loss = make_task(data).loss(model(data.train.inputs), data.train.targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(
        float(F.mse_loss(model(data.train.inputs)[:, 0], numbers.float()).detach())
    )


def test_labels_in_a_column_are_those_of_a_row() -> None:
    data = check(nn.Linear(3, 3), splits(LABELS.unsqueeze(1), CLASSIFICATION, 3))
    assert torch.equal(data.train.targets, LABELS)


def test_each_position_can_have_a_label() -> None:
    images, masks = torch.randn(6, 2, 5, 4), torch.randint(0, 3, (6, 5, 4), dtype=torch.int32)
    model = nn.Conv2d(2, 3, 1)
    for targets in (masks, masks.unsqueeze(1)):
        data = check(model, splits(targets, CLASSIFICATION, 3, images))
        task, outputs = make_task(data), model(images)
        assert float(task.loss(outputs, data.train.targets).detach()) == float(
            F.cross_entropy(outputs, masks.long()).detach()
        )
        assert task.scores(outputs, data.train.targets).shape == (6,)


@pytest.mark.parametrize(
    ("data", "function", "says"),
    [
        (splits(NUMBERS, REGRESSION, 1), lambda x, w: w * x, r"gives \(2, 3\) for 2 samples with targets of \(2,\)"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: w * x[:, :2], r"gives \(2, 2\).*expected \(2, 3\)"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: w * x[:, 0], r"gives \(2,\).*expected \(2, 3\)"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: (w * x).unsqueeze(2).expand(-1, -1, 7), "3, 7"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: (w * x, x), "gives tuple, expected one tensor"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: {"scores": w * x}, "gives dict of scores, expected one"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: (w * x).argmax(1), "gives int64.*scores or values"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: (w * x).mean(0, keepdim=True), "for 2 samples"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: (w * x).sum(), "expected floating-point rows"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: x["image"], "can't take samples"),
        (splits(LABELS, CLASSIFICATION, 3), lambda x, w: w.absent, "can't take samples"),
        (
            splits(torch.zeros(4, 5, 6), CLASSIFICATION, 3),
            lambda x, w: w * x[:, :1, None, None].expand(-1, 5, 6, 3),
            r"expected \(2, 3, 5, 6\): a score for each of 3 classes, in dimension 1",
        ),
        (
            splits(torch.zeros(4, 5), LANGUAGE_MODEL, 7),
            lambda x, w: w * x[:, :1, None].expand(-1, 7, 5),
            r"expected \(2, 5, 7\): a score for each of 7 tokens, in the last dimension",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_arrived_and_what_was_expected(
    data: Splits, function: Callable[[Tensor, Tensor], object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check(Gives(function), data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x, w: w * x / 0.0, "its loss is nan before any step"),
        (lambda x, w: (w * x).detach(), r"no gradient: look for detach\(\), no_grad\(\) or frozen weights"),
        (lambda x, w: w * x if len(x) != 10 else w * x[:9], r"gives \(9, 3\) for samples of \(10, 3\)"),
        (lambda x, w: (w * x).squeeze(), r"gives \(3,\) for samples of \(1, 3\)"),
    ],
)
def test_every_size_of_pass_is_tried_before_the_first_step(
    function: Callable[[Tensor, Tensor], object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check(Gives(function), splits(LABELS, CLASSIFICATION, 3), accumulate=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_inputs_of_another_type_than_the_weights_are_named_with_both(dtype: torch.dtype) -> None:
    data = splits(LABELS, CLASSIFICATION, 3, torch.randn(10, 3).to(dtype))
    with pytest.raises(ConfigError, match=r"\(float..\): .*; its weights are float32: give inputs of that type"):
        check(nn.Linear(3, 3), data)
    assert check(nn.Linear(3, 3, dtype=torch.float64), splits(LABELS, CLASSIFICATION, 3, torch.randn(10, 3).double()))


def test_parts_too_small_for_batchnorm_are_named_with_the_settings_that_cut_them() -> None:
    model, data = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), splits(LABELS, CLASSIFICATION, 3)
    check(model, data, batch_size=4)
    with pytest.raises(ConfigError, match=r"batch_size = 4: cut into 2 parts, leaves passes of 1 .*more than 1 value"):
        check(model, data, accumulate=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 4, "accumulate": 4}, "mine:net can't take .*; give a larger --batch-size or a smaller --acc"),
        ({"batch_size": 1}, "batch_size = 1: leaves passes of 1 .*; give a larger --batch-size$"),
    ],
)
def test_passes_of_one_sample_name_the_settings_and_the_model(settings: dict[str, int], says: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ConfigError, match=says):
        check(model, splits(LABELS, CLASSIFICATION, 3), model="mine:net", **settings)


@pytest.mark.parametrize("function", [lambda x, w: w * x[:, :1], lambda x, w: (w * x).detach(), lambda x, w: [x]])
def test_a_refused_model_is_named_as_the_settings_name_it(function: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ConfigError, match="model = 'mine:net': "):
        check(Gives(function), splits(LABELS, CLASSIFICATION, 3), model="mine:net")


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (torch.eye(3, dtype=torch.int64)[LABELS], r"shape \(10, 3\)': look like one-hot rows; .*targets.argmax\(1\)"),
        (torch.ones(10, 3, dtype=torch.int64).tril(), r"several labels for each sample, .*; --task multi_label"),
    ],
)
def test_rows_of_zeros_and_ones_are_told_as_what_they_are_and_no_model_is_blamed(targets: Tensor, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check(nn.Linear(3, 2), splits(targets, CLASSIFICATION, 2))
    assert caught.value.key == "data"
    dense = Gives(lambda inputs, weight: weight * inputs.unsqueeze(1).expand(-1, 2, 3))
    assert check(dense, splits(targets, CLASSIFICATION, 2)).train.targets.shape == (10, 3)


def test_the_loss_is_computed_in_the_precision_of_training() -> None:
    SEEN.clear()

    def watched(inputs: Tensor, weight: Tensor) -> Tensor:
        SEEN.append(torch.is_autocast_enabled("cpu") if torch.is_grad_enabled() else None)
        return inputs * weight

    check(Gives(watched), splits(LABELS, CLASSIFICATION, 3), amp="bf16", batch_size=5)
    assert True in SEEN
    assert False not in SEEN


def test_a_model_that_gives_something_else_in_training_is_refused() -> None:
    class Auxiliary(nn.Linear):
        def forward(self, inputs: Tensor) -> object:
            outputs = super().forward(inputs)
            return (outputs, outputs) if self.training else outputs

    with pytest.raises(ConfigError, match="gives tuple"):
        check(Auxiliary(3, 3), splits(LABELS, CLASSIFICATION, 3))


def test_the_comparison_leaves_modes_statistics_gradients_and_draws_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check(model, splits(LABELS, CLASSIFICATION, 3))
    assert [part.training for part in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"batch_size": 4}, {4, 2}),
        ({"batch_size": 5}, {5}),
        ({"batch_size": 4, "accumulate": 3}, {2, 1}),
        ({"batch_size": 9}, {10}),
        ({"batch_size": 10, "incubate": "shadow"}, {10, 2}),
        ({"batch_size": 10, "incubate": "shadow", "grow": "never"}, {10}),
    ],
)
def test_the_sizes_of_training_passes_are_known_beforehand(settings: dict, sizes: set[int]) -> None:
    data = splits(LABELS, CLASSIFICATION, 3)
    config = TrainConfig(**settings)
    assert training_sizes(config, Loader(data.train, config.batch_size, 1)) == sizes
