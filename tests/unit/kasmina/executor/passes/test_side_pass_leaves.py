"""Whatever foreign code does to a module in a side pass is undone: counters, caches, generators, containers."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from esper.kasmina.executor.passes.side_pass import side_pass


class Busy(nn.Module):
    """Changes something of every kind in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.calls = 0
        self.history: list[int] = []
        self.recent: deque[int] = deque([7, 8], maxlen=2)
        self.nested = {"sizes": [1, 2], "seen": {1}}
        self.draws = torch.Generator().manual_seed(3)
        self.average = torch.zeros(3)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(self.calls)
        self.recent.append(self.calls)
        self.nested["sizes"][0] += 1
        self.nested["seen"].add(self.calls + 10)
        self.nested[f"call {self.calls}"] = []
        self.last = x
        self.average.add_(1.0)
        self.steps = self.steps + 1
        self.made = nn.Linear(3, 3)
        self.register_forward_hook(lambda *_: None)
        return self.fc(x) + torch.rand(3, generator=self.draws)


def state_of(model: Busy) -> dict[str, object]:
    return {
        "names": sorted(vars(model)),
        "modules": list(model._modules),
        "buffers": {name: (id(buffer), buffer.tolist()) for name, buffer in model.named_buffers()},
        "hooks": len(model._forward_hooks),
        "average": (id(model.average), model.average.tolist()),
        "draws": (id(model.draws), model.draws.get_state().tolist()),
        "containers": [id(model.history), id(model.recent), id(model.nested), id(model.nested["sizes"])],
        "content": repr((model.calls, model.history, model.recent, model.nested)),
    }


def test_attributes_containers_generators_and_plain_tensors_are_as_before():
    model = Busy()
    before = state_of(model)
    with side_pass([model], key=1, training=False):
        model(torch.randn(2, 3))
        model(torch.randn(2, 3))
    assert state_of(model) == before


def test_a_pass_inside_a_pass_gives_back_what_the_outer_one_had():
    model = Busy()
    with side_pass([model], key=1, training=False):
        model(torch.randn(2, 3))
        with side_pass([model], key=2, training=False):
            model(torch.randn(2, 3))
        assert model.calls == 1
        assert model.nested["sizes"] == [2, 2]
    assert model.calls == 0


def test_a_cached_activation_of_the_last_step_keeps_its_graph():
    model = nn.Linear(3, 3)
    x = torch.randn(2, 3, requires_grad=True)
    model.cached = torch.exp(x)
    with side_pass([model], key=1, training=None):
        model.cached = None
    model.cached.sum().backward()
    assert x.grad is not None


def test_a_container_that_holds_itself_is_put_back():
    model = nn.Linear(2, 2)
    model.ring = [1]
    model.ring.append(model.ring)
    with side_pass([model], key=1, training=None):
        model.ring.clear()
    assert model.ring[0] == 1
    assert model.ring[1] is model.ring


def test_a_lazy_module_that_learnt_its_sizes_inside_keeps_them():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    with side_pass([model], key=1, training=False):
        model(torch.randn(2, 3))
    assert model[0].weight.shape == (4, 3)
    assert model(torch.randn(5, 3)).shape == (5, 4)


def test_what_hides_in_other_objects_is_not_seen():
    model = nn.Linear(2, 2)
    model.state = SimpleNamespace(steps=0)
    with side_pass([model], key=1, training=None):
        model.state.steps = 5
    assert model.state.steps == 5
