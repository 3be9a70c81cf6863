"""A host whose batches are mappings and whose outputs are a dataclass grows as one that takes and gives tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.kasmina.executor.conftest import ToyTask


@dataclass
class Outputs:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 6)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(6, 5)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(self.act1(self.fc1(features)))


class Formal(Host):
    def forward(self, *, features: Tensor, mask: Tensor) -> Outputs:
        return Outputs(self.fc2(self.act1(self.fc1(features * mask))), (features, mask))


class FormalTask(ToyTask):
    """The toy task in other clothes."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return super().loss(outputs.logits, targets["labels"])

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        return super().scores(outputs.logits, targets["labels"])

    def judge_batches(self) -> Iterator[Any]:
        return (_dressed(*batch) for batch in super().judge_batches())

    def probe_inputs(self) -> Any:
        return _dressed(super().probe_inputs(), None)[0]

    def batch(self, step: int) -> Any:
        return _dressed(*super().batch(step))


def _dressed(inputs: Tensor, targets: Tensor | None) -> Any:
    return {"features": inputs, "mask": inputs.new_ones(12)}, {"labels": targets}


@pytest.fixture
def pair(rig_of):
    """The same network in both clothes."""
    runs = []
    for host, task in ((Host, ToyTask((12,))), (Formal, FormalTask((12,)))):
        torch.manual_seed(3)
        runs.append(rig_of(host(), task))
    return runs


def test_slots_and_work_are_those_of_the_plain_host(pair):
    plain, formal = pair
    assert formal.executor.macs == plain.executor.macs
    assert formal.executor.manifest().slots == plain.executor.manifest().slots


def test_training_judging_and_culling_are_bit_for_bit_those_of_the_plain_host(pair):
    scores = []
    for run in pair:
        run.train(3)
        run.graft("span.linear", "span_linear:fc1-fc2", width=4)
        run.train(6)
        collected = run.do(run.directive("PROBE"), run.directive("JUDGE", look=1))
        (evidence,) = collected.observations
        judged = evidence.judgement
        scores.append((judged.twin.mean, judged.muted.mean))
        run.do(run.directive("INSTALL_TWIN"))
        run.train(2)
    assert scores[0] == scores[1]
    assert scores[0][0] != 0.0
    assert pair[0].arm.digest() == pair[1].arm.digest()
