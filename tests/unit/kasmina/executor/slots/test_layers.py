"""What growth asks of a layer is answered without computing anything: its state may depend on how often it computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from esper.kasmina.executor.slots.layers import (
    Side,
    features_in,
    features_out,
    growing_dim,
    is_turned,
    stored_parameter,
)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
        lambda layer: layer,
    ],
)
def test_the_parameter_behind_a_name_is_found_without_computing_anything(norm):
    layer = norm(nn.Linear(3, 3))
    layer.train()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    found = stored_parameter(layer, "weight")
    assert any(found is parameter for name, parameter in layer.named_parameters() if name != "bias")
    assert stored_parameter(layer, "bias") is layer.bias
    assert stored_parameter(layer, "absent") is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_transposed_linear_layer_is_known_by_its_name_and_sizes():
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf, self.nx = 3, 2
            self.weight = nn.Parameter(torch.zeros(2, 3))

    layer, other = Conv1D(), nn.Linear(2, 3)
    assert is_turned(layer)
    assert not is_turned(other)
    assert (features_in(layer), features_out(layer)) == (features_in(other), features_out(other)) == (2, 3)
    assert [growing_dim(layer, "weight", side) for side in Side] == [1, 0, 0]
    assert [growing_dim(other, "weight", side) for side in Side] == [0, 1, 0]
    assert growing_dim(layer, "bias", Side.ROWS) == 0
