from __future__ import annotations

import torch
from torch import nn

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
