from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.executor.passes.trace import submodule_specs, trace_forward


class Repeating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def test_visits_name_order_shapes_and_repetitions():
    model = Repeating()
    trace = trace_forward(model, torch.randn(2, 4))
    assert trace.repeated == {"layer"}
    assert [visit.path for visit in trace] == ["layer"]
    assert trace.visits["layer"].output_shape == (2, 4)
    assert not model.layer._forward_hooks


def test_specs_list_modules_with_parameters_in_forward_order():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
    specs = submodule_specs(model, trace_forward(model, torch.randn(7, 3)))
    assert [(spec.path, spec.class_name, spec.parameters) for spec in specs] == [
        ("0", "Linear", 20),
        ("2", "Linear", 10),
    ]
    assert list(specs[0].output_shape) == [5]
    assert specs[0].dtype == "float32"


class Borrowing(nn.Module):
    """Three layers, of which one's weight is used by a function and another's only asked for its form."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc3(self.fc2(self.fc1(x)).to(self.fc2.weight.dtype).view(-1, self.fc2.weight.shape[0]))
        return nn.functional.linear(x, self.fc1.weight)


def test_a_weight_that_something_else_computes_with_is_told_and_one_that_is_asked_for_its_form_is_not():
    model = Borrowing()
    assert trace_forward(model, torch.randn(2, 4)).read_elsewhere == {"fc1.weight"}
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_layers_of_one_weight_read_it_each_by_themselves():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert trace_forward(model, torch.randn(2, 4)).read_elsewhere == set()
