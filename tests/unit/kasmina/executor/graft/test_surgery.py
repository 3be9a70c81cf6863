from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.surgery import adopt_shapes, replace_parameter


def test_a_replaced_parameter_keeps_its_place_and_can_be_put_back():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD([{"params": [layer.bias]}, {"params": [layer.weight]}], lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    old, buffer = layer.weight, optimizer.state[layer.weight]["momentum_buffer"]
    undo = replace_parameter(layer, "weight", torch.zeros(5, 3), optimizer, {"momentum_buffer": torch.ones(5, 3)})
    assert layer.weight.shape == (5, 3)
    assert optimizer.param_groups[1]["params"][0] is layer.weight
    assert old not in optimizer.state
    undo()
    assert layer.weight is old
    assert optimizer.param_groups[1]["params"] == [old]
    assert optimizer.state[old]["momentum_buffer"] is buffer


def test_a_model_adopts_the_shapes_of_saved_tensors():
    def model(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(4 * width, 2))

    small, wide = model(3), model(5)
    optimizer = torch.optim.Adam(small.parameters())
    adopt_shapes(small, wide.state_dict(), optimizer)
    small.load_state_dict(wide.state_dict())
    assert (small[0].out_channels, small[1].num_features, small[3].in_features) == (5, 5, 20)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small.parameters()]
    inputs = torch.randn(2, 1, 4, 4)
    assert torch.equal(small.eval()(inputs), wide.eval()(inputs))


def _wide(optimizer: torch.optim.Optimizer, layer: nn.Linear) -> None:
    replace_parameter(layer, "weight", torch.ones(5, 3), optimizer, {})


def test_hooks_and_attributes_move_with_a_parameter_and_their_handles_keep_their_hold():
    layer, halved = nn.Linear(3, 2, bias=False), []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.weight.no_decay = True
    handle = layer.weight.register_hook(lambda gradient: gradient * 0)
    layer.weight.register_post_accumulate_grad_hook(lambda parameter: halved.append(parameter))
    _wide(optimizer, layer)
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.no_decay
    assert halved == [layer.weight]
    assert float(layer.weight.grad.abs().sum()) == 0
    handle.remove()
    layer(torch.ones(1, 3)).sum().backward()
    assert float(layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("hook", [lambda gradient: gradient * torch.ones(2, 3), lambda gradient: torch.ones(1)])
def test_a_hook_that_knows_the_old_shape_by_heart_is_refused_before_anything_changes(hook):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.weight.register_hook(hook)
    old = layer.weight
    with pytest.raises(GraftFailed, match="a gradient hook on weight"):
        _wide(optimizer, layer)
    assert layer.weight is old
    assert optimizer.param_groups[0]["params"][0] is old


def test_a_model_adopts_the_layout_of_saved_tensors():
    def model(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, width, 3), nn.Conv2d(width, 4, 3))

    saved = model(5).to(memory_format=torch.channels_last).state_dict()
    for width in (3, 5):
        host = model(width)
        optimizer = torch.optim.Adam(host.parameters())
        members = list(host.parameters())
        adopt_shapes(host, saved, optimizer)
        host.load_state_dict(saved)
        assert [p.stride() for p in host.parameters()] == [tensor.stride() for tensor in saved.values()]
        assert all(torch.equal(p, tensor) for p, tensor in zip(host.parameters(), saved.values(), strict=True))
        assert width == 3 or members == list(host.parameters())
