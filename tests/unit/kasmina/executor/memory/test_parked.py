"""An arm that waited is the arm that it was, bit for bit, tensors being the objects that they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.executor.memory.parked import Parked, bytes_of, copied_to_host, empty, tensors
from tests.unit.kasmina.executor.conftest import TokenTask, Transformer


class Tied(Transformer):
    """Weights that are used twice, and a view of one as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = nn.Parameter(self.tokens.weight.detach()[:7])
        self.register_buffer("view", self.positions.detach()[:2])


@pytest.fixture
def arm(rig_of):
    run = rig_of(Tied(), TokenTask())
    run.train(3)
    return run.arm


def test_a_parked_arm_takes_no_memory_and_comes_back_as_it_was(arm):
    twin, before = arm.clone(), [tensor.detach().clone() for tensor in tensors(arm)]
    held, objects = bytes_of(tensors(arm)), [id(tensor) for tensor in tensors(arm)]
    parked = Parked()
    parked.take(arm, beside=twin)
    assert bytes_of(tensors(arm)) == 0
    assert parked.size_bytes == held
    parked.take(arm, beside=twin)
    assert parked.size_bytes == held
    parked.put_back()
    assert parked.size_bytes == 0
    assert [id(tensor) for tensor in tensors(arm)] == objects
    assert all(torch.equal(a, b) for a, b in zip(tensors(arm), before, strict=True))
    assert arm.digest() == twin.digest()
    assert arm.model.view.data_ptr() == arm.model.positions.data_ptr()


def test_what_another_arm_owns_too_stays(arm):
    other = arm.clone()
    other.model.head.weight.data = arm.model.head.weight.data
    parked = Parked()
    parked.take(arm, beside=other)
    assert torch.isfinite(other.model.head.weight).all()
    assert arm.model.head.weight.untyped_storage().nbytes() > 0


def test_an_arm_that_is_emptied_gives_its_memory_back(arm):
    empty(arm, beside=arm.clone())
    assert bytes_of(tensors(arm)) == 0


def test_a_copy_on_the_host_is_apart_and_shares_what_was_shared(arm):
    state = arm.state_dict()
    copied = copied_to_host(state)
    weight, view = copied["model"]["positions"], copied["model"]["view"]
    assert torch.equal(weight, arm.model.positions)
    assert weight.data_ptr() == view.data_ptr() != arm.model.positions.data_ptr()
    assert copied["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
