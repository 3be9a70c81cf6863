from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.executor.passes.side_pass import side_pass
from tests.unit.kasmina.executor.stateful_hosts import HOSTS, INPUTS, step


def host() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))


def fail_inside(model: nn.Module) -> None:
    with side_pass([model], key=1, training=True):
        assert model[0].training
        model(torch.randn(8, 3))
        raise RuntimeError("stop")


def test_flags_buffers_and_generators_are_as_before_even_after_a_failure():
    model = host()
    model[0].eval()
    buffers = [buffer.clone() for buffer in model.buffers()]
    generator = torch.default_generator.get_state()
    with pytest.raises(RuntimeError, match="stop"):
        fail_inside(model)
    assert [part.training for part in model] == [False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    assert torch.equal(torch.default_generator.get_state(), generator)


def test_without_a_mode_each_module_keeps_its_own():
    model = host()
    model[0].eval()
    with side_pass([model], key=1, training=None):
        assert [part.training for part in model] == [False, True, True]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_a_host_learns_the_same_whether_or_not_it_was_measured(build):
    torch.manual_seed(0)
    measured = build()
    torch.manual_seed(0)
    plain = build()
    for _ in range(2):
        for mode in (False, None):
            with side_pass([measured], key=1, training=mode):
                measured(INPUTS)
        assert torch.equal(step(measured), step(plain))
