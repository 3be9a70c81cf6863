"""A repeated run is the deeper network: copies in order, with everything that the optimiser knew of the originals."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.passes.compiled import compiled_in_place, compiled_parts
from esper.kasmina.executor.stacks.proof import prove
from esper.kasmina.executor.stacks.repeat import repeat, take_out
from esper.kasmina.executor.stacks.run import Run
from tests.unit.kasmina.executor.stacks.hosts import Decoder, ResNet, decoder

X = torch.randn(6, 5, 8)


class Depths:
    def __init__(self) -> None:
        self.depths = [2, 3]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.relu(self.fc1(x)))


class Derived:
    num_hidden_layers = 3

    @property
    def layer_types(self) -> list[str]:
        return ["mamba"] * self.num_hidden_layers


def trained(model: nn.Module, inputs: Tensor = X, steps: int = 3) -> torch.optim.Optimizer:
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    others = [p for name, p in model.named_parameters() if "norm" not in name]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": norms, "weight_decay": 0.0}], lr=1e-2)
    for _ in range(steps):
        step(model, optimizer, inputs)
    return optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor = X) -> None:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def test_the_copies_stand_behind_the_run_in_order_with_its_weights() -> None:
    model = decoder()
    optimizer = trained(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copies = repeat(model, optimizer, Run("layers", 0, 3))
    assert [path for path, _ in copies] == ["layers.3", "layers.4", "layers.5"]
    after = model.state_dict()
    for index in range(6):
        for name in (name for name in before if name.startswith(f"layers.{index % 3}.")):
            assert torch.equal(after[name.replace(f"layers.{index % 3}.", f"layers.{index}.")], before[name])


def test_a_part_of_a_run_is_repeated_where_it_stands() -> None:
    model = decoder()
    weights = [block.mlp[0].weight.detach().clone() for block in model.layers]  # type: ignore[union-attr,index]
    repeat(model, trained(model, steps=0), Run("layers", 1, 3))
    now = [block.mlp[0].weight for block in model.layers]  # type: ignore[union-attr,index]
    assert all(torch.equal(a, weights[i]) for a, i in zip(now, [0, 1, 2, 1, 2], strict=True))


def test_every_copied_parameter_joins_its_originals_group_with_its_moments() -> None:
    model = decoder()
    optimizer = trained(model)
    repeat(model, optimizer, Run("layers", 0, 3))
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    for index in range(3):
        old, new = model.layers[index], model.layers[index + 3]
        for original, twin in zip(old.parameters(), new.parameters(), strict=True):
            assert [id(original) in group for group in groups] == [id(twin) in group for group in groups]
            remembered, copied = optimizer.state[original], optimizer.state[twin]
            assert torch.equal(remembered["exp_avg"], copied["exp_avg"])
            assert remembered["exp_avg"] is not copied["exp_avg"]
            assert torch.equal(remembered["step"], copied["step"])
    assert len(optimizer.param_groups) == 2
    step(model, optimizer)


def test_what_the_model_says_of_its_depth_agrees() -> None:
    model = decoder()
    repeat(model, trained(model), Run("layers", 0, 3))
    assert model.config.num_hidden_layers == 6
    assert model.config.layer_types == ["sliding", "full", "sliding"] * 2
    assert [block.layer_idx for block in model.layers] == list(range(6))
    assert all(block.config is model.config for block in model.layers)


def test_a_list_of_depths_changes_at_the_stage_that_grew() -> None:
    model = nn.Module()
    model.config = Depths()  # type: ignore[assignment]
    model.stages = nn.ModuleList([decoder(2), decoder(3)])
    repeat(model, torch.optim.SGD(model.parameters(), 0.1), Run("stages.1.layers", 0, 3))
    assert model.config.depths == [2, 6]


def test_a_list_that_follows_from_a_count_needs_no_setting() -> None:
    model = decoder()
    model.config = Derived()  # type: ignore[assignment]
    for block in model.layers:
        block.config = model.config
    repeat(model, trained(model), Run("layers", 0, 3))
    assert model.config.layer_types == ["mamba"] * 6


def test_blocks_behind_a_part_move_up() -> None:
    model = decoder()
    last = model.layers[2]
    repeat(model, trained(model), Run("layers", 0, 2))
    assert model.layers[4] is last
    assert [block.layer_idx for block in model.layers] == list(range(5))


def test_every_copy_runs_and_learns() -> None:
    model = decoder()
    optimizer = trained(model)
    copies = repeat(model, optimizer, Run("layers", 0, 3))
    prove(model, copies, lambda: model(X).square().mean(), key=1, original=("layers.0", model.layers[0]))


def test_copies_that_the_model_ignores_are_refused() -> None:
    model = decoder()
    model.config.num_hidden_layers = 2  # counts something else, so it isn't rewritten
    copies = repeat(model, trained(model), Run("layers", 0, 3))
    with pytest.raises(GraftFailed, match=r"layers\.3 ran 0 times"):
        prove(model, copies, lambda: model(X).square().mean(), key=1, original=("layers.0", model.layers[0]))


def test_taking_the_copies_out_leaves_what_was_there() -> None:
    model = decoder()
    optimizer = trained(model)
    before, remembered = copy.deepcopy(model.state_dict()), len(optimizer.state)
    repeat(model, optimizer, Run("layers", 0, 3))
    take_out(model, optimizer, Run("layers", 0, 3))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(optimizer.state) == remembered
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert (model.config.num_hidden_layers, model.config.layer_types) == (3, ["sliding", "full", "sliding"])


def test_a_count_that_cannot_be_set_is_refused_and_nothing_has_changed() -> None:
    class Frozen(Decoder):
        @property
        def depth(self) -> int:
            return 3

    torch.manual_seed(0)
    inner = decoder()
    model = Frozen(list(inner.layers), inner.config)
    optimizer = trained(model)
    names, members = list(model.state_dict()), [len(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(GraftFailed, match=r"Frozen\.depth is 3 and can't be set to 6"):
        repeat(model, optimizer, Run("layers", 0, 3))
    assert list(model.state_dict()) == names
    assert [len(group["params"]) for group in optimizer.param_groups] == members
    assert model.config.num_hidden_layers == 3


def test_a_module_that_all_blocks_share_stays_shared() -> None:
    model = decoder()
    shared = nn.Linear(8, 8)
    for block in model.layers:
        block.rotary = shared
    repeat(model, trained(model, steps=0), Run("layers", 0, 3))
    assert all(block.rotary.weight is shared.weight for block in model.layers)


def test_buffers_are_copied_and_live_apart() -> None:
    model, images = ResNet(), torch.randn(4, 3, 6, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step(model, optimizer, images)
    repeat(model, optimizer, Run("layer1", 1, 3))
    original, twin = model.layer1[1].bn, model.layer1[3].bn
    assert torch.equal(original.running_mean, twin.running_mean)
    step(model, optimizer, images)
    assert not torch.equal(original.running_mean, twin.running_mean)


# torch's own tracer looks at .grad of what it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_copy_of_a_compiled_block_runs_the_graphs_that_are_there() -> None:
    made, ran = 0, 0

    def counting(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal made
        made += 1

        def forward(*arguments: Any) -> Any:
            nonlocal ran
            ran += 1
            return graph.forward(*arguments)

        return forward

    plain_layers = nn.Sequential(*(Plain() for _ in range(3)))
    for block in plain_layers:
        block.compile(backend=counting)
    model = compiled_in_place(nn.Sequential(OrderedDict(layers=plain_layers, head=nn.Linear(8, 4))))
    optimizer = trained(model)
    before, runs = made, ran
    repeat(model, optimizer, Run("layers", 0, 3))
    step(model, optimizer)
    assert made == before
    assert ran == runs + 6
    assert len(compiled_parts(model)) == 6


def test_a_block_that_resists_copying_leaves_everything_as_before() -> None:
    model = decoder()
    model.layers[1].worker = Thread(target=print)
    optimizer = trained(model, steps=0)
    with pytest.raises(ConfigError, match=r"block.*worker"):
        repeat(model, optimizer, Run("layers", 0, 3))
    assert len(model.layers) == 3
