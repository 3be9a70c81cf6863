"""What a network holds beside its weights goes into a file and comes back, or it is named."""

from __future__ import annotations

import io
import itertools
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import SGD

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.contents.clone import independent_copy
from esper.kasmina.executor.contents.held import Remembered, held, put_back
from esper.kasmina.executor.passes.side_pass import side_pass
from tests.unit.kasmina.executor.stateful_hosts import HOSTS, INPUTS, Host, cached_activation, step


def through_a_file(tree: Any) -> Any:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_a_network_that_is_built_anew_goes_on_as_the_saved_one(build: Callable[[], nn.Module]) -> None:
    model = built(build)
    start = held(model).marks
    step(model)
    step(model)
    now = held(model)
    assert now.losses(start) == (["seen[1]['pair']"] if build is cached_activation else [])
    saved = through_a_file(TrainingArm(model, SGD(model.parameters())).state_dict())
    again, third = built(build), built(build)
    for each in (again, third):
        TrainingArm(each, SGD(each.parameters())).load_state_dict(saved, lambda arm: [])
    for _ in range(2):
        assert torch.equal(step(again), step(model))
    TrainingArm(model, SGD(model.parameters())).load_state_dict(saved, lambda arm: [])
    assert torch.equal(step(third), step(model))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_what_a_pass_moved_is_put_back_into_the_same_network(build: Callable[[], nn.Module]) -> None:
    model, plain = built(build), built(build)
    step(model)
    step(plain)
    before, weights = (
        Remembered(list(model.modules())),
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )
    step(model)
    before.put_back()
    model.load_state_dict(weights)
    assert torch.equal(step(model), step(plain))


class Attending(nn.Module):
    """Attention never calls its projection, so a weight that a hook of it computes stays what it is."""

    def __init__(self, wrap: Callable[[nn.Module], object], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        wrap(self.attention.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("wrap", [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), nn.utils.weight_norm])
def test_a_weight_that_nothing_computes_anew_comes_back_too(wrap: Callable[[nn.Module], object]) -> None:
    model, other, x = Attending(wrap, 0), Attending(wrap, 1), torch.randn(2, 3, 8)
    saved = through_a_file(TrainingArm(model, SGD(model.parameters())).state_dict())
    TrainingArm(other, SGD(other.parameters())).load_state_dict(saved, lambda arm: [])
    assert torch.equal(other(x), model(x))
    assert torch.equal(independent_copy(model)(x), model(x))


class Stats:
    def __init__(self) -> None:
        self.count = 0


def test_an_object_of_ones_own_is_kept_where_it_stands_and_lost_where_it_is_new() -> None:
    host = Host()
    host.stats = Stats()
    start = held(host).marks
    host.stats.count = 4
    assert held(host).losses(start) == []
    other = Host()
    other.stats = Stats()
    put_back(other, through_a_file(held(host).tree))
    assert other.stats.count == 4
    host.fc1.history = [Stats()]
    assert held(host).losses(start) == ["fc1.history[0]"]


@pytest.mark.parametrize(
    "make",
    [
        lambda number: iter([number]),
        lambda number: (number for _ in range(3)),
        lambda number: io.StringIO(str(number)),
        lambda number: bytearray([number]),
        lambda number: types.SimpleNamespace(number=number),
    ],
)
def test_what_has_no_plain_form_is_named_once_it_has_changed(make: Callable[[int], object]) -> None:
    host = Host()
    host.fc2.source = make(1)
    start = held(host).marks
    assert held(host).losses(start) == []
    host.fc2.source = make(2)
    assert held(host).losses(start) == ["fc2.source"]


def test_an_equal_value_is_no_loss_and_an_object_that_changed_inside_is_one() -> None:
    host = Host()
    host.since, host.buffer = datetime(2026, 1, 1), io.StringIO()
    start = held(host).marks
    host.since = datetime(2026, 1, 1)
    assert held(host).losses(start) == []
    host.buffer.write("more")
    assert held(host).losses(start) == ["buffer"]


@dataclass(slots=True)
class Slotted:
    count: int = 0


@dataclass(frozen=True)
class Frozen:
    count: int = 0


class Hostile:
    @property
    def __class__(self) -> type:
        raise RuntimeError("nobody may ask")


DEFAULT = Frozen()


def test_slots_are_kept_and_what_must_never_change_is_replaced() -> None:
    host, other = Host(), Host()
    for each in (host, other):
        each.slotted, each.frozen = Slotted(), DEFAULT
        vars(each)["hostile"] = Hostile()
    host.slotted.count, host.frozen = 3, Frozen(7)
    put_back(other, through_a_file(held(host).tree))
    assert (other.slotted, other.frozen, DEFAULT) == (Slotted(3), Frozen(7), Frozen(0))


def test_tensors_that_nobody_can_write_to_are_left_or_replaced() -> None:
    host = Host()
    with torch.inference_mode():
        host.inference = torch.ones(2)
    host.expanded = torch.zeros(1).expand(3)
    host.register_buffer("mask", torch.zeros(1).expand(3))
    inference, tree = host.inference, held(host).tree
    with side_pass([host], key=1, training=False):
        host(INPUTS)
    assert host.inference is inference
    host.expanded = torch.ones(1).expand(3)
    put_back(host, tree)
    assert host.expanded.tolist() == [0, 0, 0]


def test_a_counting_iterator_is_named_once_it_has_counted() -> None:
    host = Host()
    host.counter = itertools.count()
    start = held(host).marks
    next(host.counter)
    assert held(host).losses(start) == ["counter"]


def test_attributes_that_came_later_go_and_those_that_went_come_back() -> None:
    host = Host()
    host.first = 1
    tree = held(host).tree
    host.second = 2
    del host.first
    put_back(host, tree)
    assert host.first == 1
    assert not hasattr(host, "second")


def test_what_two_modules_share_stays_shared() -> None:
    host, other = Host(), Host()
    for each in (host, other):
        each.fc1.shared = each.fc2.shared = {"calls": [0]}
        each.mine, each.weights = each.fc1, [each.fc1.weight]
    host.fc1.shared["calls"].append(1)
    host.fc1.late = host.fc2.late = [host.fc1.shared]
    put_back(other, through_a_file(held(host).tree))
    assert other.fc1.shared is other.fc2.shared is other.fc1.late[0]
    assert other.fc1.late is other.fc2.late
    assert other.fc1.shared == {"calls": [0, 1]}
    assert other.mine is other.fc1
    assert other.weights[0] is other.fc1.weight


def test_a_saved_view_doesnt_bring_the_data_set_along() -> None:
    host = Host()
    host.probe = torch.zeros(100_000, 4)[:5]
    file = io.BytesIO()
    torch.save(held(host).tree, file)
    assert len(file.getvalue()) < 100_000
    assert INPUTS.shape == (5, 4)


class Referring(Host):
    """Knows a parameter, a buffer that it replaces, and an activation by weak references."""

    def __init__(self) -> None:
        super().__init__()
        self.average: Tensor = torch.zeros(6)
        self.weak = [weakref.ref(self.fc1.weight), weakref.ref(self.average), weakref.ref(self)]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        self.average = hidden.detach().mean(0) + self.weak[1]()
        self.weak = [weakref.ref(self.fc2.weight), weakref.ref(self.average), weakref.ref(hidden)]
        return self.fc2(hidden - self.average)


def test_weak_references_point_to_the_like_parts_of_the_network_that_takes_them() -> None:
    model = built(Referring)
    start = held(model).marks
    step(model)
    now = held(model)
    assert now.losses(start) == []
    again = built(Referring)
    kept = again.weak
    put_back(again, through_a_file(now.tree))
    assert again.weak is kept
    assert again.weak[0]() is again.fc2.weight
    assert again.weak[1]() is again.average
    assert torch.equal(again.average, model.average)
    assert again.weak[2]() is None is model.weak[2]()


def test_a_weak_reference_that_a_pass_moved_is_put_back() -> None:
    model = built(Referring)
    references, average = list(model.weak), model.average
    with side_pass([model], key=1, training=None), torch.no_grad():
        model(INPUTS)
    assert all(now is before for now, before in zip(model.weak, references, strict=True))
    assert model.weak[1]() is model.average is average
